"""How well each path of an answer does, as its client sees it: lost cells, silence, forgery."""

from collections.abc import Iterable
from dataclasses import dataclass, field

SEQUENCE_WINDOW = 1024
LOSS_LIMIT = 0.05
LOSS_MIN_CELLS = 60
LOSS_MEMORY_CELLS = 400
SILENT_MIN_CELLS = 10
LONGEST_STEP_S = 0.2
"""Time between two looks at the clock counts for at most this much of a path's silence."""


class ObservedClock:
    """Time as far as a machine could observe it.

    A process that was stopped for some seconds finds the cells of one link before those of the next. It must
    not blame a path for its own absence, so a path's silence is measured in observed time.
    """

    __slots__ = ("_last_now", "observed_s")

    def __init__(self, now: float) -> None:
        self._last_now = now
        self.observed_s = 0.0

    def observe(self, now: float) -> None:
        """Lets time pass, as far as it was seen to."""
        self.observed_s += min(max(now - self._last_now, 0.0), LONGEST_STEP_S)
        self._last_now = now


@dataclass(slots=True)
class SequenceWindow:
    """Which sequences of a path were seen: the highest, and a bit for each of a window below it."""

    highest: int = -1
    seen: int = 0
    expected: int = 0
    received: int = 0

    def accept(self, sequence: int) -> bool:
        """Notes a sequence; False if it was seen before, or is too old to tell."""
        ahead = sequence - self.highest
        if ahead > 0:
            # A leap of more than a window (only the model node can make one) empties the window.
            self.seen = ((self.seen << min(ahead, SEQUENCE_WINDOW)) | 1) & ((1 << SEQUENCE_WINDOW) - 1)
            self.highest = sequence
            self.expected += ahead
        else:
            bit = 1 << min(-ahead, SEQUENCE_WINDOW)
            if -ahead >= SEQUENCE_WINDOW or self.seen & bit:
                return False
            self.seen |= bit
        self.received += 1
        if self.expected > LOSS_MEMORY_CELLS:
            # Both halve, so that old luck does not hide new losses.
            self.expected //= 2
            self.received //= 2
        return True

    @property
    def is_lossy(self) -> bool:
        """Whether more than LOSS_LIMIT of the cells are missing, of enough cells to say so."""
        return self.expected >= LOSS_MIN_CELLS and self.received < (1 - LOSS_LIMIT) * self.expected


@dataclass(slots=True)
class PathHealth:
    """What speaks against one path. Each complaint is made once; a lost path is complained of no more."""

    silent_after_s: float
    last_heard_s: float
    others_heard: int = 0
    sequences: SequenceWindow = field(default_factory=SequenceWindow)
    is_faulty: bool = False
    is_lossy: bool = False
    is_silent: bool = False
    is_lost: bool = False

    @property
    def is_retired(self) -> bool:
        """Whether the path is to be replaced, or has been."""
        return self.is_faulty or self.is_lossy or self.is_silent or self.is_lost

    def note_heard(self, observed_s: float) -> None:
        """A sound cell came over this path."""
        self.last_heard_s = observed_s
        self.others_heard = 0

    def turns_faulty(self) -> bool:
        """A forged or damaged cell came; True at the first one."""
        if self.is_faulty or self.is_lost:
            return False
        self.is_faulty = True
        return True

    def turns_lossy(self) -> bool:
        """Whether it has become clear only now that too many cells are missing."""
        if self.is_lossy or self.is_lost or not self.sequences.is_lossy:
            return False
        self.is_lossy = True
        return True

    def turns_silent(self, observed_s: float) -> bool:
        """A cell came over another path; True once this one has been silent for too long beside it."""
        self.others_heard += 1
        if self.is_silent or self.is_lost or self.others_heard < SILENT_MIN_CELLS:
            return False
        self.is_silent = observed_s - self.last_heard_s >= self.silent_after_s
        return self.is_silent


def newly_silent(paths: Iterable[tuple[int, PathHealth]], heard: PathHealth, observed_s: float) -> list[int]:
    """Numbers of the paths that must be called silent now that a cell came over `heard`."""
    return [number for number, path in paths if path is not heard and path.turns_silent(observed_s)]
