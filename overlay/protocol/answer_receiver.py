"""The client's end of an answer: cells in, events out in order and once. Theory in `stream.py`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from crypto.aead import AeadKey
from crypto.dispersal import reassemble
from crypto.errors import AuthenticationError, CryptoError, DecodeError
from overlay.protocol.answer_cell import AnswerCell, AnswerTerms, CellKind, open_cell
from overlay.protocol.path_health import ObservedClock, PathHealth, newly_silent
from overlay.wire.answer import AnswerEvent, TokensGenerated
from overlay.wire.answer_codec import EventReader
from overlay.wire.limits import ANSWER_CELL_BYTES, MAX_ANSWER_BYTES, MAX_BLOCKS_AHEAD


@dataclass(frozen=True, slots=True)
class AnswerTiming:
    """When a client stops waiting. Spans in seconds.

    first: from the prompt's sending to the first sound cell. idle: between cells of all paths together.
    progress: before the first token; a model node may queue and prefill that long. pause: between events after it; the
    next node goes on where this one stopped, so impatience costs little. silent: no cell on one path while
    others deliver. grace: added to `silent` for a path that has just been put in. stalled: a block misses
    fragments and nothing more of it comes.
    """

    first_s: float = 10.0
    idle_s: float = 5.0
    progress_s: float = 120.0
    pause_s: float = 10.0
    silent_s: float = 1.5
    grace_s: float = 3.0
    stalled_s: float = 1.0


@dataclass(frozen=True, slots=True)
class PathFaulty:
    """A cell of this path was forged or damaged: replace the path. Said once for each path."""

    number: int


@dataclass(frozen=True, slots=True)
class PathSilent:
    """Nothing comes over this path though others deliver: replace it. Said once for each path."""

    number: int


@dataclass(frozen=True, slots=True)
class PathLossy:
    """More than one cell in twenty of this path is missing: replace it. Said once for each path."""

    number: int


@dataclass(frozen=True, slots=True)
class BlocksMissing:
    """The paths live, but blocks from `have` on can't be rebuilt: send an update that says `stalled`."""

    have: int


@dataclass(frozen=True, slots=True)
class AnswerEnded:
    """The stream is whole; every event of it has been given out. Nothing further comes."""


@dataclass(frozen=True, slots=True)
class AnswerTimedOut:
    """Waiting is over: the model node never spoke, fell silent (idle), or sent only dummies (progress)."""

    waited_for: Literal["first", "idle", "progress"]


@dataclass(frozen=True, slots=True)
class AnswerMalformed:
    """Cells that only the model node can have made make no sense. It is at fault; the answer is over."""

    reason: str


ReceiverEvent = (
    AnswerEvent
    | PathFaulty
    | PathSilent
    | PathLossy
    | BlocksMissing
    | AnswerEnded
    | AnswerTimedOut
    | AnswerMalformed
)


@dataclass(frozen=True, slots=True)
class _Path:
    key: AeadKey
    health: PathHealth


@dataclass(slots=True)
class _PartialBlock:
    length: int
    is_last: bool
    fragments: dict[int, bytes] = field(default_factory=dict)


class AnswerReceiver:
    """Reads one answer from its n paths. See `stream.py`."""

    def __init__(self, terms: AnswerTerms, now: float, timing: AnswerTiming | None = None) -> None:
        self._terms = terms
        self._timing = timing or AnswerTiming()
        self._clock = ObservedClock(now)
        self._paths: dict[int, _Path] = {}
        self._partial: dict[int, _PartialBlock] = {}
        self._reader = EventReader()
        self._stream_bytes = 0
        self._have = 0
        self._known_blocks = 0
        self._is_over = False
        self._last_cell: float | None = None
        self._started = now
        self._last_event = now
        self._has_begun = False
        self._stalled_since: float | None = None
        for number in range(terms.n):
            self._paths[number] = _Path(terms.key(number), PathHealth(self._timing.silent_s, 0.0))

    # --- state ------------------------------------------------------------------------------------

    @property
    def have(self) -> int:
        """How many blocks, from the first on, have arrived and were read."""
        return self._have

    @property
    def is_over(self) -> bool:
        """Whether the answer has ended, timed out or turned out malformed; nothing more will be given out."""
        return self._is_over

    @property
    def retired_paths(self) -> frozenset[int]:
        """Paths, by number, that are to be replaced or have been."""
        return frozenset(number for number, path in self._paths.items() if path.health.is_retired)

    # --- paths ------------------------------------------------------------------------------------

    def path_lost(self, number: int) -> None:
        """The circuit of this path is gone; no silence of it will be reported."""
        if (path := self._paths.get(number)) is not None:
            path.health.is_lost = True

    def add_path(self, number: int, now: float) -> None:
        """A new path is in place of `number - n`; an update that says so is on its way."""
        self._clock.observe(now)
        self.path_lost(number - self._terms.n)
        silent_after_s = self._timing.silent_s + self._timing.grace_s
        health = PathHealth(silent_after_s, self._clock.observed_s)
        self._paths.setdefault(number, _Path(self._terms.key(number), health))

    # --- cells ------------------------------------------------------------------------------------

    def receive_cell(self, number: int, data: bytes, now: float) -> list[ReceiverEvent]:
        """Takes one answer cell that came over path `number`. A number that was never added is ignored."""
        self._clock.observe(now)
        path = self._paths.get(number)
        if self._is_over or path is None:
            return []
        if len(data) != ANSWER_CELL_BYTES:
            return [PathFaulty(number)] if path.health.turns_faulty() else []
        try:
            sequence, cell = open_cell(path.key, data, self._terms.k)
        except AuthenticationError:
            return [PathFaulty(number)] if path.health.turns_faulty() else []
        except DecodeError as error:
            return self._fail(str(error))
        if not path.health.sequences.accept(sequence):
            return []
        events = self._note_heard(path.health, number, now)
        return events + self._take_cell(cell, number % self._terms.n, now)

    def _note_heard(self, heard: PathHealth, number: int, now: float) -> list[ReceiverEvent]:
        observed_s = self._clock.observed_s
        healths = [(other, path.health) for other, path in self._paths.items()]
        if self._last_cell is None:
            # The first cell of all starts every path's time: before it, the model node was not ready.
            for _, health in healths:
                health.note_heard(observed_s)
        self._last_cell = now
        events: list[ReceiverEvent] = [
            PathSilent(silent) for silent in newly_silent(healths, heard, observed_s)
        ]
        heard.note_heard(observed_s)
        return [*events, PathLossy(number)] if heard.turns_lossy() else events

    # --- blocks -----------------------------------------------------------------------------------

    def _take_cell(self, cell: AnswerCell, index: int, now: float) -> list[ReceiverEvent]:
        events: list[ReceiverEvent] = []
        if cell.kind is CellKind.DUMMY:
            self._known_blocks = max(self._known_blocks, cell.block)
        else:
            self._known_blocks = max(self._known_blocks, cell.block + 1)
            if self._have <= cell.block < self._have + MAX_BLOCKS_AHEAD:
                events += self._take_fragment(cell, index, now)
        return events + self._check_stall(now)

    def _take_fragment(self, cell: AnswerCell, index: int, now: float) -> list[ReceiverEvent]:
        is_last = cell.kind is CellKind.LAST
        partial = self._partial.setdefault(cell.block, _PartialBlock(cell.length, is_last))
        if partial.length != cell.length or partial.is_last is not is_last:
            return self._fail("two cells disagree about a block")
        partial.fragments[index] = cell.fragment
        events: list[ReceiverEvent] = []
        while not self._is_over and self._is_ready(self._partial.get(self._have)):
            events += self._read_block(self._partial.pop(self._have), now)
        return events

    def _is_ready(self, partial: _PartialBlock | None) -> bool:
        return partial is not None and len(partial.fragments) >= self._terms.k

    def _read_block(self, partial: _PartialBlock, now: float) -> list[ReceiverEvent]:
        self._stream_bytes += partial.length
        if self._stream_bytes > MAX_ANSWER_BYTES:
            return self._fail(f"it is longer than {MAX_ANSWER_BYTES} bytes")
        try:
            events: list[ReceiverEvent] = [*self._reader.feed(self._rebuild(partial))]
        except CryptoError as error:
            return self._fail(str(error))
        self._have += 1
        self._stalled_since = None
        if events:
            self._last_event = now
            self._has_begun = self._has_begun or any(isinstance(each, TokensGenerated) for each in events)
        if not partial.is_last:
            return events
        if not self._reader.is_between_events:
            return events + self._fail("the answer ends inside an event")
        self._is_over = True
        self._partial.clear()
        return [*events, AnswerEnded()]

    def _rebuild(self, partial: _PartialBlock) -> bytes:
        if not partial.length:
            return b""
        return reassemble(partial.fragments, self._terms.k, self._terms.n, partial.length)

    def _fail(self, reason: str) -> list[ReceiverEvent]:
        self._is_over = True
        self._partial.clear()
        return [AnswerMalformed(reason)]

    # --- time -------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `handle_deadline` wants to be called; None when the answer is over."""
        if self._is_over:
            return None
        return min(deadline for deadline, _ in self._deadlines())

    def handle_deadline(self, now: float) -> list[ReceiverEvent]:
        """Gives up waiting, or asks for what is missing."""
        self._clock.observe(now)
        if self._is_over:
            return []
        for deadline, handle in self._deadlines():
            if now >= deadline:
                return handle(now)
        return []

    def _deadlines(self) -> list[tuple[float, Callable[[float], list[ReceiverEvent]]]]:
        timing = self._timing
        patience_s = timing.pause_s if self._has_begun else timing.progress_s
        deadlines: list[tuple[float, Callable[[float], list[ReceiverEvent]]]] = [
            (self._last_event + patience_s, lambda _: self._time_out("progress"))
        ]
        if self._last_cell is None:
            deadlines.append((self._started + timing.first_s, lambda _: self._time_out("first")))
        else:
            deadlines.append((self._last_cell + timing.idle_s, lambda _: self._time_out("idle")))
        if self._stalled_since is not None:
            deadlines.append((self._stalled_since + timing.stalled_s, self._check_stall))
        return deadlines

    def _time_out(self, waited_for: Literal["first", "idle", "progress"]) -> list[ReceiverEvent]:
        self._is_over = True
        self._partial.clear()
        return [AnswerTimedOut(waited_for)]

    def _check_stall(self, now: float) -> list[ReceiverEvent]:
        """Where a known block can't be rebuilt, asks for it: once in each `stalled_s` without progress."""
        if self._is_over or self._have >= self._known_blocks:
            self._stalled_since = None
            return []
        if self._stalled_since is None:
            self._stalled_since = now
        elif now >= self._stalled_since + self._timing.stalled_s:
            self._stalled_since = now
            return [BlocksMissing(self._have)]
        return []
