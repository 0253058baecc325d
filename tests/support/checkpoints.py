"""Checkpoints of the small answer that `tests.support.receipts` has, and of parts of it."""

from crypto.identity import IdentityKey
from overlay.wire.answer_terms import SamplerTerms
from overlay.wire.checkpoint import Checkpoint, OutputHash, sign_checkpoint
from tests.support.descriptors import MODEL_ID, UNIX_TIME, fixed_key
from tests.support.receipts import NONCE, PROMPT_IDS, SAMPLER, make_receipt
from verify.parts import KeptPart
from verify.receipt import commit_prompt

IDS = make_receipt().output_ids
PART_BLINDING = b"\x0b" * 32
"""Of the prompt as an earlier node had it."""


def make_checkpoint(count: int, given: int = 0, **changes) -> Checkpoint:
    """What a node states after so many tokens of the answer, of which so many were given to it."""
    fields = {
        "model_id": MODEL_ID,
        "numerics_class": "torch-fp32",
        "sampler": SamplerTerms.of(SAMPLER),
        "nonce": NONCE,
        "commitment": commit_prompt(PROMPT_IDS, PART_BLINDING),
        "given": given,
        "count": count,
        "output_hash": OutputHash(IDS[:count]).digest(),
        "issued_unix": UNIX_TIME,
    }
    return Checkpoint(**{**fields, **changes})


def make_part(
    until: int, checkpoint: Checkpoint | None, *, key: IdentityKey | None = None, node: str = "alice"
) -> KeptPart:
    """A part by alice that ends with token `until`; she signs the checkpoint unless another key does."""
    named = fixed_key(node)
    data = b"" if checkpoint is None else sign_checkpoint(key or named, checkpoint)
    return KeptPart(named.node_id, until, PART_BLINDING, data)
