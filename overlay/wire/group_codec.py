"""Entries of a member's log and reports of its load, signed by it, as values and as bytes.

`signature 64 | body`. A body has one fixed layout (`docs/spec/groups.md`), so there is one encoding of each value. It
names its origin, and what another has signed fails its check. The group is signed with the body, but does not travel
in it: whatever carries such bytes says once which group they belong to, and in another group their check fails.
"""

import struct
from collections.abc import Callable, Iterable
from math import copysign, isfinite

from crypto.checkable import Signed
from crypto.errors import DecodeError
from crypto.identity import decode_node_id
from overlay.errors import LocalProtocolError
from overlay.wire.group import BlockHash, GroupId, Load, LoadReport, LogEntry, Speed
from overlay.wire.limits import (
    MAX_ANSWER_WAIT_S,
    MAX_ATTENDED_S,
    MAX_CHUNK_TOKENS,
    MAX_ENTRY_BLOCKS,
    MAX_LOG_ENTRIES,
    MAX_PREFILL_TOKEN_S,
    MAX_QUEUED_TOKENS,
    MAX_RUNNING_ANSWERS,
    MAX_STEP_S,
    MIN_PREFILL_TOKEN_S,
    NODE_ID_BYTES,
)

Sign = Callable[[bytes, bytes], bytes]
"""A member's key: (context, message) to a signature of 64 bytes. `IdentityKey.sign` is one."""

LOG_CONTEXT = b"clove-group-log/1"
LOAD_CONTEXT = b"clove-group-load/1"
FORMAT = 1
SIGNATURE_BYTES = 64
BLOCK_HASH_BYTES = 8
MAX_INCARNATION = (1 << 48) - 2
MAX_SEQ = (1 << 32) - 3
"""The greatest values that are left stand for something else in a vector (`group_messages.py`)."""

_INCARNATION_BYTES = 6
_ENTRY = struct.Struct(f">B{NODE_ID_BYTES}s{_INCARNATION_BYTES}sIHH")
_LOAD = struct.Struct(f">B{NODE_ID_BYTES}s{_INCARNATION_BYTES}sI3f2I2H2f")

MAX_ENTRY_BYTES = SIGNATURE_BYTES + _ENTRY.size + MAX_ENTRY_BLOCKS * BLOCK_HASH_BYTES
LOAD_BYTES = SIGNATURE_BYTES + _LOAD.size


def sign_log_entry(sign: Sign, group: GroupId, entry: LogEntry) -> bytes:
    """Encodes and signs. Raises LocalProtocolError if a value is out of bounds."""
    return _signed(sign, LOG_CONTEXT, group, _encode_entry(entry))


def decode_log_entry(data: bytes, group: GroupId) -> Signed[LogEntry]:
    """Reads an entry; its signature is still to be checked. Raises DecodeError and nothing else."""
    signature, body = _split(data, SIGNATURE_BYTES + _ENTRY.size, MAX_ENTRY_BYTES)
    entry = _read_entry(body)
    return Signed(entry, entry.origin, LOG_CONTEXT, group + body, signature)


def sign_load(sign: Sign, group: GroupId, report: LoadReport) -> bytes:
    """Encodes and signs; seconds are rounded to 24 bits. Raises LocalProtocolError if a value is out of bounds."""
    return _signed(sign, LOAD_CONTEXT, group, _encode_load(report))


def decode_load(data: bytes, group: GroupId) -> Signed[LoadReport]:
    """Reads a report; its signature is still to be checked. Raises DecodeError and nothing else."""
    signature, body = _split(data, LOAD_BYTES, LOAD_BYTES)
    report = _read_load(body)
    return Signed(report, report.origin, LOAD_CONTEXT, group + body, signature)


def rounded(report: LoadReport) -> LoadReport:
    """The report as others will read it. Raises LocalProtocolError if a value is out of bounds."""
    return _read_load(_encode_load(report))


def _signed(sign: Sign, context: bytes, group: GroupId, body: bytes) -> bytes:
    return sign(context, group + body) + body


def _split(data: bytes, low: int, high: int) -> tuple[bytes, bytes]:
    if not low <= len(data) <= high:
        raise DecodeError("group: wrong length")
    return data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:]


def _encode_entry(entry: LogEntry) -> bytes:
    try:
        head = _ENTRY.pack(
            FORMAT,
            entry.origin,
            entry.incarnation.to_bytes(_INCARNATION_BYTES, "big"),
            entry.seq,
            entry.seq - entry.base,
            len(entry.stored),
        )
        body = head + b"".join(entry.stored) + b"".join(entry.evicted)
        if _read_entry(body) != entry:
            raise LocalProtocolError("this log entry has no encoding")
    except (struct.error, OverflowError, DecodeError) as error:
        raise LocalProtocolError(f"this log entry can't be told: {error}") from error
    return body


def _read_entry(body: bytes) -> LogEntry:
    version, origin, incarnation, seq, back, stored_count = _ENTRY.unpack_from(body)
    blocks = _read_blocks(body[_ENTRY.size :])
    _check(version, FORMAT, FORMAT)
    _check(seq, 0, MAX_SEQ)
    _check(back, 0, min(seq, MAX_LOG_ENTRIES - 1))
    _check(stored_count, 0, len(blocks))
    return LogEntry(
        decode_node_id(origin),
        _read_incarnation(incarnation),
        seq,
        seq - back,
        blocks[:stored_count],
        blocks[stored_count:],
    )


def _read_blocks(data: bytes) -> tuple[BlockHash, ...]:
    if len(data) % BLOCK_HASH_BYTES or len(data) > MAX_ENTRY_BLOCKS * BLOCK_HASH_BYTES:
        raise DecodeError("log entry: not a whole number of blocks, or too many")
    blocks = tuple(data[at : at + BLOCK_HASH_BYTES] for at in range(0, len(data), BLOCK_HASH_BYTES))
    if len(set(blocks)) != len(blocks):
        raise DecodeError("log entry: the same block twice")
    return blocks


def _encode_load(report: LoadReport) -> bytes:
    speed, load = report.speed, report.load
    try:
        body = _LOAD.pack(
            FORMAT,
            report.origin,
            report.incarnation.to_bytes(_INCARNATION_BYTES, "big"),
            report.seq,
            speed.prefill_token_s,
            speed.attended_s,
            speed.mixed_step_s,
            speed.mixed_tokens,
            load.queued_tokens,
            load.decoding,
            load.free_slots,
            load.answer_s,
            load.decoding_s,
        )
        _read_load(body)
    except (struct.error, OverflowError, DecodeError) as error:
        raise LocalProtocolError(f"this load can't be told: {error}") from error
    return body


def _read_load(body: bytes) -> LoadReport:
    version, origin, incarnation, seq, *numbers = _LOAD.unpack(body)
    prefill, attended, step, mixed, queued, decoding, free, answer, decoding_s = numbers
    _check(version, FORMAT, FORMAT)
    _check(seq, 0, MAX_SEQ)
    _check(mixed, 1, MAX_CHUNK_TOKENS)
    _check_all((decoding, free), 0, MAX_RUNNING_ANSWERS)
    _check(queued, 0, MAX_QUEUED_TOKENS)
    _check(prefill, MIN_PREFILL_TOKEN_S, MAX_PREFILL_TOKEN_S)
    _check(attended, 0.0, MAX_ATTENDED_S)
    _check(step, 0.0, MAX_STEP_S)
    _check(answer, 0.0, MAX_ANSWER_WAIT_S)
    _check(decoding_s, 0.0, MAX_ANSWER_WAIT_S)
    return LoadReport(
        decode_node_id(origin),
        _read_incarnation(incarnation),
        seq,
        Speed(
            prefill_token_s=prefill,
            attended_s=attended,
            mixed_step_s=step,
            mixed_tokens=mixed,
        ),
        Load(
            queued_tokens=queued, decoding=decoding, free_slots=free, answer_s=answer, decoding_s=decoding_s
        ),
    )


def _read_incarnation(data: bytes) -> int:
    incarnation = int.from_bytes(data, "big")
    _check(incarnation, 0, MAX_INCARNATION)
    return incarnation


def _check_all(values: Iterable[float], low: float, high: float) -> None:
    for value in values:
        _check(value, low, high)


def _check(value: float, low: float, high: float) -> None:
    """Refuse what is out of bounds, no number at all, or a second zero."""
    if not isfinite(value) or not low <= value <= high or copysign(1.0, value) < 0.0:
        raise DecodeError("group: a number is out of bounds")
