"""What waits to be written on a link: cells, fairly between circuits, and control frames. Bounded."""

from collections import deque

import trio

from overlay.wire.limits import (
    CELL_BYTES,
    LINK_CIRCUIT_QUEUE_CELLS,
    LINK_CONTROL_QUEUE_BYTES,
    LINK_QUEUE_CELLS,
)

WRITE_BYTES = 64 * 1024
"""What one write takes from a queue at most, unless a single frame is longer."""


class CellQueue:
    """Cells by circuit, taken one from each in turn, so that a busy circuit can't starve a calm one."""

    def __init__(self) -> None:
        self._circuits: dict[int, deque[bytes]] = {}
        self._turns: deque[int] = deque()  # every circuit with cells, once
        self._count = 0
        self._filled = trio.Event()

    def __len__(self) -> int:
        return self._count

    def put(self, circ_id: int, cell: bytes, *, ends: bool = False) -> bool:
        """Adds a cell; False, and nothing added, where that circuit's queue or the whole is full.

        ends: the cell ends its circuit and always fits: where there is no room, it takes the place of all that
        waits there.
        """
        waiting = self._circuits.get(circ_id)
        is_full = waiting is not None and len(waiting) >= LINK_CIRCUIT_QUEUE_CELLS
        if is_full or self._count >= LINK_QUEUE_CELLS:
            if not ends:
                return False
            if waiting is not None:
                self._count -= len(waiting)
                waiting.clear()
        if waiting is None:
            self._circuits[circ_id] = waiting = deque()
            self._turns.append(circ_id)
        waiting.append(cell)
        self._count += 1
        self._filled.set()
        return True

    async def take(self) -> bytes:
        """Waits for cells and returns up to WRITE_BYTES of them, end to end."""
        while not self._count:
            self._filled = trio.Event()
            await self._filled.wait()
        cells: list[bytes] = []
        while self._turns and len(cells) < WRITE_BYTES // CELL_BYTES:
            circ_id = self._turns.popleft()
            waiting = self._circuits[circ_id]
            cells.append(waiting.popleft())
            if waiting:
                self._turns.append(circ_id)
            else:
                del self._circuits[circ_id]
        self._count -= len(cells)
        return b"".join(cells)


class FrameQueue:
    """Control frames, in order, bounded by bytes."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._held_bytes = 0
        self._filled = trio.Event()
        self._drained = trio.Event()
        self._drained.set()

    def put(self, frame: bytes, *, urgent: bool = False) -> bool:
        """Adds a frame; False where there is no room. The link's own few frames are urgent and always fit."""
        if not urgent and self._held_bytes + len(frame) > LINK_CONTROL_QUEUE_BYTES:
            return False
        self._frames.append(frame)
        self._held_bytes += len(frame)
        if self._drained.is_set():
            self._drained = trio.Event()
        self._filled.set()
        return True

    async def take(self) -> bytes:
        """Waits for frames and returns up to WRITE_BYTES of them (one at least), end to end."""
        while not self._frames:
            self._drained.set()  # whoever takes has written what it took before
            self._filled = trio.Event()
            await self._filled.wait()
        taken = [self._frames.popleft()]
        size = len(taken[0])
        while self._frames and size + len(self._frames[0]) <= WRITE_BYTES:
            size += len(self._frames[0])
            taken.append(self._frames.popleft())
        self._held_bytes -= size
        return taken[0] if len(taken) == 1 else b"".join(taken)

    async def wait_drained(self) -> None:
        """Waits until all that was put has been taken and written."""
        await self._drained.wait()
