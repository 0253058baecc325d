"""Answer events as bytes, and the stream that they form.

A frame is `length 4 | record`; the stream is frames end to end, and blocks of an answer cut it anywhere
(`docs/spec/answers.md`).
"""

from collections.abc import Callable
from itertools import pairwise
from typing import assert_never

from crypto.errors import DecodeError
from overlay.errors import LocalProtocolError
from overlay.wire.answer import (
    AnswerAccepted,
    AnswerEvent,
    AnswerFailed,
    AnswerFinished,
    CheckpointIssued,
    RankedToken,
    ReceiptIssued,
    TokenLogprobs,
    TokensGenerated,
)
from overlay.wire.limits import MAX_CHECKPOINT_BYTES, MAX_EVENT_BYTES
from overlay.wire.prompt import MAX_ALTERNATIVES
from overlay.wire.records import (
    pack_record,
    pack_token_ids,
    read_array,
    read_fields,
    read_integer,
    read_number,
    read_octets,
    read_text,
    read_token_ids,
    unpack_record,
)

ACCEPTED, TOKENS, FINISHED, RECEIPT, FAILED, CHECKPOINT = 1, 2, 3, 4, 5, 6

FRAME_HEADER_BYTES = 4
MAX_TEXT_BYTES = 1 << 16
MAX_RECEIPT_BYTES = MAX_EVENT_BYTES - 16
MAX_CODE_BYTES = 64
MAX_MESSAGE_BYTES = 1024
MAX_TOKEN_COUNT = (1 << 31) - 1
MAX_TOKEN_BYTES = 1024
LOWEST_LOGPROB = -65504.0
"""What receipts can say at the least: fp16 goes no lower."""
MAX_LOGPROBS_AT_ONCE = 64
MAX_IDS_AT_ONCE = 1 << 12
MAX_RETRY_AFTER_S = 86_400.0
FINISH_REASONS = frozenset({"stop", "length"})


def encode_event(event: AnswerEvent) -> bytes:
    """Returns the event's record, without its length. Raises LocalProtocolError for a value out of bounds."""
    data = pack_record(_fields_of(event))
    try:
        decode_event(data)
    except DecodeError as error:
        raise LocalProtocolError(f"{type(event).__name__} can't be sent: {error}") from error
    return data


def frame_event(event: AnswerEvent) -> bytes:
    """Returns the event as it stands in the stream: its length, then its record."""
    record = encode_event(event)
    return len(record).to_bytes(FRAME_HEADER_BYTES, "big") + record


def _fields_of(event: AnswerEvent) -> tuple[object, ...]:
    match event:
        case AnswerAccepted():
            return (ACCEPTED,)
        case TokensGenerated(text, count, (), ids):
            return (TOKENS, text, count, pack_token_ids(ids))
        case TokensGenerated(text, count, logprobs, ids):
            told = tuple(_logprob_fields(entry) for entry in logprobs)
            return (TOKENS, text, count, pack_token_ids(ids), told)
        case AnswerFinished(reason, prompt_tokens, completion_tokens, cached_tokens):
            return (FINISHED, reason, prompt_tokens, completion_tokens, cached_tokens)
        case ReceiptIssued(receipt):
            return (RECEIPT, receipt)
        case CheckpointIssued(checkpoint):
            return (CHECKPOINT, checkpoint)
        case AnswerFailed(code, message, retry_after_s):
            return (FAILED, code, message, None if retry_after_s is None else float(retry_after_s))
        case _:
            assert_never(event)


def _logprob_fields(entry: TokenLogprobs) -> tuple[object, ...]:
    likeliest = tuple((each.token, float(each.logprob)) for each in entry.likeliest)
    return (entry.taken.token, float(entry.taken.logprob), likeliest)


def decode_event(data: bytes) -> AnswerEvent:
    """Reads one record. Raises DecodeError and nothing else."""
    if len(data) > MAX_EVENT_BYTES:
        raise DecodeError("answer event: too long")
    fields = unpack_record(data)
    if not fields:
        raise DecodeError("answer event: empty")
    kind = read_integer(fields[0], ACCEPTED, CHECKPOINT)
    return _READERS[kind](fields)


def _read_accepted(fields: list[object]) -> AnswerAccepted:
    read_fields(fields, 1)
    return AnswerAccepted()


def _read_tokens(fields: list[object]) -> TokensGenerated:
    _, text, count, packed, *told = read_array(fields, 5) if len(fields) > 4 else read_fields(fields, 4)
    # Text may be empty: a token can end inside a code point, and its count must not wait for the rest.
    shown = read_text(text, 0, MAX_TEXT_BYTES)
    tokens = read_integer(count, 1, MAX_LOGPROBS_AT_ONCE) if told else read_integer(count, 0, MAX_TOKEN_COUNT)
    ids = read_token_ids(packed, MAX_IDS_AT_ONCE)
    if ids and len(ids) != tokens:
        raise DecodeError("answer event: other than an id for each token")
    logprobs = tuple(_read_logprobs(entry) for entry in read_fields(told[0], tokens)) if told else ()
    return TokensGenerated(shown, tokens, logprobs, ids)


def _read_logprobs(value: object) -> TokenLogprobs:
    token, logprob, likeliest = read_fields(value, 3)
    ranked = tuple(_read_ranked(*read_fields(each, 2)) for each in read_array(likeliest, MAX_ALTERNATIVES))
    if any(one.logprob < other.logprob for one, other in pairwise(ranked)):
        raise DecodeError("answer event: a likelier token behind another")
    return TokenLogprobs(_read_ranked(token, logprob), ranked)


def _read_ranked(token: object, logprob: object) -> RankedToken:
    return RankedToken(read_octets(token, 0, MAX_TOKEN_BYTES), read_number(logprob, LOWEST_LOGPROB, 0.0))


def _read_finished(fields: list[object]) -> AnswerFinished:
    _, reason, *counts = read_fields(fields, 5)
    if (reason_text := read_text(reason, 1, MAX_CODE_BYTES)) not in FINISH_REASONS:
        raise DecodeError("answer event: unknown reason")
    return AnswerFinished(reason_text, *(read_integer(count, 0, MAX_TOKEN_COUNT) for count in counts))


def _read_failed(fields: list[object]) -> AnswerFailed:
    _, code, message, retry_after_s = read_fields(fields, 4)
    return AnswerFailed(
        read_text(code, 1, MAX_CODE_BYTES),
        read_text(message, 0, MAX_MESSAGE_BYTES),
        None if retry_after_s is None else read_number(retry_after_s, 0.0, MAX_RETRY_AFTER_S),
    )


def _read_receipt(fields: list[object]) -> ReceiptIssued:
    return ReceiptIssued(read_octets(read_fields(fields, 2)[1], 1, MAX_RECEIPT_BYTES))


def _read_checkpoint(fields: list[object]) -> CheckpointIssued:
    return CheckpointIssued(read_octets(read_fields(fields, 2)[1], 1, MAX_CHECKPOINT_BYTES))


_READERS: dict[int, Callable[[list[object]], AnswerEvent]] = {
    ACCEPTED: _read_accepted,
    TOKENS: _read_tokens,
    FINISHED: _read_finished,
    RECEIPT: _read_receipt,
    FAILED: _read_failed,
    CHECKPOINT: _read_checkpoint,
}


class EventReader:
    """Cuts the event stream into events. Holds at most one unfinished frame of the longest kind."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def is_between_events(self) -> bool:
        """Whether the bytes so far end with a whole event."""
        return not self._buffer

    def feed(self, data: bytes) -> list[AnswerEvent]:
        """Takes the next bytes of the stream and returns the events that are complete now.

        Raises DecodeError at the first malformed frame; the stream can't be read any further then.
        """
        buffer = self._buffer
        buffer += data
        events: list[AnswerEvent] = []
        at = 0
        while (end := self._frame_end(at)) is not None:
            events.append(decode_event(bytes(buffer[at + FRAME_HEADER_BYTES : end])))
            at = end
        del buffer[:at]
        return events

    def _frame_end(self, at: int) -> int | None:
        body_at = at + FRAME_HEADER_BYTES
        if len(self._buffer) < body_at:
            return None
        length = int.from_bytes(self._buffer[at:body_at], "big")
        if not 0 < length <= MAX_EVENT_BYTES:
            raise DecodeError("answer event: length out of range")
        end = body_at + length
        return end if len(self._buffer) >= end else None
