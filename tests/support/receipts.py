"""Receipts, replays and records for tests: one small answer, and what an honest replay of it shows."""

import struct
from dataclasses import dataclass, replace

from crypto.identity import IdentityKey
from overlay.wire.answer_terms import UPSTREAM, SamplerTerms
from overlay.wire.prompt import ChatMessage, ModelId, Prompt, SamplerSpec
from tests.support.descriptors import MODEL_ID, UNIX_TIME, fixed_key
from verify.answer import AnswerRecord
from verify.ports import Ending
from verify.receipt import Receipt, commit_prompt, round_logprob, sign_receipt
from verify.stated import (
    StatedAnswer,
    commit_answer_text,
    commit_prompt_text,
    upstream_model_id,
)

PROMPT_IDS = (1, 4093, 198, 77, 2)
BLINDING = b"\x07" * 32
NONCE = b"\x09" * 32
SAMPLER = SamplerSpec(temperature=0.8, top_p=0.95, top_k=40, max_tokens=24)
PROMPT = Prompt(model="smollm2-135m", messages=(ChatMessage("user", "why?"),), sampler=SAMPLER, nonce=NONCE)
TEXT = "because it is so"


def fingerprint(position: int, *, shift: int = 0) -> bytes:
    """A fingerprint that depends on its position; shift moves every dimension by so many steps."""
    steps = [(position * 31 + dimension * 17) % 200 - 100 + shift for dimension in range(16)]
    return struct.pack("<e16b", 0.25 + position / 64, *steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeReplay:
    model_id: ModelId = MODEL_ID
    numerics_class: str = "torch-fp32"
    prompt_ids: tuple[int, ...] = PROMPT_IDS
    text: str = TEXT
    ending: Ending = "eos"
    margins: tuple[float, ...]
    logprobs: tuple[float, ...]
    fingerprints: tuple[bytes, ...]


def make_receipt(tokens: int = 16, **changes) -> Receipt:
    logprobs = tuple(-0.1 - 0.37 * position for position in range(tokens))
    fields = {
        "model_id": MODEL_ID,
        "numerics_class": "torch-fp32",
        "sampler": SamplerTerms.of(SAMPLER),
        "nonce": NONCE,
        "commitment": commit_prompt(PROMPT_IDS, BLINDING),
        "serial": 41,
        "output_ids": tuple(range(100, 100 + tokens)),
        "logprobs": tuple(round_logprob(logprob) for logprob in logprobs),
        "fingerprints": tuple(fingerprint(position) for position in range(tokens)),
        "finish_reason": "stop",
        "prompt_tokens": len(PROMPT_IDS),
        "cached_tokens": 2,
        "issued_unix": UNIX_TIME,
    }
    return Receipt(**{**fields, **changes})


def make_stated_receipt(**changes) -> Receipt:
    """The receipt of the same answer by a node whose engine is an upstream server."""
    fields = {
        "model_id": upstream_model_id(PROMPT.model),
        "numerics_class": UPSTREAM,
        "commitment": commit_prompt_text(PROMPT, BLINDING),
        "stated": StatedAnswer(16, commit_answer_text(TEXT, BLINDING)),
    }
    return make_receipt(0, **{**fields, **changes})


def honest_replay(receipt: Receipt, **changes) -> FakeReplay:
    """What an honest answer's replay shows."""
    fields = {
        "margins": (0.0,) * len(receipt.output_ids),
        "logprobs": receipt.logprobs,
        "fingerprints": receipt.fingerprints,
    }
    return FakeReplay(**{**fields, **changes})


def make_record(
    receipt: Receipt | None = None,
    *,
    key: IdentityKey | None = None,
    prompt: Prompt = PROMPT,
    blinding: bytes = BLINDING,
    text: str = TEXT,
) -> AnswerRecord:
    """The user's record of an answer, with bob's receipt unless another key signs it."""
    signer = key or fixed_key("bob")
    return AnswerRecord(
        prompt=prompt,
        blinding=blinding,
        text=text,
        node_id=fixed_key("bob").node_id,
        model_id=MODEL_ID,
        numerics_class="torch-fp32",
        receipt=sign_receipt(signer, receipt or make_receipt()),
        created_unix=UNIX_TIME,
    )


def make_stated_record(receipt: Receipt | None = None, **changes) -> AnswerRecord:
    """The user's record of an answer that an upstream engine gave."""
    record = make_record(receipt or make_stated_receipt(), key=changes.pop("key", None))
    offered = {"model_id": upstream_model_id(PROMPT.model), "numerics_class": UPSTREAM}
    return replace(record, **{**offered, **changes})


class FakeScorer:
    """Replays by rote: gives what it was told, or raises it, and remembers what it was asked."""

    def __init__(self, outcome) -> None:
        self.outcome = outcome
        self.asked = []

    async def replay(self, prompt, output_ids):
        self.asked.append((prompt, tuple(output_ids)))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome
