"""All circuits that a client keeps, a set for each model node that it uses, and what it has learnt of relays.

Blame for failed circuits is shared by all sets and fades; the guards come from the daemon, which keeps them for months.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import trio

from crypto.entropy import Entropy
from crypto.errors import CryptoError
from crypto.identity import NodeId
from crypto.onion import BuildTerms, Hop, OnionPublicKey
from overlay.client.circuit_set import CircuitSet
from overlay.client.pooled_circuit import PooledCircuit
from overlay.errors import LocalProtocolError, NoRouteError, UnreachableError
from overlay.protocol.circuit import CircuitTimeouts
from overlay.routing.blame import Blame
from overlay.routing.diversity import Diversity
from overlay.routing.paths import Path, choose_paths, choose_replacement
from overlay.transport.switch import Switch
from overlay.wire.descriptor import Descriptor

LINK_TIMEOUT_S = 8.0
IDLE_SET_S = 120.0
MAX_SETS = 16
CELLS_PER_S = 400
"""Quota that a client asks of its relays for one circuit."""
_T = TypeVar("_T")


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
    def path_count(self) -> int:
        """How many circuits each set has."""
        return self.policy.n

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

    def close(self) -> None:
        """This node leaves: end all circuits and build no others."""
        for kept in self.sets:
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
