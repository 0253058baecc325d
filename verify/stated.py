"""What a node can only state of an answer: the part of a receipt for the numerics class `upstream`.

An upstream engine is a server that the node's operator runs beside it. It tells text and counts, but no token ids,
log-probabilities or hidden states, and nobody can replay it. The receipt of such an answer commits to texts in
the place of ids: to the prompt's, and to the answer's, so that the node is bound to what it said. Both
commitments are blinded by the user's secret (`docs/spec/receipt.md`).
"""

import hashlib
from dataclasses import dataclass

from overlay.wire.prompt import ModelId, Prompt
from overlay.wire.records import pack_record

BLINDING_BYTES = 32
COMMITMENT_BYTES = 32
MAX_STATED_TOKENS = 1 << 24
_PROMPT_LABEL = b"clove-prompt/1"
_ANSWER_LABEL = b"clove-answer/1"
_MODEL_LABEL = b"clove-upstream/1"
_MODEL_DIGEST_BYTES = 20


@dataclass(frozen=True, slots=True)
class StatedAnswer:
    """tokens: how many the answer has, as the upstream engine counted. text_commitment: `commit_answer_text` of it."""

    tokens: int
    text_commitment: bytes


def upstream_model_id(alias: str) -> ModelId:
    """The id of a model that an upstream engine serves: a hash of its alias, which says nothing of weights."""
    digest = hashlib.blake2b(alias.encode(), digest_size=_MODEL_DIGEST_BYTES, person=_MODEL_LABEL)
    return ModelId(f"m-{digest.hexdigest()}")


def commit_prompt_text(prompt: Prompt, blinding: bytes) -> bytes:
    """The blinded commitment to what a prompt says: 32 bytes over its text or its turns, as one record."""
    turns = tuple((turn.role, turn.content) for turn in prompt.messages)
    return _commit(pack_record((prompt.text, turns)), blinding, _PROMPT_LABEL)


def commit_answer_text(text: str, blinding: bytes) -> bytes:
    """The blinded commitment to an answer's text: 32 bytes over its UTF-8."""
    return _commit(text.encode(), blinding, _ANSWER_LABEL)


def _commit(data: bytes, blinding: bytes, label: bytes) -> bytes:
    if len(blinding) != BLINDING_BYTES:
        raise ValueError(f"a blinding has {BLINDING_BYTES} bytes")
    return hashlib.blake2b(data, digest_size=COMMITMENT_BYTES, key=blinding, person=label).digest()
