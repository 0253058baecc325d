"""What members of the committee sign and send each other: proposals, votes, certificates.

A member signs *statements*. One never signs two different statements of one kind in one round of one height: two
that it did sign are proof against it (`evidence.py`). What is signed is the same for all kinds,
`genesis hash | [height, round, valid round + 1, value id]`; the kind is the signature's context.

Values here are decoded, not checked. `check_proposal`, `check_votes` and `check_certificate` need the genesis alone.
"""

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NewType

from crypto.errors import AuthenticationError
from crypto.identity import SIGNATURE_BYTES, IdentityKey, check_signature
from overlay.wire.records import pack_record
from verify.committee.genesis import MAX_MEMBERS, Genesis

ValueId = NewType("ValueId", bytes)
"""32 bytes that stand for a value in votes; none at all for nil."""

NIL: Final = ValueId(b"")
NO_ROUND: Final = -1
VALUE_ID_BYTES = 32
MAX_VALUE_BYTES = 1 << 20
MAX_HEIGHT = (1 << 48) - 1
MAX_ROUND = (1 << 31) - 1
SIGNED_BYTES = 1 + SIGNATURE_BYTES
"""A signature in a list: the member's number, the signature."""
MAX_SIGNATURES_BYTES = MAX_MEMBERS * SIGNED_BYTES
_VALUE_LABEL = b"clove-value/1"


class Kind(IntEnum):
    """The three things that a member may sign once a round."""

    PROPOSAL = 1
    PREVOTE = 2
    PRECOMMIT = 3


_CONTEXTS = {
    Kind.PROPOSAL: b"clove-proposal/1",
    Kind.PREVOTE: b"clove-prevote/1",
    Kind.PRECOMMIT: b"clove-precommit/1",
}
Signatures = tuple[tuple[int, bytes], ...]
"""(member's number, signature), ascending, no member twice."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What one signature says. valid_round: of a proposal, the round of its prevotes; NO_ROUND without and in votes."""

    kind: Kind
    height: int
    round: int
    value_id: ValueId
    valid_round: int = NO_ROUND


@dataclass(frozen=True, slots=True)
class Votes:
    """One vote of one or more members: prevotes or precommits for the same value, or for nil."""

    statement: Statement
    signatures: Signatures


@dataclass(frozen=True, slots=True)
class Proposal:
    """A value proposed by the one member whose turn it is.

    prevotes: where the value was proposed before, a quorum's for it in the earlier round `statement.valid_round`.
    """

    statement: Statement
    value: bytes
    prevotes: Votes | None
    signature: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """A value and a quorum of votes for it. Of precommits: the value is decided at their height, for good."""

    value: bytes
    votes: Votes

    @property
    def height(self) -> int:
        """The height that it is of."""
        return self.votes.statement.height


@dataclass(frozen=True, slots=True)
class Wanted:
    """Asks for the certificate of this height. Not signed: it is answered, or not, over the link it came by."""

    height: int


Message = Proposal | Votes | Certificate | Wanted


def value_id(value: bytes) -> ValueId:
    """What stands for a value in votes."""
    return ValueId(hashlib.blake2b(value, digest_size=VALUE_ID_BYTES, person=_VALUE_LABEL).digest())


def sign_statement(key: IdentityKey, genesis: Genesis, statement: Statement) -> bytes:
    """64 bytes. Whoever calls this has seen to it that nothing else was ever signed in the statement's place."""
    return key.sign(_CONTEXTS[statement.kind], _signed_bytes(genesis, statement))


def check_statement(genesis: Genesis, statement: Statement, member: int, signature: bytes) -> None:
    """Raises AuthenticationError unless that member signed this."""
    if not 0 <= member < len(genesis.members):
        raise AuthenticationError("there is no such member")
    check_signature(
        genesis.members[member], _CONTEXTS[statement.kind], _signed_bytes(genesis, statement), signature
    )


def check_proposal(genesis: Genesis, proposal: Proposal) -> None:
    """Raises AuthenticationError unless it is the proposer's, and the prevotes that it names are there."""
    statement = proposal.statement
    proposer = genesis.proposer(statement.height, statement.round)
    check_statement(genesis, statement, proposer, proposal.signature)
    if proposal.prevotes is not None:
        check_quorum(genesis, proposal.prevotes)


def check_votes(genesis: Genesis, votes: Votes) -> None:
    """Raises AuthenticationError unless every signature holds."""
    for member, signature in votes.signatures:
        check_statement(genesis, votes.statement, member, signature)


def check_quorum(genesis: Genesis, votes: Votes) -> None:
    """Raises AuthenticationError unless a quorum of members signed this."""
    if len(votes.signatures) < genesis.quorum:
        raise AuthenticationError(f"{len(votes.signatures)} votes are no quorum of {genesis.quorum}")
    check_votes(genesis, votes)


def check_certificate(genesis: Genesis, certificate: Certificate) -> None:
    """Raises AuthenticationError unless a quorum precommitted the value. Whoever has the genesis can check it."""
    statement = certificate.votes.statement
    if statement.kind is not Kind.PRECOMMIT or statement.value_id != value_id(certificate.value):
        raise AuthenticationError("these are no precommits for this value")
    check_quorum(genesis, certificate.votes)


def _signed_bytes(genesis: Genesis, statement: Statement) -> bytes:
    fields = (statement.height, statement.round, statement.valid_round + 1, statement.value_id)
    return genesis.hash + pack_record(fields)
