"""Equivocation: two statements of one kind in one round that one member signed, each of which makes the other a lie.

A file of it convinces whoever has the genesis, and nothing else is needed: no clock, no log, nobody's word.
"""

from dataclasses import dataclass

from crypto.errors import AuthenticationError, DecodeError
from crypto.identity import SIGNATURE_BYTES
from overlay.wire.records import (
    pack_record,
    read_fields,
    read_integer,
    read_octets,
    read_text,
    unpack_record,
)
from verify.committee.genesis import MAX_MEMBERS, Genesis
from verify.committee.messages import (
    MAX_HEIGHT,
    MAX_ROUND,
    NIL,
    NO_ROUND,
    VALUE_ID_BYTES,
    Kind,
    Statement,
    ValueId,
    check_statement,
)

FORMAT = "clove-equivocation/1"
MAX_EQUIVOCATION_BYTES = 512
_HASH_BYTES = 32
Half = tuple[Statement, bytes]
"""A statement and its signature."""


@dataclass(frozen=True, slots=True)
class Equivocation:
    """What one member signed twice. Made by `equivocation_of`: the halves differ and are in order."""

    member: int
    first: Half
    second: Half


def equivocation_of(member: int, one: Half, other: Half) -> Equivocation | None:
    """The evidence in two signed statements; None where they can both be meant honestly."""
    first, second = sorted((one, other), key=_order)
    same_place = [(said.kind, said.height, said.round) for said, _ in (first, second)]
    if same_place[0] != same_place[1] or first[0] == second[0]:
        return None
    return Equivocation(member, first, second)


def encode_equivocation(genesis: Genesis, found: Equivocation) -> bytes:
    """The file's bytes; one encoding for each."""
    said = found.first[0]
    halves = ((*_order(half), half[1]) for half in (found.first, found.second))
    place = (found.member, said.kind.value, said.height, said.round)
    return pack_record((FORMAT, genesis.hash, *place, *halves))


def decode_equivocation(genesis: Genesis, data: bytes) -> Equivocation:
    """Reads and checks evidence.

    Raises:
        DecodeError: these bytes are no evidence, or none of this network.
        AuthenticationError: the member did not sign both statements.
    """
    if len(data) > MAX_EQUIVOCATION_BYTES:
        raise DecodeError("equivocation: too long")
    version, network, number, kind_field, height, round_, *halves = read_fields(unpack_record(data), 8)
    if read_text(version, 0, MAX_EQUIVOCATION_BYTES) != FORMAT:
        raise DecodeError(f"equivocation: not of the format {FORMAT}")
    if read_octets(network, _HASH_BYTES, _HASH_BYTES) != genesis.hash:
        raise DecodeError("equivocation: of another network")
    member = read_integer(number, 0, MAX_MEMBERS - 1)
    kind = Kind(read_integer(kind_field, Kind.PROPOSAL, Kind.PRECOMMIT))
    place = (kind, read_integer(height, 1, MAX_HEIGHT), read_integer(round_, 0, MAX_ROUND))
    found = equivocation_of(member, *(_read_half(*place, half) for half in halves))
    if found is None or encode_equivocation(genesis, found) != data:
        raise DecodeError("equivocation: the same twice, or not the canonical encoding")
    check_equivocation(genesis, found)
    return found


def check_equivocation(genesis: Genesis, found: Equivocation) -> None:
    """Raises AuthenticationError unless the member signed both."""
    if found.first[0].kind is Kind.PROPOSAL:
        said = found.first[0]
        if genesis.proposer(said.height, said.round) != found.member:
            raise AuthenticationError("it was not this member's turn: nobody heeds its proposals")
    for statement, signature in (found.first, found.second):
        check_statement(genesis, statement, found.member, signature)


def _order(half: Half) -> tuple[int, bytes]:
    statement, _ = half
    return statement.valid_round + 1, statement.value_id


def _read_half(kind: Kind, height: int, round_: int, value: object) -> Half:
    valid_field, voted, signature = read_fields(value, 3)
    valid_round = read_integer(valid_field, 0, round_ if kind is Kind.PROPOSAL else 0) - 1
    found = ValueId(read_octets(voted, 0, VALUE_ID_BYTES))
    if len(found) != VALUE_ID_BYTES and (found != NIL or kind is Kind.PROPOSAL):
        raise DecodeError("equivocation: a value id of a wrong length")
    statement = Statement(kind, height, round_, found, valid_round if valid_round >= 0 else NO_ROUND)
    return statement, read_octets(signature, SIGNATURE_BYTES, SIGNATURE_BYTES)
