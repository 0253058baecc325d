"""The model node's end of an answer: events in, one cell a path and tick out. Theory in `stream.py`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal

from crypto.aead import AeadKey
from crypto.dispersal import disperse
from crypto.identity import NodeId
from overlay.errors import LocalProtocolError
from overlay.protocol.answer_cell import AnswerCell, AnswerTerms, CellKind, seal_cell
from overlay.wire.answer import AnswerEvent
from overlay.wire.answer_codec import frame_event
from overlay.wire.limits import MAX_ANSWER_BYTES
from overlay.wire.prompt import ReplyPath
from overlay.wire.update import Update

TICK_S = 0.05
BACKLOG_BYTES = 32 * 1024
"""Unsent bytes from which `write` refuses until some have gone."""
BULK_BLOCKS = 4
"""A backlog of more blocks than this (a receipt, never mere tokens) starts a bulk run."""
BULK_CELLS = 4
BULK_TICKS = 10
"""A bulk run is always this long: BULK_CELLS cells a path and tick, dummies when nothing is left."""
RESEND_CELLS = 4
"""Blocks sent again on one path in a tick, beside the tick's own cells."""
DEAD_TIMEOUT_S = 10.0
LINGER_S = 15.0
TAIL_S = 1.0
"""Dummies go on at least this long after the last block, so that a client learns what it misses."""
SHORTEST_BUCKET_S = 2.0
MAX_ANSWER_S = 3600.0


@dataclass(frozen=True, slots=True)
class SendAnswerCell:
    """Queue a cell for the circuit behind `reply_token` on the link to `proxy`; drop it if that is full."""

    proxy: NodeId
    reply_token: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class AnswerAbandoned:
    """Nobody is there for the rest of the answer: stop generating, free what it holds."""

    reason: Literal["cancelled", "unreachable", "overlong"]


@dataclass(frozen=True, slots=True)
class AnswerClosed:
    """The sender is done: no cell will follow and no update is needed any more."""


SenderOutput = SendAnswerCell | AnswerAbandoned | AnswerClosed


class _State(Enum):
    RUNNING = auto()
    TAIL = auto()
    LINGER = auto()
    DONE = auto()


@dataclass(slots=True)
class _Path:
    """One path as it is now. resend_from..resend_end are blocks still to be sent again."""

    number: int
    reply: ReplyPath
    key: AeadKey
    sequence: int = 0
    alive: bool = True
    resend_from: int = 0
    resend_end: int = 0

    def seal(self, cell: AnswerCell) -> SendAnswerCell:
        data = seal_cell(self.key, self.sequence, cell)
        self.sequence += 1
        return SendAnswerCell(self.reply.proxy, self.reply.token, data)


@dataclass(slots=True)
class _Blocks:
    """Every block from `base` on that the client may still ask for."""

    base: int = 0
    kept: list[bytes] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.base + len(self.kept)

    def forget_before(self, have: int) -> None:
        count = min(have, self.end) - self.base
        if count > 0:
            del self.kept[:count]
            self.base += count


def bucket_s(elapsed_s: float) -> float:
    """The duration that an answer of `elapsed_s` is drawn out to: 2, 3, 4, 6, 8, 12, 16, ... seconds."""
    bucket = SHORTEST_BUCKET_S
    while bucket < elapsed_s:
        # 2, 4, 8, ... have a power of two as half; 3, 6, 12, ... do not.
        bucket *= 1.5 if (int(bucket)).bit_count() == 1 else 4 / 3
    return bucket


def next_tick(now: float) -> float:
    """The first multiple of TICK_S after `now`: the same float for every answer, and always later."""
    number = math.floor(now / TICK_S) + 1
    while number * TICK_S <= now:  # the quotient was rounded
        number += 1
    return number * TICK_S


class AnswerSender:
    """Sends one answer over n paths. See `stream.py`."""

    def __init__(self, terms: AnswerTerms, paths: Sequence[ReplyPath], now: float) -> None:
        if len(paths) != terms.n:
            raise LocalProtocolError(f"an answer over {terms.n} paths needs as many, not {len(paths)}")
        self._terms = terms
        self._paths = [_Path(number, reply, terms.key(number)) for number, reply in enumerate(paths)]
        self._blocks = _Blocks()
        self._backlog = bytearray()
        self._stream_bytes = 0
        self._state = _State.RUNNING
        self._finished = False
        self._last_block: int | None = None
        self._bulk_ticks = 0
        self._started = now
        self._next_tick = math.ceil(now / TICK_S) * TICK_S
        self._ends = now + MAX_ANSWER_S
        self._dead_since: float | None = None

    # --- the answer -------------------------------------------------------------------------------

    @property
    def is_done(self) -> bool:
        """Whether the sender may be forgotten."""
        return self._state is _State.DONE

    @property
    def is_sent(self) -> bool:
        """Whether everything that was written has gone out once; only repairs may follow."""
        return self._last_block is not None or self.is_done

    @property
    def is_full(self) -> bool:
        """Whether `write` would refuse now. There is room again after some later tick."""
        return len(self._backlog) >= BACKLOG_BYTES

    @property
    def live_path_count(self) -> int:
        """Paths that nothing bad was heard of."""
        return sum(path.alive for path in self._paths)

    @property
    def reply_tokens(self) -> tuple[bytes, ...]:
        """The tokens of the paths as they are now."""
        return tuple(path.reply.token for path in self._paths)

    def write(self, event: AnswerEvent) -> bool:
        """Adds an event to the stream. False, and nothing added, while the backlog is full: retry later.

        What is written after the answer was abandoned is dropped. Raises LocalProtocolError after `finish`,
        and for an answer longer than MAX_ANSWER_BYTES.
        """
        if self._finished:
            raise LocalProtocolError("the answer is finished; nothing can follow")
        if self._state is _State.DONE:
            return True
        if self.is_full:
            return False
        frame = frame_event(event)
        if self._stream_bytes + len(frame) > MAX_ANSWER_BYTES:
            raise LocalProtocolError(f"an answer may not be longer than {MAX_ANSWER_BYTES} bytes")
        self._stream_bytes += len(frame)
        self._backlog += frame
        return True

    def finish(self) -> None:
        """Says that nothing follows. What was written still goes out, at its pace."""
        self._finished = True

    # --- what comes in ----------------------------------------------------------------------------

    def receive_update(self, update: Update, now: float) -> list[SenderOutput]:
        """Takes the client's paths as they are now. Old, repeated and overtaken updates do no harm."""
        if self._state is _State.DONE:
            return []
        if update.cancel:
            return self._close("cancelled")
        self._blocks.forget_before(update.have)
        for listed in update.paths:
            path = self._paths[listed.number % self._terms.n]
            if listed.number > path.number:
                path.number, path.reply, path.sequence = listed.number, listed.reply, 0
                path.key = self._terms.key(listed.number)
                self._revive(path)
            elif listed.number == path.number and not path.alive:
                self._revive(path)
        if update.stalled:
            for path in self._paths:
                self._start_resend(path)
        self._note_deaths(now)
        return []

    def path_refused(self, reply_token: bytes, now: float) -> None:
        """The proxy says that no circuit is behind this token."""
        self._bury(lambda path: path.reply.token == reply_token, now)

    def path_delivered(self, reply_token: bytes, now: float) -> None:
        """The proxy has delivered over this path: if it refused a cell before, the clove was only late."""
        for path in self._paths:
            if path.reply.token == reply_token and not path.alive:
                self._revive(path)
        self._note_deaths(now)

    def proxy_lost(self, proxy: NodeId, now: float) -> None:
        """There is no link to this proxy, and none can be had."""
        self._bury(lambda path: path.reply.proxy == proxy, now)

    def cancel(self) -> list[SenderOutput]:
        """Our own side stops, without a word to the client. Prefer AnswerFailed and `finish`."""
        return [] if self._state is _State.DONE else self._close("cancelled")

    def _bury(self, is_dead: Callable[[_Path], bool], now: float) -> None:
        for path in self._paths:
            if is_dead(path):
                path.alive = False
        self._note_deaths(now)

    def _revive(self, path: _Path) -> None:
        path.alive = True
        self._start_resend(path)

    def _start_resend(self, path: _Path) -> None:
        path.resend_from, path.resend_end = self._blocks.base, self._blocks.end

    def _note_deaths(self, now: float) -> None:
        if self.live_path_count:
            self._dead_since = None
        elif self._dead_since is None:
            self._dead_since = now

    # --- time -------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `handle_deadline` wants to be called; None when done."""
        if self._state is _State.DONE:
            return None
        deadlines = [self._ends]
        if self._dead_since is not None:
            deadlines.append(self._dead_since + DEAD_TIMEOUT_S)
        if self._state is not _State.LINGER or self._is_resending():
            deadlines.append(self._next_tick)
        return min(deadlines)

    def handle_deadline(self, now: float) -> list[SenderOutput]:
        """Sends what this tick sends, and moves on to tail, linger and end when their time has come."""
        if self._state is _State.DONE:
            return []
        if self._dead_since is not None and now >= self._dead_since + DEAD_TIMEOUT_S:
            return self._close("unreachable")
        if now >= self._ends:
            return self._handle_end(now)
        if now < self._next_tick:
            return []
        # Ticks that were missed are not made up for: a path never carries two ticks at once.
        self._next_tick = next_tick(now)
        return self._resend() if self._state is _State.LINGER else self._tick(now)

    def _handle_end(self, now: float) -> list[SenderOutput]:
        if self._state is _State.TAIL:
            self._state = _State.LINGER
            self._ends = now + LINGER_S
            return []
        return self._close("overlong")

    def _close(self, reason: Literal["cancelled", "unreachable", "overlong"]) -> list[SenderOutput]:
        was_running = self._state is _State.RUNNING
        self._state = _State.DONE
        self._backlog.clear()
        self._blocks = _Blocks()
        return [AnswerAbandoned(reason), AnswerClosed()] if was_running else [AnswerClosed()]

    def _tick(self, now: float) -> list[SenderOutput]:
        outputs: list[SenderOutput] = []
        for _ in range(self._cells_this_tick()):
            outputs += self._send_round()
        outputs += self._resend()
        if self._last_block is not None and self._state is _State.RUNNING:
            self._state = _State.TAIL
            self._ends = self._started + bucket_s(now - self._started + TAIL_S)
        return outputs

    def _cells_this_tick(self) -> int:
        if not self._bulk_ticks and len(self._backlog) > BULK_BLOCKS * self._terms.block_bytes:
            self._bulk_ticks = BULK_TICKS
        if not self._bulk_ticks:
            return 1
        self._bulk_ticks -= 1
        return BULK_CELLS

    def _send_round(self) -> list[SenderOutput]:
        """One cell on every living path: the next block, or a dummy."""
        number = self._blocks.end
        if not self._cut_block():
            dummy = AnswerCell(CellKind.DUMMY, number)
            return [path.seal(self._next_resent(path) or dummy) for path in self._paths if path.alive]
        cells = self._cells_of(number)
        return [path.seal(cells[path.number % self._terms.n]) for path in self._paths if path.alive]

    def _cut_block(self) -> bool:
        """Moves the next block from the backlog to the blocks; False if there is nothing to say."""
        if self._last_block is not None or not (self._backlog or self._finished):
            return False
        size = self._terms.block_bytes
        block = bytes(self._backlog[:size])
        del self._backlog[:size]
        if self._finished and not self._backlog:
            self._last_block = self._blocks.end
        self._blocks.kept.append(block)
        return True

    def _cells_of(self, number: int) -> list[AnswerCell]:
        block = self._blocks.kept[number - self._blocks.base]
        kind = CellKind.LAST if number == self._last_block else CellKind.FRAGMENT
        fragments = disperse(block, self._terms.k, self._terms.n) if block else [b""] * self._terms.n
        return [AnswerCell(kind, number, len(block), fragment) for fragment in fragments]

    # --- sending again ----------------------------------------------------------------------------

    def _is_resending(self) -> bool:
        return any(path.alive and path.resend_from < path.resend_end for path in self._paths)

    def _resend(self) -> list[SenderOutput]:
        outputs: list[SenderOutput] = []
        for path in self._paths:
            for _ in range(RESEND_CELLS if path.alive else 0):
                cell = self._next_resent(path)
                if cell is None:
                    break
                outputs.append(path.seal(cell))
        return outputs

    def _next_resent(self, path: _Path) -> AnswerCell | None:
        number = max(path.resend_from, self._blocks.base)
        if number >= path.resend_end:
            path.resend_from = path.resend_end
            return None
        path.resend_from = number + 1
        return self._cells_of(number)[path.number % self._terms.n]
