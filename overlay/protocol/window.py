"""End-to-end flow control on a circuit: a window of cells, opened again by SENDME.

Each end counts clove or response cells only; SENDME, PING and the rest always pass. See docs/spec/cells.md.
"""

from overlay.protocol.violation import CircuitViolationError
from overlay.wire.limits import ACK_CELLS, WINDOW_CELLS


class SendWindow:
    """How many more cells this end may send."""

    __slots__ = ("open_cells",)

    def __init__(self) -> None:
        self.open_cells = WINDOW_CELLS

    def credit(self) -> None:
        """Take a SENDME in. One that was not earned is a violation."""
        if self.open_cells + ACK_CELLS > WINDOW_CELLS:
            raise CircuitViolationError("a SENDME for cells that were never sent")
        self.open_cells += ACK_CELLS


class ReceiveWindow:
    """Counts what came in, and says when a SENDME is due."""

    __slots__ = ("_unacknowledged",)

    def __init__(self) -> None:
        self._unacknowledged = 0

    def receive(self) -> bool:
        """Count one cell; True when the other end must be sent a SENDME now."""
        self._unacknowledged += 1
        if self._unacknowledged < ACK_CELLS:
            return False
        self._unacknowledged = 0
        return True
