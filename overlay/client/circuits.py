"""The circuits that a client keeps: n over disjoint paths to each model node that it uses.

A set of circuits has one slot for each path. A task for each slot builds its circuit, waits until it ends, and
builds another over a path that is disjoint from the others, at once and then with growing pauses. Blame for
failed circuits is shared by all sets and fades.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, assert_never

import trio

from crypto.entropy import Entropy
from crypto.errors import CryptoError
from crypto.identity import NodeId
from crypto.onion import BuildTerms, Hop, OnionPublicKey
from overlay.errors import LocalProtocolError, NoRouteError, UnreachableError
from overlay.protocol.circuit import (
    CircuitBuilt,
    CircuitClosed,
    CircuitEvent,
    CircuitTimeouts,
    CloveUndelivered,
    PongReceived,
    ResponseReceived,
)
from overlay.routing.blame import Blame
from overlay.routing.diversity import Diversity
from overlay.routing.paths import Path, choose_paths, choose_replacement
from overlay.transport.switch import OwnCircuit, Switch
from overlay.wire.descriptor import Descriptor

_T = TypeVar("_T")

LINK_TIMEOUT_S = 8.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
LONGEST_PLAN_PAUSE_S = 1.0
PLAN_TIMEOUT_S = 5.0
"""How long a prompt waits for a directory that gives disjoint paths, before it waits for circuits over them."""
IDLE_SET_S = 120.0
MAX_SETS = 16
CELLS_PER_S = 400
"""Quota that a client asks of its relays for one circuit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathPolicy:
    """How many paths of how many relays, how different, and for how long a circuit lives."""

    n: int = 4
    hops: int = 3
    diversity: Diversity = Diversity.STRICT
    lifetime_s: int = 600

    @property
    def relays_needed(self) -> int:
        """How many different relays one set of circuits takes."""
        return self.n * self.hops


@dataclass(slots=True, eq=False)
class PooledCircuit:
    """A circuit of a set, and who waits for answers on it. Implements `CircuitListener`."""

    path: Path
    own: OwnCircuit | None = None
    cause: str | None = None
    """Why it closed; None while it is open or being built."""
    settled: trio.Event = field(default_factory=trio.Event)
    """Set once it is open, or closed."""
    closed: trio.Event = field(default_factory=trio.Event)
    blamed: tuple[NodeId, ...] = ()
    subscribers: dict[bytes, Callable[[CircuitEvent], None]] = field(default_factory=dict)
    """By message id; each is told of events for its message and of the circuit's end."""

    @property
    def is_open(self) -> bool:
        """Whether cloves can be sent on it."""
        return self.own is not None and self.settled.is_set() and not self.closed.is_set()

    @property
    def opened(self) -> OwnCircuit:
        """The circuit itself. Raises LocalProtocolError before it was started."""
        if self.own is None:
            raise LocalProtocolError("this circuit was not started")
        return self.own

    def circuit_event(self, event: CircuitEvent) -> None:
        """Pass an event on to whom it concerns."""
        match event:
            case CircuitBuilt():
                self.settled.set()
            case CircuitClosed(cause, blamed):
                self.cause, self.blamed = cause, blamed
                self.settled.set()
                self.closed.set()
                for told in list(self.subscribers.values()):
                    told(event)
            case ResponseReceived(message) | CloveUndelivered(message):
                if (subscriber := self.subscribers.get(message)) is not None:
                    subscriber(event)
            case PongReceived():
                pass
            case _:
                assert_never(event)


@dataclass(slots=True, eq=False)
class _Slot:
    index: int
    path: Path | None = None
    circuit: PooledCircuit | None = None
    problem: str | None = None


Rebuilt = Callable[[int, PooledCircuit], None]


class CircuitSet:
    """n circuits to one destination, each rebuilt when it ends."""

    def __init__(self, pool: "CircuitPool", destination: NodeId) -> None:
        self.destination = destination
        self.last_used = trio.current_time()
        self.watchers: set[Rebuilt] = set()
        """Told when a slot has a new circuit; requests that lost theirs go on over it."""
        self.scope = trio.CancelScope()
        self._pool = pool
        self._slots = [_Slot(index) for index in range(pool.policy.n)]
        self._changed = trio.Event()

    @property
    def circuits(self) -> list[PooledCircuit]:
        """All circuits, open or being built, in the order of their slots."""
        return [slot.circuit for slot in self._slots if slot.circuit is not None]

    @property
    def open_count(self) -> int:
        """How many slots have an open circuit."""
        return sum(circuit.is_open for circuit in self.circuits)

    @property
    def paths(self) -> list[Path]:
        """The paths in use."""
        return [slot.path for slot in self._slots if slot.path is not None]

    async def wait_open(self, timeout_s: float) -> list[PooledCircuit]:
        """All n circuits, once they are open.

        Raises:
            NoRouteError: they are not within `timeout_s`; the message says what stands in the way.
        """
        with trio.move_on_after(timeout_s):
            with trio.move_on_after(PLAN_TIMEOUT_S):
                while not self.paths:
                    await self._changed.wait()
            while self.paths and self.open_count < len(self._slots):
                await self._changed.wait()
        if self.open_count == len(self._slots):
            return self.circuits
        problems = sorted({slot.problem for slot in self._slots if slot.problem is not None})
        raise NoRouteError(
            f"{self.open_count} of {len(self._slots)} circuits could be built"
            + "".join(f"; {problem}" for problem in problems)
        )

    def retire(self, circuit: PooledCircuit) -> None:
        """A circuit misbehaves: blame its relays and close it; its slot builds another."""
        if circuit.is_open:
            self._pool.count_failure(circuit.path.node_ids)
            circuit.opened.close()

    async def serve(self) -> None:
        """Keep every slot filled until `scope` is cancelled; then close the circuits."""
        with self.scope:
            try:
                paths = await self._plan()
                async with trio.open_nursery() as nursery:
                    for slot, path in zip(self._slots, paths, strict=True):
                        nursery.start_soon(self._keep, slot, path)
            finally:
                for circuit in self.circuits:
                    if circuit.own is not None and not circuit.closed.is_set():
                        circuit.own.close()

    async def _plan(self) -> tuple[Path, ...]:
        """Paths that fit beside each other, once the directory gives them."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return self._pool.choose_all(self.destination)
            except NoRouteError as error:
                self._slots[0].problem = str(error)
                self._signal()
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PLAN_PAUSE_S)

    async def _keep(self, slot: _Slot, planned: Path) -> None:
        path: Path | None = planned
        pause_s = FIRST_PAUSE_S
        while True:
            if path is not None and await self._build(slot, path):
                pause_s = FIRST_PAUSE_S
            else:
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            path = self._choose_other(slot)

    async def _build(self, slot: _Slot, path: Path) -> bool:
        """Build one circuit and wait for its end; False if it never opened."""
        slot.path = path
        slot.circuit = circuit = PooledCircuit(path)
        slot.problem = await self._pool.build(circuit)
        self._signal()
        if slot.problem is None:
            for watcher in list(self.watchers):
                watcher(slot.index, circuit)
            await circuit.closed.wait()
        self._pool.note_closed(circuit)
        slot.circuit = None
        return slot.problem is None

    def _choose_other(self, slot: _Slot) -> Path | None:
        others = [other.path for other in self._slots if other is not slot and other.path is not None]
        try:
            return self._pool.choose_one(self.destination, others)
        except NoRouteError as error:
            slot.problem = str(error)
            self._signal()
            return None

    def _signal(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class CircuitPool:
    """All circuit sets of a client, and what it remembers of relays: guards and blame."""

    def __init__(
        self,
        switch: Switch,
        policy: PathPolicy,
        *,
        guards: Callable[[], Sequence[NodeId]],
        entropy: Entropy,
        unix_time: Callable[[], float],
    ) -> None:
        self.policy = policy
        self.built = 0
        self.failed = 0
        self._switch = switch
        self._guards = guards
        self._entropy = entropy
        self._unix_time = unix_time
        self._blame = Blame()
        self._sets: dict[NodeId, CircuitSet] = {}
        self._nursery: trio.Nursery | None = None

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run all sets until cancelled; sets that nobody uses any more are closed, but for the newest."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                await trio.sleep(IDLE_SET_S / 4)
                self._close_idle()

    @property
    def sets(self) -> tuple[CircuitSet, ...]:
        """The sets that are kept now."""
        return tuple(self._sets.values())

    def to(self, destination: NodeId) -> CircuitSet:
        """The circuits to a model node; begun to be built now if there are none yet.

        Raises:
            NoRouteError: too many sets are in use at once.
        """
        found = self._sets.get(destination)
        if found is None:
            if self._nursery is None:
                raise LocalProtocolError("the pool is not running")
            self._make_room()
            found = self._sets[destination] = CircuitSet(self, destination)
            self._nursery.start_soon(found.serve)
        found.last_used = trio.current_time()
        return found

    def is_warm(self, destination: NodeId) -> bool:
        """Whether all circuits to this node are open."""
        found = self._sets.get(destination)
        return found is not None and found.open_count == self.policy.n

    def _make_room(self) -> None:
        if len(self._sets) < MAX_SETS:
            return
        idle = [kept for kept in self._sets.values() if not kept.watchers]
        if not idle:
            raise NoRouteError(f"circuits to {MAX_SETS} model nodes are in use; wait for an answer to end")
        self._close(min(idle, key=lambda kept: kept.last_used))

    def _close_idle(self) -> None:
        newest = max(self._sets.values(), key=lambda kept: kept.last_used, default=None)
        for kept in list(self._sets.values()):
            idle_s = trio.current_time() - kept.last_used
            if kept is not newest and not kept.watchers and idle_s > IDLE_SET_S:
                self._close(kept)

    def _close(self, kept: CircuitSet) -> None:
        del self._sets[kept.destination]
        kept.scope.cancel()

    # --- paths ------------------------------------------------------------------------------------------

    def choose_all(self, destination: NodeId) -> tuple[Path, ...]:
        """Disjoint paths for a whole set. Raises NoRouteError."""
        return self._forgiving(
            destination,
            lambda excluded: choose_paths(
                self._switch.directory,
                client=self._switch.node_id,
                destination=destination,
                guards=self._guards(),
                entropy=self._entropy,
                n=self.policy.n,
                hops=self.policy.hops,
                excluded=excluded,
                diversity=self.policy.diversity,
            ),
        )

    def choose_one(self, destination: NodeId, others: Sequence[Path]) -> Path:
        """A path beside those in use. Raises NoRouteError."""
        return self._forgiving(
            destination,
            lambda excluded: choose_replacement(
                self._switch.directory,
                client=self._switch.node_id,
                destination=destination,
                others=others,
                guards=self._guards(),
                entropy=self._entropy,
                hops=self.policy.hops,
                excluded=excluded,
                diversity=self.policy.diversity,
            ),
        )

    def _forgiving(self, destination: NodeId, choose: Callable[[frozenset[NodeId]], _T]) -> _T:
        """Choose without those that are blamed; where too few are left without them, the least blamed come back."""
        now = trio.current_time()
        ends = (self._switch.node_id, destination)
        usable = sum(relay.node_id not in ends for relay in self._switch.directory.relays())
        at_most = max(0, usable - self.policy.relays_needed)
        while True:
            excluded = self._blame.excluded(now, at_most=at_most)
            try:
                return choose(excluded)
            except NoRouteError:
                if not excluded:
                    raise
            at_most = len(excluded) // 2

    # --- building ---------------------------------------------------------------------------------------

    async def build(self, circuit: PooledCircuit) -> str | None:
        """Open a circuit over its path. Returns what went wrong, for people; None once it is open."""
        guard = circuit.path.guard
        try:
            with trio.fail_after(LINK_TIMEOUT_S):
                await self._switch.link_to(guard)
        except (UnreachableError, trio.TooSlowError):
            self.count_failure((guard,))
            return "a guard can't be reached"
        try:
            circuit.own = self._switch.open_circuit(
                [self._hop(relay) for relay in circuit.path.relays],
                self._terms(),
                circuit,
                timeouts=CircuitTimeouts(idle_s=None),
            )
        except (LocalProtocolError, CryptoError, ValueError) as error:
            self.count_failure(circuit.path.node_ids)
            return f"a circuit can't be started: {error}"
        await circuit.settled.wait()
        if circuit.closed.is_set():
            return f"a circuit could not be built ({circuit.cause})"
        self.built += 1
        self._blame = self._blame.absolved(circuit.path.node_ids, trio.current_time())
        return None

    def _hop(self, relay: Descriptor) -> Hop:
        newest = relay.onion_keys[-1]
        return Hop(relay.node_id, OnionPublicKey(newest.public), newest.epoch, relay.difficulty)

    def _terms(self) -> BuildTerms:
        # A tenth more or less, so that circuits built together don't end together.
        jitter = 0.9 + 0.2 * self._entropy(1)[0] / 255
        return BuildTerms(
            lifetime_s=max(1, int(self.policy.lifetime_s * jitter)),
            quota=CELLS_PER_S,
            unix_minute=int(self._unix_time()) // 60,
        )

    def note_closed(self, circuit: PooledCircuit) -> None:
        """A circuit ended: blame those that its machine blames."""
        if circuit.blamed:
            self.count_failure(circuit.blamed)

    def count_failure(self, relays: Sequence[NodeId]) -> None:
        """Blame the relays of a path that failed."""
        self.failed += 1
        self._blame = self._blame.blamed(relays, trio.current_time())
