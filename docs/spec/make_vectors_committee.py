"""Makes docs/spec/vectors/committee.json: `python -m docs.spec.make_vectors_committee` in the repository's root.

Byte strings are hex. Keys come from fixed seeds; signatures are Ed25519's and so fixed too.
"""

import json
from hashlib import shake_256
from pathlib import Path

from crypto.identity import IdentityKey
from overlay.wire.records import pack_record, unpack_record
from verify.committee.evidence import encode_equivocation, equivocation_of
from verify.committee.genesis import Genesis, encode_genesis
from verify.committee.log import CHECK_BYTES, LogWriter, frame
from verify.committee.message_codec import encode_message
from verify.committee.messages import (
    NIL,
    NO_ROUND,
    Certificate,
    Kind,
    Message,
    Proposal,
    Statement,
    ValueId,
    Votes,
    Wanted,
    sign_statement,
    value_id,
)
from verify.committee.standing import Entered, Opened, Record, Said, Validated

Vector = dict[str, object]

FILE = Path(__file__).parent / "vectors" / "committee.json"
VALUE, OTHER = b"the directory of this epoch", b"another one"


def seed_of(name: str) -> bytes:
    """A fixed 32-byte seed."""
    return shake_256(f"clovenet vectors 1 committee {name}".encode()).digest(32)


KEYS = sorted((IdentityKey.from_seed(seed_of(f"member {n}")) for n in range(4)), key=lambda key: key.node_id)
GENESIS = Genesis.of("clove-test", 600, [key.node_id for key in KEYS])
OTHER_NETWORK = Genesis.of("clove-other", 600, GENESIS.members)


def half(
    member: int, kind: Kind, value: ValueId, round_: int = 0, valid_round: int = NO_ROUND
) -> tuple[Statement, bytes]:
    """A statement of height 1 and a member's signature."""
    statement = Statement(kind, 1, round_, value, valid_round)
    return statement, sign_statement(KEYS[member], GENESIS, statement)


def votes(kind: Kind, value: ValueId, members: tuple[int, ...], round_: int = 0) -> Votes:
    """Votes of height 1."""
    statement = Statement(kind, 1, round_, value)
    return Votes(statement, tuple((who, half(who, kind, value, round_)[1]) for who in members))


def proposal(round_: int, prevotes: Votes | None = None, by: int | None = None) -> Proposal:
    """A proposal of height 1."""
    valid_round = NO_ROUND if prevotes is None else prevotes.statement.round
    proposer = GENESIS.proposer(1, round_) if by is None else by
    statement, signature = half(proposer, Kind.PROPOSAL, value_id(VALUE), round_, valid_round)
    return Proposal(statement, VALUE, prevotes, signature)


PREVOTES = votes(Kind.PREVOTE, value_id(VALUE), (0, 1, 3))
CERTIFICATE = Certificate(VALUE, votes(Kind.PRECOMMIT, value_id(VALUE), (1, 2, 3), 2))
MESSAGES: dict[str, Message] = {
    "a new value": proposal(0),
    "an earlier value with its prevotes": proposal(2, PREVOTES),
    "one prevote": votes(Kind.PREVOTE, value_id(VALUE), (2,)),
    "a prevote for nil": votes(Kind.PREVOTE, NIL, (0,), 7),
    "three precommits": votes(Kind.PRECOMMIT, value_id(VALUE), (0, 1, 2)),
    "a certificate": CERTIFICATE,
    "certificate wanted": Wanted(12),
}
RECORDS: list[Record] = [
    Opened(2, CERTIFICATE, is_abstaining=False),
    Entered(0),
    Said(Votes(Statement(Kind.PREVOTE, 2, 0, NIL), ((0, bytes(64)),))),
    Entered(3),
]


def make_invalid() -> list[Vector]:
    """Messages that must be refused, and at which step: decode or authentication."""
    fine = encode_message(MESSAGES["a new value"])
    prevote = encode_message(MESSAGES["one prevote"])
    certificate = encode_message(CERTIFICATE)
    few = Votes(PREVOTES.statement, PREVOTES.signatures[:2])
    pair = PREVOTES.signatures[:2]
    swapped = b"".join(bytes([who]) + signature for who, signature in reversed(pair))
    stranger = Votes(PREVOTES.statement, ((9, PREVOTES.signatures[0][1]),))
    cases = [
        ("empty", b"", "decode"),
        ("an empty array", pack_record(()), "decode"),
        ("truncated", fine[:-1], "decode"),
        ("trailing byte", fine + b"\0", "decode"),
        ("kind 6", with_field(prevote, 0, 6), "decode"),
        ("height 0", with_field(prevote, 1, 0), "decode"),
        ("round 2^31", with_field(prevote, 2, 1 << 31), "decode"),
        ("a value id of 31 bytes", with_field(prevote, 3, bytes(31)), "decode"),
        ("no signature", with_field(prevote, 4, b""), "decode"),
        ("a signature too short", with_field(prevote, 4, bytes(64)), "decode"),
        ("signatures out of order", with_field(prevote, 4, swapped), "decode"),
        ("a member twice", with_field(prevote, 4, bytes(130)), "decode"),
        ("a valid round not before the round", with_field(fine, 3, 1), "decode"),
        ("prevotes for a new value", with_field(fine, 5, swapped), "decode"),
        ("a number in its long form", fine.replace(b"\x01\x01\x00", b"\x01\xcc\x01\x00", 1), "decode"),
        ("a value too long", with_field(fine, 4, bytes((1 << 20) + 1))[:64], "decode"),
        ("not the proposer's", encode_message(proposal(0, by=3)), "authentication"),
        ("another value", with_field(fine, 4, OTHER), "authentication"),
        ("an earlier value without a quorum", encode_message(proposal(2, few)), "authentication"),
        ("a prevote as a precommit", with_field(prevote, 0, 3), "authentication"),
        ("a vote of another round", with_field(prevote, 2, 1), "authentication"),
        ("no such member", encode_message(stranger), "authentication"),
        ("a certificate for another value", with_field(certificate, 3, OTHER), "authentication"),
        (
            "a certificate of two",
            encode_message(Certificate(VALUE, votes(Kind.PRECOMMIT, value_id(VALUE), (0, 1)))),
            "authentication",
        ),
    ]
    return [{"name": name, "message": data.hex(), "error": error} for name, data, error in cases]


def with_field(message: bytes, at: int, value: object) -> bytes:
    """A message with another value in one place."""
    fields = unpack_record(message)
    fields[at] = value
    return pack_record(tuple(fields))


def make_logs() -> list[Vector]:
    """Logs of member 0, and how they are read: how many records are intact, torn bytes, damaged or not."""
    log = LogWriter(GENESIS, KEYS[0].node_id).begin(RECORDS)
    first = LogWriter(GENESIS, KEYS[0].node_id).begin(RECORDS[:1])
    flipped = bytearray(log)
    flipped[len(first) + 3] ^= 1
    alone = frame(b"", b"one")
    cases = [
        ("whole", log, 4, 0, False),
        (
            "torn",
            log[:-1],
            3,
            len(log) - 1 - len(LogWriter(GENESIS, KEYS[0].node_id).begin(RECORDS[:3])),
            False,
        ),
        ("a length flipped", bytes(flipped), 1, 0, True),
        ("a record twice", alone + alone, 1, 0, True),
        ("its last check flipped", log[:-1] + bytes([log[-1] ^ 1]), 3, 0, True),
        ("less than a head", log[: CHECK_BYTES - 1], 0, CHECK_BYTES - 1, False),
    ]
    return [
        {"name": name, "log": data.hex(), "intact": intact, "torn_bytes": torn, "is_damaged": damaged}
        for name, data, intact, torn, damaged in cases
    ]


def make_evidence() -> list[Vector]:
    """Evidence of each kind."""
    found = [
        equivocation_of(1, half(1, kind, value_id(VALUE)), half(1, kind, value_id(OTHER))) for kind in Kind
    ]
    return [
        {
            "member": each.member,
            "kind": each.first[0].kind.name,
            "file": encode_equivocation(GENESIS, each).hex(),
        }
        for each in found
        if each is not None
    ]


def make() -> str:
    """The file's content."""
    validated = Validated(Certificate(VALUE, PREVOTES))
    cases = {
        "identity_seeds": [key.seed.hex() for key in KEYS],
        "genesis": encode_genesis(GENESIS),
        "genesis_hash": GENESIS.hash.hex(),
        "other_network_hash": OTHER_NETWORK.hash.hex(),
        "proposers": {
            f"{height}, {round_}": GENESIS.proposer(height, round_) for height in (1, 7) for round_ in (0, 1)
        },
        "value": VALUE.hex(),
        "value_id": value_id(VALUE).hex(),
        "messages": [{"name": name, "message": encode_message(m).hex()} for name, m in MESSAGES.items()],
        "invalid": make_invalid(),
        "evidence": make_evidence(),
        "logs": make_logs(),
        "validated": LogWriter(GENESIS, KEYS[0].node_id).record(validated).hex(),
    }
    return json.dumps(cases, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(make(), encoding="utf-8")
