"""The write-ahead log: what a member said at the present height, on disk before anybody hears it.

A record is `length u32 | BLAKE2b-4 of it | payload | BLAKE2b-8`, where both checks also cover the last record's: a
record can't be lost, doubled or moved without showing. A crash can tear the record that was being written, since
nothing after it was: a beginning of a record at the end is dropped. That was never synced, so never sent. Any other
fault means that what this member said is no longer known, and it must not speak (`recall.py`).
"""

import hashlib
from dataclasses import dataclass
from typing import assert_never

from crypto.errors import DecodeError
from crypto.identity import NodeId
from overlay.wire.records import (
    pack_record,
    read_array,
    read_fields,
    read_flag,
    read_integer,
    read_octets,
    unpack_record,
)
from verify.committee.genesis import Genesis
from verify.committee.message_codec import (
    MAX_MESSAGE_BYTES,
    decode_message,
    encode_message,
    pack_signatures,
    read_certificate,
)
from verify.committee.messages import (
    MAX_HEIGHT,
    MAX_ROUND,
    Certificate,
    Kind,
    Proposal,
    Votes,
)
from verify.committee.standing import Entered, Opened, Record, Said, Standing, Validated

FORMAT = 1
LENGTH_BYTES = 4
LENGTH_CHECK_BYTES = 4
CHECK_BYTES = 8
MAX_PAYLOAD_BYTES = MAX_MESSAGE_BYTES + 1024
_HEAD_BYTES = LENGTH_BYTES + LENGTH_CHECK_BYTES
_PERSON = b"clove-log/1"
_HASH_BYTES = 32
_OPENED, _ENTERED, _SAID, _VALIDATED = range(1, 5)


class LogWriter:
    """Makes a log's records, each bound to the one before."""

    def __init__(self, genesis: Genesis, node_id: NodeId) -> None:
        self._owner = (genesis.hash, bytes(node_id))
        self._check = b""
        self.length_bytes = 0

    def begin(self, records: list[Record]) -> bytes:
        """A whole new log."""
        self._check, self.length_bytes = b"", 0
        return b"".join(self.record(record) for record in records)

    def record(self, record: Record) -> bytes:
        """The next record."""
        framed = frame(self._check, _encode(record, self._owner))
        self._check = framed[-CHECK_BYTES:]
        self.length_bytes += len(framed)
        return framed


@dataclass(frozen=True, slots=True)
class LogRead:
    """standing: what the intact records say; None where not even the first does. torn_bytes: dropped at the end.

    damage: why the log is not to be trusted, in words; empty for one that is.
    """

    standing: Standing | None
    torn_bytes: int
    damage: str


def read_log(data: bytes, genesis: Genesis, node_id: NodeId) -> LogRead:
    """What a log says. Takes any bytes; raises nothing."""
    payloads, torn_bytes, damage = unframe(data)
    standing: Standing | None = None
    try:
        for payload in payloads:
            standing = _replay(standing, _decode(payload, (genesis.hash, bytes(node_id))))
    except DecodeError as error:
        damage = damage or f"its records make no sense: {error}"
    if standing is None:
        damage = damage or "there is nothing in it"
    return LogRead(standing, torn_bytes, damage)


def frame(last_check: bytes, payload: bytes) -> bytes:
    """A record's bytes after the record that ends in `last_check`."""
    head = _head(last_check, len(payload))
    return head + payload + _digest(last_check + head + payload, CHECK_BYTES)


def unframe(data: bytes) -> tuple[list[bytes], int, str]:
    """The intact payloads, how many bytes at the end are a torn record, and what is wrong before the end."""
    payloads: list[bytes] = []
    at, check = 0, b""
    while len(data) - at >= _HEAD_BYTES:
        head = data[at : at + _HEAD_BYTES]
        length = int.from_bytes(head[:LENGTH_BYTES], "big")
        if length > MAX_PAYLOAD_BYTES or head != _head(check, length):
            return payloads, 0, f"it is damaged at byte {at}"
        end = at + _HEAD_BYTES + length + CHECK_BYTES
        if end > len(data):
            break
        payload = data[at + _HEAD_BYTES : end - CHECK_BYTES]
        if data[at:end] != frame(check, payload):
            return payloads, 0, f"it is damaged at byte {at}"
        payloads.append(payload)
        at, check = end, data[end - CHECK_BYTES : end]
    return payloads, len(data) - at, ""


def _head(last_check: bytes, length: int) -> bytes:
    packed = length.to_bytes(LENGTH_BYTES, "big")
    return packed + _digest(last_check + packed, LENGTH_CHECK_BYTES)


def _digest(data: bytes, size: int) -> bytes:
    return hashlib.blake2b(data, digest_size=size, person=_PERSON).digest()


def _replay(standing: Standing | None, record: Record) -> Standing:
    if isinstance(record, Opened):
        if standing is not None:
            raise DecodeError("log: a second height")
        return Standing.of(record)
    if standing is None:
        raise DecodeError("log: the first record is missing")
    standing.apply(record)
    return standing


def _encode(record: Record, owner: tuple[bytes, bytes]) -> bytes:
    match record:
        case Opened(height, decided, is_abstaining):
            return pack_record((_OPENED, FORMAT, *owner, height, _fields(decided), is_abstaining))
        case Entered(round_):
            return pack_record((_ENTERED, round_))
        case Said(message):
            return pack_record((_SAID, encode_message(message)))
        case Validated(certificate):
            return pack_record((_VALIDATED, _fields(certificate)))
    assert_never(record)


def _fields(certificate: Certificate | None) -> tuple[object, ...]:
    if certificate is None:
        return ()
    statement = certificate.votes.statement
    signatures = pack_signatures(certificate.votes.signatures)
    return (statement.height, statement.round, certificate.value, signatures)


def _decode(payload: bytes, owner: tuple[bytes, bytes]) -> Record:
    kind_field, *fields = read_array(unpack_record(payload), 7) or [None]
    kind = read_integer(kind_field, _OPENED, _VALIDATED)
    if kind == _OPENED:
        return _read_opened(fields, owner)
    (field,) = read_fields(fields, 1)
    if kind == _ENTERED:
        return Entered(read_integer(field, 0, MAX_ROUND))
    if kind == _VALIDATED:
        return Validated(read_certificate(read_fields(field, 4), Kind.PREVOTE))
    message = decode_message(read_octets(field, 0, MAX_MESSAGE_BYTES))
    if not isinstance(message, Proposal | Votes):
        raise DecodeError("log: nothing that a member signs")
    return Said(message)


def _read_opened(fields: list[object], owner: tuple[bytes, bytes]) -> Opened:
    version, network, node_id, height, decided, flag = read_fields(fields, 6)
    read_integer(version, FORMAT, FORMAT)
    found = tuple(read_octets(part, _HASH_BYTES, _HASH_BYTES) for part in (network, node_id))
    if found != owner:
        raise DecodeError("log: another member's, or of another network")
    certificate = None if decided == [] else read_certificate(read_fields(decided, 4), Kind.PRECOMMIT)
    opened = Opened(read_integer(height, 1, MAX_HEIGHT), certificate, read_flag(flag))
    if (opened.height - 1 or None) != (None if certificate is None else certificate.height):
        raise DecodeError("log: not the certificate of the height before")
    return opened
