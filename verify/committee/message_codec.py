"""Messages of the committee as bytes: msgpack arrays (`docs/spec/committee.md`), each value in exactly one way.

Nothing that is decoded here is checked: no signature, no quorum, no member. Raises DecodeError and nothing else.
"""

from typing import assert_never

from crypto.errors import DecodeError
from crypto.identity import SIGNATURE_BYTES
from overlay.wire.records import pack_record, read_fields, read_integer, read_octets, unpack_record
from verify.committee.messages import (
    MAX_HEIGHT,
    MAX_ROUND,
    MAX_SIGNATURES_BYTES,
    MAX_VALUE_BYTES,
    NIL,
    NO_ROUND,
    SIGNED_BYTES,
    VALUE_ID_BYTES,
    Certificate,
    Kind,
    Message,
    Proposal,
    Signatures,
    Statement,
    ValueId,
    Votes,
    Wanted,
    value_id,
)

CERTIFICATE = 4
WANTED = 5
MAX_MESSAGE_BYTES = MAX_VALUE_BYTES + MAX_SIGNATURES_BYTES + 256
_FIELDS = {Kind.PROPOSAL: 7, Kind.PREVOTE: 5, Kind.PRECOMMIT: 5, CERTIFICATE: 5, WANTED: 2}


def encode_message(message: Message) -> bytes:
    """The bytes of any message."""
    match message:
        case Proposal(statement, value, prevotes, signature):
            proof = b"" if prevotes is None else pack_signatures(prevotes.signatures)
            place = (statement.height, statement.round, statement.valid_round + 1)
            return pack_record((Kind.PROPOSAL.value, *place, value, proof, signature))
        case Votes(statement, signatures):
            place = (statement.kind.value, statement.height, statement.round)
            return pack_record((*place, statement.value_id, pack_signatures(signatures)))
        case Certificate(value, Votes(statement, signatures)):
            place = (CERTIFICATE, statement.height, statement.round)
            return pack_record((*place, value, pack_signatures(signatures)))
        case Wanted(height):
            return pack_record((WANTED, height))
    assert_never(message)


def decode_message(data: bytes) -> Message:
    """Reads any message. Raises DecodeError."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise DecodeError("committee: a message too long")
    record = unpack_record(data)
    if not record:
        raise DecodeError("committee: an empty message")
    kind = read_integer(record[0], Kind.PROPOSAL, WANTED)
    fields = read_fields(record, _FIELDS[kind])[1:]
    if kind == WANTED:
        message: Message = Wanted(read_integer(fields[0], 1, MAX_HEIGHT))
    elif kind == Kind.PROPOSAL:
        message = _read_proposal(fields)
    elif kind == CERTIFICATE:
        message = read_certificate(fields, Kind.PRECOMMIT)
    else:
        message = _read_votes(fields, Kind(kind))
    if encode_message(message) != data:
        raise DecodeError("committee: not the canonical encoding")
    return message


def pack_signatures(signatures: Signatures) -> bytes:
    """One after the other: the member's number in one byte, the signature."""
    return b"".join(bytes([member]) + signature for member, signature in signatures)


def read_certificate(fields: list[object], kind: Kind) -> Certificate:
    """[height, round, value, signatures]: a value and votes of this kind for it. Raises DecodeError."""
    height, round_, content, signatures = fields
    value = read_octets(content, 0, MAX_VALUE_BYTES)
    statement = Statement(kind, _read_height(height), _read_round(round_), value_id(value))
    return Certificate(value, Votes(statement, _read_signatures(signatures)))


def _read_proposal(fields: list[object]) -> Proposal:
    height_field, round_field, valid_field, content, proof, signature = fields
    height, round_ = _read_height(height_field), _read_round(round_field)
    valid_round = read_integer(valid_field, 0, round_) - 1
    value = read_octets(content, 0, MAX_VALUE_BYTES)
    statement = Statement(Kind.PROPOSAL, height, round_, value_id(value), valid_round)
    prevotes = None
    if valid_round != NO_ROUND:
        proved = Statement(Kind.PREVOTE, height, valid_round, statement.value_id)
        prevotes = Votes(proved, _read_signatures(proof))
    elif proof != b"":
        raise DecodeError("committee: prevotes for a value that is new")
    return Proposal(statement, value, prevotes, read_octets(signature, SIGNATURE_BYTES, SIGNATURE_BYTES))


def _read_votes(fields: list[object], kind: Kind) -> Votes:
    height, round_, voted, signatures = fields
    found = ValueId(read_octets(voted, 0, VALUE_ID_BYTES))
    if found != NIL and len(found) != VALUE_ID_BYTES:
        raise DecodeError("committee: a value id of a wrong length")
    statement = Statement(kind, _read_height(height), _read_round(round_), found)
    return Votes(statement, _read_signatures(signatures))


def _read_height(value: object) -> int:
    return read_integer(value, 1, MAX_HEIGHT)


def _read_round(value: object) -> int:
    return read_integer(value, 0, MAX_ROUND)


def _read_signatures(value: object) -> Signatures:
    packed = read_octets(value, SIGNED_BYTES, MAX_SIGNATURES_BYTES)
    if len(packed) % SIGNED_BYTES:
        raise DecodeError("committee: not a whole number of signatures")
    rows = [packed[at : at + SIGNED_BYTES] for at in range(0, len(packed), SIGNED_BYTES)]
    members = [row[0] for row in rows]
    if members != sorted(set(members)):
        raise DecodeError("committee: signatures out of order, or a member twice")
    return tuple((row[0], row[1:]) for row in rows)
