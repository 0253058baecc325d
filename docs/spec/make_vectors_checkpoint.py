"""Makes docs/spec/vectors/checkpoint.json: `python -m docs.spec.make_vectors_checkpoint` in the repository's root.

Byte strings are hex. Keys come from fixed seeds; signatures are Ed25519's and so fixed too.
"""

import json
from dataclasses import asdict
from hashlib import shake_256
from pathlib import Path

from crypto.identity import IdentityKey
from overlay.wire.answer_terms import SamplerTerms
from overlay.wire.checkpoint import CONTEXT, Checkpoint, OutputHash, sign_checkpoint
from overlay.wire.prompt import ModelId
from overlay.wire.records import pack_record, unpack_record

Vector = dict[str, object]

FILE = Path(__file__).parent / "vectors" / "checkpoint.json"
UNIX_TIME = 1_800_000_000
PREFIX_BYTES = 96
OUTPUTS = ((), (0,), (6403, 338, 260, 2), ((1 << 32) - 1,), tuple(range(300)))


def seed_of(name: str) -> bytes:
    """32 fixed bytes."""
    return shake_256(f"clovenet vectors 1 checkpoint {name}".encode()).digest(32)


BOB, MALLORY = (IdentityKey.from_seed(seed_of(name)) for name in ("bob", "mallory"))


def checkpoint_of(ids: tuple[int, ...], **changes: object) -> Checkpoint:
    """A checkpoint after these tokens."""
    fields: dict[str, object] = {
        "model_id": ModelId("m-" + "0123456789" * 4),
        "numerics_class": "torch-fp32",
        "sampler": SamplerTerms(0.8, 0.95, 40, 256, 3, 1.1, 0.5, -0.25),
        "nonce": seed_of("nonce"),
        "commitment": seed_of("commitment"),
        "given": 0,
        "count": len(ids),
        "output_hash": OutputHash(ids).digest(),
        "issued_unix": UNIX_TIME,
    }
    return Checkpoint(**{**fields, **changes})  # type: ignore[arg-type]


def make_hashes() -> list[Vector]:
    """Tokens and their hash."""
    return [{"ids": list(ids), "output_hash": OutputHash(ids).digest().hex()} for ids in OUTPUTS]


def make_valid() -> list[Vector]:
    """Checkpoints and what they say."""
    cases = (
        ("the first token", checkpoint_of(OUTPUTS[1])),
        ("four tokens, two of them given", checkpoint_of(OUTPUTS[2], given=2)),
        (
            "the longest",
            checkpoint_of(
                OUTPUTS[4],
                numerics_class="n" * 32,
                sampler=SamplerTerms(0.8, 0.95, 64, 1 << 17, 1 << 17, 1.1, 0.5, -0.25),
                given=(1 << 17) - 1,
                count=1 << 17,
                issued_unix=(1 << 40) - 1,
            ),
        ),
    )
    return [
        {
            "name": name,
            "identity_seed": BOB.seed.hex(),
            "model_id": found.model_id,
            "numerics_class": found.numerics_class,
            **asdict(found.sampler),
            "nonce": found.nonce.hex(),
            "commitment": found.commitment.hex(),
            "given": found.given,
            "count": found.count,
            "output_hash": found.output_hash.hex(),
            "issued_unix": found.issued_unix,
            "checkpoint": sign_checkpoint(BOB, found).hex(),
        }
        for name, found in cases
    ]


def signed(body: bytes, key: IdentityKey = BOB, context: bytes = CONTEXT) -> bytes:
    """Any body with a signature that holds."""
    return key.node_id + key.sign(context, key.node_id + body) + body


def with_field(index: int, value: object) -> bytes:
    """A checkpoint with one field of the record changed, signed anew."""
    body = sign_checkpoint(BOB, checkpoint_of(OUTPUTS[2], given=2))[PREFIX_BYTES:]
    record = [tuple(field) if isinstance(field, list) else field for field in unpack_record(body)]
    record[index] = value
    return signed(pack_record(tuple(record)))


def make_invalid() -> list[Vector]:
    """Bytes that must be refused, and at which step: decode or authentication."""
    fine = sign_checkpoint(BOB, checkpoint_of(OUTPUTS[2], given=2))
    body = fine[PREFIX_BYTES:]
    cases = [
        ("empty", b"", "decode"),
        ("no body", fine[:PREFIX_BYTES], "decode"),
        ("truncated", fine[:-1], "decode"),
        ("trailing byte", signed(body + b"\0"), "decode"),
        ("longer than one may be", signed(body + bytes(400)), "decode"),
        ("node id of small order", bytes(32) + fine[32:], "decode"),
        ("version 0", with_field(0, 0), "decode"),
        ("version 2", with_field(0, 2), "decode"),
        ("model id too short", with_field(1, "m-00"), "decode"),
        ("of the class upstream", with_field(2, "upstream"), "decode"),
        (
            "temperature a negative zero",
            with_field(3, (-0.0, 1.0, 40, 256, 0, 1.0, 0.0, 0.0)),
            "decode",
        ),
        ("a sampler without penalties", with_field(3, (0.8, 1.0, 40, 256, 0)), "decode"),
        ("nonce of 31 bytes", with_field(4, bytes(31)), "decode"),
        ("commitment of 33 bytes", with_field(5, bytes(33)), "decode"),
        ("as many given as there are", with_field(6, 4), "decode"),
        ("no token", with_field(7, 0), "decode"),
        ("more tokens than an answer has", with_field(7, (1 << 17) + 1), "decode"),
        ("hash of 31 bytes", with_field(8, bytes(31)), "decode"),
        ("a time before the epoch", with_field(9, -1), "decode"),
        ("signed by another", BOB.node_id + signed(body, MALLORY)[32:], "authentication"),
        ("another's name on it", MALLORY.node_id + fine[32:], "authentication"),
        ("signature of another purpose", signed(body, context=b"clove-receipt/1"), "authentication"),
        (
            "another body under the signature",
            fine[:PREFIX_BYTES] + with_field(7, 5)[PREFIX_BYTES:],
            "authentication",
        ),
    ]
    return [{"name": name, "checkpoint": data.hex(), "error": error} for name, data, error in cases]


def make() -> str:
    """The file's content."""
    cases = {"output_hashes": make_hashes(), "valid": make_valid(), "invalid": make_invalid()}
    return json.dumps(cases, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(make(), encoding="utf-8")
