"""Makes docs/spec/vectors/descriptor.json: `python -m docs.spec.make_vectors_descriptor` in the repository's root.

Byte strings are hex. Keys come from fixed seeds; signatures are Ed25519's and so fixed too.
"""

import json
from dataclasses import replace
from hashlib import shake_256
from pathlib import Path

from crypto.identity import IdentityKey
from overlay.wire.descriptor import (
    CONTEXT,
    SIGNATURE_BYTES,
    Descriptor,
    EpochKey,
    ModelOffer,
    Role,
    sign_descriptor,
)
from overlay.wire.prompt import ModelId
from overlay.wire.records import pack_record, unpack_record

Vector = dict[str, object]

FILE = Path(__file__).parent / "vectors" / "descriptor.json"
UNIX_TIME = 1_800_000_000
EPOCH = UNIX_TIME // 86_400


def seed_of(name: str) -> bytes:
    """A fixed 32-byte seed."""
    return shake_256(f"clovenet vectors 1 descriptor {name}".encode()).digest(32)


ALICE, MALLORY = (IdentityKey.from_seed(seed_of(name)) for name in ("alice", "mallory"))

RELAY = Descriptor(
    node_id=ALICE.node_id,
    seq=UNIX_TIME * 1000 + 17,
    issued_unix=UNIX_TIME,
    ttl_s=3600,
    addresses=("/ip4/192.0.2.7/tcp/4001", "/ip6/2001:db8::7/tcp/4001"),
    roles=frozenset({Role.RELAY}),
    onion_keys=(EpochKey(EPOCH - 1, seed_of("onion 0")), EpochKey(EPOCH, seed_of("onion 1"))),
    operator="Example Works",
    difficulty=12,
)
MODEL_NODE = replace(
    RELAY,
    seq=3,
    roles=frozenset({Role.RELAY, Role.MODEL, Role.VERIFIER}),
    sealing_keys=(EpochKey(EPOCH, seed_of("seal")),),
    models=(ModelOffer(ModelId("m-" + "0123456789" * 4), "smollm2-135m", "torch-fp32", 8192),),
    operator="",
    difficulty=0,
)
BARE = Descriptor(
    node_id=ALICE.node_id,
    seq=0,
    issued_unix=UNIX_TIME,
    ttl_s=1,
    addresses=(),
    roles=frozenset(),
)


def make_valid() -> list[Vector]:
    """Descriptors and what they say."""
    return [
        {
            "name": name,
            "identity_seed": ALICE.seed.hex(),
            "node_id": found.node_id.hex(),
            "seq": found.seq,
            "issued_unix": found.issued_unix,
            "ttl_s": found.ttl_s,
            "addresses": list(found.addresses),
            "roles": sorted(found.roles),
            "onion_keys": [[key.epoch, key.public.hex()] for key in found.onion_keys],
            "sealing_keys": [[key.epoch, key.public.hex()] for key in found.sealing_keys],
            "models": [
                [offer.model_id, offer.alias, offer.numerics_class, offer.context_tokens]
                for offer in found.models
            ],
            "operator": found.operator,
            "difficulty": found.difficulty,
            "descriptor": sign_descriptor(ALICE, found).hex(),
        }
        for name, found in (("relay", RELAY), ("model node", MODEL_NODE), ("bare", BARE))
    ]


def signed(body: bytes, key: IdentityKey = ALICE) -> bytes:
    """Any body with a signature that holds, or with another's."""
    return key.sign(CONTEXT, body) + body


def with_field(index: int, value: object) -> bytes:
    """The relay's descriptor with one field of the record changed, signed anew."""
    record = unpack_record(sign_descriptor(ALICE, RELAY)[SIGNATURE_BYTES:])
    record[index] = value
    return signed(pack_record(tuple(record)))


def make_invalid() -> list[Vector]:
    """Bytes that must be refused, and at which step: decode, authentication, expired (at `unix_time`)."""
    fine = sign_descriptor(ALICE, RELAY)
    body = fine[SIGNATURE_BYTES:]
    long_form = body.replace(b"\xc4\x20" + ALICE.node_id, b"\xc5\x00\x20" + ALICE.node_id, 1)
    cases = [
        ("empty", b"", "decode"),
        ("signature only", fine[:SIGNATURE_BYTES], "decode"),
        ("truncated", fine[:-1], "decode"),
        ("trailing byte", signed(body + b"\x00"), "decode"),
        ("longer than 4096 bytes", signed(body).ljust(4097, b"\0"), "decode"),
        ("not the shortest msgpack", signed(long_form), "decode"),
        ("version 2", with_field(0, 2), "decode"),
        ("node id of small order", with_field(1, bytes(32)), "decode"),
        ("seq beyond the time of issue", with_field(2, (UNIX_TIME + 301) * 1000), "decode"),
        ("seq a float", with_field(2, 1.0), "decode"),
        ("ttl over a week", with_field(4, 7 * 86_400 + 1), "decode"),
        ("the same address twice", with_field(5, ("/memory/a", "/memory/a")), "decode"),
        ("escape sequence in an address", with_field(5, ("/memory/\x1b[2J",)), "decode"),
        ("unknown role", with_field(6, 1 | 16), "decode"),
        ("relay without onion key", with_field(7, ()), "decode"),
        ("keys out of order", with_field(7, ((EPOCH, bytes(32)), (EPOCH - 1, bytes(32)))), "decode"),
        ("models without the role", with_field(9, (("m-" + "0" * 40, "a", "torch-fp32", 1),)), "decode"),
        ("operator not ASCII", with_field(10, "ünder"), "decode"),
        ("difficulty 33", with_field(11, 33), "decode"),
        ("one field too many", signed(pack_record((*unpack_record(body), 0))), "decode"),
        ("signed by another", signed(body, MALLORY), "authentication"),
        ("signature of another purpose", ALICE.sign(b"clove-receipt/1", body) + body, "authentication"),
        (
            "another body under the signature",
            fine[:SIGNATURE_BYTES] + with_field(11, 0)[SIGNATURE_BYTES:],
            "authentication",
        ),
        ("issued 301 s from now", with_field(3, UNIX_TIME + 301), "expired"),
        ("over for 301 s", signed_at(UNIX_TIME - 3600 - 301), "expired"),
    ]
    return [{"name": name, "descriptor": data.hex(), "error": error} for name, data, error in cases]


def signed_at(issued_unix: int) -> bytes:
    """The relay's descriptor of another time."""
    return sign_descriptor(ALICE, replace(RELAY, issued_unix=issued_unix, seq=1))


def make() -> str:
    """The file's content."""
    cases = {"unix_time": UNIX_TIME, "valid": make_valid(), "invalid": make_invalid()}
    return json.dumps(cases, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(make(), encoding="utf-8")
