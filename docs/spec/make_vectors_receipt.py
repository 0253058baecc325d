"""Makes docs/spec/vectors/receipt.json: `python -m docs.spec.make_vectors_receipt` in the repository's root.

Byte strings are hex. Keys come from fixed seeds; signatures are Ed25519's and so fixed too.
"""

import json
import struct
from dataclasses import asdict
from hashlib import shake_256
from pathlib import Path

from crypto.identity import IdentityKey
from overlay.wire.answer_terms import SamplerTerms
from overlay.wire.prompt import ChatMessage, ModelId, Prompt, SamplerSpec
from overlay.wire.records import pack_record, unpack_record
from verify.receipt import CONTEXT, Receipt, commit_prompt, round_logprob, sign_receipt
from verify.stated import StatedAnswer, commit_answer_text, commit_prompt_text, upstream_model_id

Vector = dict[str, object]

FILE = Path(__file__).parent / "vectors" / "receipt.json"
UNIX_TIME = 1_800_000_000
PREFIX_BYTES = 96
PROMPTS = ((), (0,), (1, 4093, 198, 49151, (1 << 32) - 1), tuple(range(300)))
ENDED_IDS = (6403, 338, 260, 2)
ALIASES = ("llama-8b", "a")
TURNS = (ChatMessage("system", "Answer in one word."), ChatMessage("user", "Wie hei\u00dft das? \U0001f9c4"))
ANSWER_TEXTS = ("", "Knoblauch.", "\U0001f9c4" * 100)


def seed_of(name: str) -> bytes:
    """32 fixed bytes."""
    return shake_256(f"clovenet vectors 1 receipt {name}".encode()).digest(32)


BOB, MALLORY = (IdentityKey.from_seed(seed_of(name)) for name in ("bob", "mallory"))


def fingerprint_of(position: int) -> bytes:
    """A fingerprint: scale and 16 steps."""
    steps = [(position * 37 + dimension * 29) % 255 - 127 for dimension in range(16)]
    return struct.pack("<e16b", 0.03125 * (position + 1), *steps)


def receipt_of(ids: tuple[int, ...], **changes: object) -> Receipt:
    """A receipt for these tokens."""
    fields: dict[str, object] = {
        "model_id": ModelId("m-" + "0123456789" * 4),
        "numerics_class": "torch-fp32",
        "sampler": SamplerTerms(0.8, 0.95, 40, 256, 3, 1.1, 0.5, -0.25),
        "nonce": seed_of("nonce"),
        "commitment": commit_prompt(PROMPTS[2], seed_of("blinding")),
        "serial": 7,
        "output_ids": ids,
        "logprobs": tuple(round_logprob(-0.37 * position) for position in range(len(ids))),
        "fingerprints": tuple(fingerprint_of(position) for position in range(len(ids))),
        "finish_reason": "stop",
        "prompt_tokens": len(PROMPTS[2]),
        "cached_tokens": 2,
        "issued_unix": UNIX_TIME,
    }
    return Receipt(**{**fields, **changes})  # type: ignore[arg-type]


def own_part(given: int) -> dict[str, object]:
    """What a node states beside the ids of `ENDED_IDS` where so many were given."""
    whole = receipt_of(ENDED_IDS)
    return {"logprobs": whole.logprobs[given:], "fingerprints": whole.fingerprints[given:]}


def make_commitments() -> list[Vector]:
    """Prompts under blindings."""
    blindings = [seed_of(f"blinding {number}") for number in range(2)]
    return [
        {
            "prompt_ids": list(ids),
            "blinding": blinding.hex(),
            "commitment": commit_prompt(ids, blinding).hex(),
        }
        for ids in PROMPTS
        for blinding in blindings
    ]


def prompts() -> tuple[Prompt, ...]:
    """A text, an empty one, and a conversation."""
    fixed = {"model": "llama-8b", "sampler": SamplerSpec(), "nonce": seed_of("nonce")}
    texts = tuple(Prompt(text=text, **fixed) for text in ("Once upon", ""))  # type: ignore[arg-type]
    return (*texts, Prompt(messages=TURNS, **fixed))  # type: ignore[arg-type]


def make_text_commitments() -> list[Vector]:
    """Prompts as texts, and texts of answers, under a blinding."""
    blinding = seed_of("blinding 0")
    asked: list[Vector] = [
        {
            "text": prompt.text,
            "messages": [[turn.role, turn.content] for turn in prompt.messages],
            "blinding": blinding.hex(),
            "commitment": commit_prompt_text(prompt, blinding).hex(),
        }
        for prompt in prompts()
    ]
    said: list[Vector] = [
        {"answer": text, "blinding": blinding.hex(), "commitment": commit_answer_text(text, blinding).hex()}
        for text in ANSWER_TEXTS
    ]
    return asked + said


def stated_receipt(**changes: object) -> Receipt:
    """A receipt for an answer of an upstream engine."""
    blinding = seed_of("blinding")
    fields: dict[str, object] = {
        "model_id": upstream_model_id(ALIASES[0]),
        "numerics_class": "upstream",
        "commitment": commit_prompt_text(prompts()[2], blinding),
        "stated": StatedAnswer(4, commit_answer_text(ANSWER_TEXTS[1], blinding)),
    }
    return receipt_of((), **{**fields, **changes})


def make_valid() -> list[Vector]:
    """Receipts and what they say."""
    ended = receipt_of(ENDED_IDS)
    cases = (
        ("ended", ended),
        (
            "cut at its length",
            receipt_of((5, 6), finish_reason="length", sampler=SamplerTerms(0.0, 1.0, 1, 2)),
        ),
        ("no tokens, greatest serial", receipt_of((), serial=(1 << 64) - 1, cached_tokens=0)),
        ("stated only", stated_receipt()),
        ("begun by another node", receipt_of(ENDED_IDS, given=2, **own_part(2))),
        (
            "given whole by another node",
            receipt_of(ENDED_IDS, given=len(ENDED_IDS), **own_part(len(ENDED_IDS))),
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
            "serial": found.serial,
            "output_ids": list(found.output_ids),
            "logprobs": list(found.logprobs),
            "fingerprints": [fingerprint.hex() for fingerprint in found.fingerprints],
            "finish_reason": found.finish_reason,
            "prompt_tokens": found.prompt_tokens,
            "cached_tokens": found.cached_tokens,
            "issued_unix": found.issued_unix,
            "stated": None
            if found.stated is None
            else {"tokens": found.stated.tokens, "text_commitment": found.stated.text_commitment.hex()},
            "given": found.given,
            "receipt": sign_receipt(BOB, found).hex(),
        }
        for name, found in cases
    ]


def signed(body: bytes, key: IdentityKey = BOB) -> bytes:
    """Any body with a signature that holds."""
    return key.node_id + key.sign(CONTEXT, key.node_id + body) + body


def with_field(index: int, value: object, receipt: Receipt | None = None) -> bytes:
    """A receipt, the first one unless given, with one field of the record changed, signed anew."""
    body = sign_receipt(BOB, receipt or receipt_of(ENDED_IDS))[PREFIX_BYTES:]
    record = [_as_tuple(field) for field in unpack_record(body)]
    record[index] = value
    return signed(pack_record(tuple(record)))


def with_ids() -> bytes:
    """A stated receipt that has a token, too."""
    record = [_as_tuple(field) for field in unpack_record(sign_receipt(BOB, stated_receipt())[PREFIX_BYTES:])]
    record[11:14] = [bytes(4), bytes(2), fingerprint_of(0)]
    return signed(pack_record(tuple(record)))


def with_terms(*beginning: object) -> bytes:
    """The first receipt with the beginning of its sampler's terms changed, signed anew."""
    plain = (0.8, 1.0, 40, 256, 0, 1.0, 0.0, 0.0)
    return with_field(3, (*beginning, *plain[len(beginning) :]))


def _as_tuple(field: object) -> object:
    return tuple(field) if isinstance(field, list) else field


def make_invalid() -> list[Vector]:
    """Bytes that must be refused, and at which step: decode or authentication."""
    fine = sign_receipt(BOB, receipt_of(ENDED_IDS))
    body = fine[PREFIX_BYTES:]
    count = len(ENDED_IDS)
    cases = [
        ("empty", b"", "decode"),
        ("no body", fine[:PREFIX_BYTES], "decode"),
        ("truncated", fine[:-1], "decode"),
        ("trailing byte", signed(body + b"\0"), "decode"),
        ("node id of small order", bytes(32) + fine[32:], "decode"),
        ("version 2", with_field(0, 2), "decode"),
        ("version 4", with_field(0, 4), "decode"),
        ("model id too short", with_field(1, "m-00"), "decode"),
        ("temperature not a number", with_terms(float("nan")), "decode"),
        ("temperature a negative zero", with_terms(-0.0), "decode"),
        ("temperature an integer", with_terms(1), "decode"),
        ("top_k 65", with_terms(0.8, 1.0, 65), "decode"),
        ("more tokens at least than at most", with_terms(0.8, 1.0, 40, 256, 257), "decode"),
        ("repetition penalty 2.5", with_terms(0.8, 1.0, 40, 256, 0, 2.5), "decode"),
        ("presence penalty a negative zero", with_terms(0.8, 1.0, 40, 256, 0, 1.0, -0.0), "decode"),
        ("frequency penalty -3", with_terms(0.8, 1.0, 40, 256, 0, 1.0, 0.0, -3.0), "decode"),
        ("a sampler of version 1", with_field(3, (0.8, 1.0, 40, 256)), "decode"),
        ("nonce of 31 bytes", with_field(4, bytes(31)), "decode"),
        ("unknown finish reason", with_field(7, 2), "decode"),
        ("more cached than prompt tokens", with_field(9, 6), "decode"),
        ("ids not whole", with_field(11, bytes(15)), "decode"),
        ("fewer ids than log-probabilities", with_field(11, bytes(12)), "decode"),
        ("a positive log-probability", with_field(12, struct.pack("<e", 0.5) * count), "decode"),
        ("a log-probability that is not a number", with_field(12, b"\x00\x7e" * count), "decode"),
        ("a fingerprint of scale 0", with_field(13, bytes(18) * count), "decode"),
        ("a fingerprint with step -128", with_field(13, (b"\x00\x3c" + b"\x80" * 16) * count), "decode"),
        ("stated, of a class that is replayed", with_field(14, (4, bytes(32))), "decode"),
        ("of the class upstream, not stated", with_field(2, "upstream"), "decode"),
        ("stated and with ids", with_ids(), "decode"),
        ("stated, with a short commitment", with_field(14, (4, bytes(31)), stated_receipt()), "decode"),
        ("stated, with a negative count", with_field(14, (-1, bytes(32)), stated_receipt()), "decode"),
        ("more given than there are", with_field(15, count + 1), "decode"),
        ("given, and accounted for as its own", with_field(15, 1), "decode"),
        ("signed by another", BOB.node_id + signed(body, MALLORY)[32:], "authentication"),
        ("another's name on it", MALLORY.node_id + fine[32:], "authentication"),
        ("signature of another purpose", resigned(b"clove-descriptor/1", body), "authentication"),
        (
            "another body under the signature",
            fine[:PREFIX_BYTES] + with_field(6, 8)[PREFIX_BYTES:],
            "authentication",
        ),
    ]
    return [{"name": name, "receipt": data.hex(), "error": error} for name, data, error in cases]


def resigned(context: bytes, body: bytes) -> bytes:
    """A signature of bob's for something else."""
    return BOB.node_id + BOB.sign(context, BOB.node_id + body) + body


def make() -> str:
    """The file's content."""
    cases = {
        "commitments": make_commitments(),
        "text_commitments": make_text_commitments(),
        "upstream_model_ids": {alias: upstream_model_id(alias) for alias in ALIASES},
        "valid": make_valid(),
        "invalid": make_invalid(),
    }
    return json.dumps(cases, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(make(), encoding="utf-8")
