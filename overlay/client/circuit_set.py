"""n circuits over disjoint paths to one model node, each rebuilt when it ends.

A slot for each path; a task for each slot builds its circuit, waits until it ends, and builds another over a path that
is disjoint from the others, at once and then with growing pauses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from crypto.identity import NodeId
from overlay.client.pooled_circuit import PooledCircuit
from overlay.errors import NoRouteError
from overlay.routing.paths import Path

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
FLEETING_S = 1.0
"""A circuit that ends sooner is rebuilt after a pause, as one that never opened: else who lets us build and then
destroys keeps us building as fast as the network goes."""
LONGEST_PLAN_PAUSE_S = 1.0
PLAN_TIMEOUT_S = 5.0
"""How long a prompt waits for a directory that gives disjoint paths, before it waits for circuits over them."""


class CircuitMaker(Protocol):
    """What a set needs of the pool that it belongs to."""

    @property
    def path_count(self) -> int:
        """How many circuits a set has."""

    def choose_all(self, destination: NodeId) -> tuple[Path, ...]:
        """Disjoint paths for a whole set. Raises NoRouteError."""

    def choose_one(self, destination: NodeId, others: Sequence[Path]) -> Path:
        """A path beside those in use. Raises NoRouteError."""

    async def build(self, circuit: PooledCircuit) -> str | None:
        """Open a circuit over its path. Returns what went wrong, for people; None once it is open."""

    def note_closed(self, circuit: PooledCircuit) -> None:
        """A circuit ended."""

    def count_failure(self, relays: Sequence[NodeId]) -> None:
        """Blame the relays of a path that failed."""


@dataclass(slots=True, eq=False)
class _Slot:
    index: int
    path: Path | None = None
    circuit: PooledCircuit | None = None
    problem: str | None = None


Rebuilt = Callable[[int, PooledCircuit], None]


class CircuitSet:
    """n circuits to one destination, each rebuilt when it ends."""

    def __init__(self, maker: CircuitMaker, destination: NodeId) -> None:
        self.destination = destination
        self.last_used = trio.current_time()
        self.watchers: set[Rebuilt] = set()
        """Told when a slot has a new circuit; requests that lost theirs go on over it."""
        self.scope = trio.CancelScope()
        self._maker = maker
        self._slots = [_Slot(index) for index in range(maker.path_count)]
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
            self._maker.count_failure(circuit.path.node_ids)
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
                return self._maker.choose_all(self.destination)
            except NoRouteError as error:
                self._slots[0].problem = str(error)
                self._signal()
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PLAN_PAUSE_S)

    async def _keep(self, slot: _Slot, planned: Path) -> None:
        path: Path | None = planned
        pause_s = FIRST_PAUSE_S
        while True:
            began = trio.current_time()
            opened = path is not None and await self._build(slot, path)
            if opened and trio.current_time() - began >= FLEETING_S:
                pause_s = FIRST_PAUSE_S
            else:
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            path = self._choose_other(slot)

    async def _build(self, slot: _Slot, path: Path) -> bool:
        """Build one circuit and wait for its end; False if it never opened."""
        slot.path = path
        slot.circuit = circuit = PooledCircuit(path)
        slot.problem = await self._maker.build(circuit)
        self._signal()
        if slot.problem is None:
            for watcher in list(self.watchers):
                # What one request sends may be too much for it; the others then wait for the next.
                if circuit.is_open:
                    watcher(slot.index, circuit)
            await circuit.closed.wait()
        self._maker.note_closed(circuit)
        slot.circuit = None
        return slot.problem is None

    def _choose_other(self, slot: _Slot) -> Path | None:
        others = [other.path for other in self._slots if other is not slot and other.path is not None]
        try:
            return self._maker.choose_one(self.destination, others)
        except NoRouteError as error:
            slot.problem = str(error)
            self._signal()
            return None

    def _signal(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
