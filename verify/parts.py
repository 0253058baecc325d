"""The parts of an answer that several nodes gave, and who answers for each.

The last node's receipt covers the whole answer, and is its word for its own tokens only. Of a node that failed before,
there may be a checkpoint (`overlay.wire.checkpoint`): it covers its tokens up to one of them. What it gave after that
nobody signed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from crypto.errors import AuthenticationError, DecodeError
from crypto.identity import NodeId
from overlay.wire.answer_terms import SamplerTerms
from overlay.wire.checkpoint import Checkpoint, OutputHash, decode_checkpoint
from overlay.wire.prompt import ModelId, Prompt
from verify.receipt import Receipt, commit_prompt
from verify.verdict import Finding, Part, Reason


@dataclass(frozen=True, slots=True)
class KeptPart:
    """A part by a node that failed, as the user keeps it: the tokens after the part before, up to number `until`.

    node_id: who signed it or, where nobody did, who was asked. blinding: of the prompt that it was asked with.
    checkpoint: still encoded; empty where there is none.
    """

    node_id: NodeId
    until: int
    blinding: bytes
    checkpoint: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """What every node was asked for."""

    prompt: Prompt
    model_id: ModelId
    numerics_class: str
    parts: tuple[KeptPart, ...]


def divide(
    asked: Asked, receipt: Receipt, signer: NodeId, prompt_ids: Sequence[int] | None
) -> tuple[tuple[Part, ...], tuple[Reason, ...]]:
    """Who signed which tokens, none left out, and what is wrong with checkpoints.

    prompt_ids: None where no replay has told them; commitments to the prompt are not held against anything then.
    A checkpoint that doesn't hold is as good as none.
    """
    parts: list[Part] = []
    reasons: list[Reason] = []
    begin = 0
    for kept in asked.parts:
        signed_until = begin
        if kept.checkpoint:
            try:
                signed_until = _open(asked, kept, begin, receipt.output_ids, prompt_ids).count
            except DecodeError as fault:
                which = f"the checkpoint of {kept.node_id.hex()[:16]}"
                reasons.append(Reason(Finding.CHECKPOINT, f"{which} {fault}"))
        parts += _span(begin, signed_until, kept.node_id, is_signed=True)
        parts += _span(signed_until, kept.until, kept.node_id, is_signed=False)
        begin = kept.until
    parts += _span(begin, receipt.given, None, is_signed=False)
    if len(receipt.output_ids) > receipt.given:
        parts.append(Part(receipt.given + 1, len(receipt.output_ids), signer, "receipt"))
    return tuple(parts), tuple(reasons)


def _span(begin: int, end: int, node_id: NodeId | None, *, is_signed: bool) -> Iterator[Part]:
    if begin < end:
        yield Part(begin + 1, end, node_id, "checkpoint" if is_signed else None)


def _open(
    asked: Asked,
    kept: KeptPart,
    begin: int,
    output_ids: tuple[int, ...],
    prompt_ids: Sequence[int] | None,
) -> Checkpoint:
    """The checkpoint of a part, if it holds. Raises DecodeError, which says what does not."""
    try:
        signed = decode_checkpoint(kept.checkpoint)
        found = signed.check()
    except DecodeError as error:
        raise DecodeError(f"can't be read: {error}") from error
    except AuthenticationError as error:
        raise DecodeError("is not signed by the node that it names") from error
    if signed.signer != kept.node_id:
        raise DecodeError(f"is signed by {signed.signer.hex()[:16]}")
    stated = (found.model_id, found.numerics_class, found.sampler, found.nonce)
    sampler = SamplerTerms.of(asked.prompt.sampler)
    if stated != (asked.model_id, asked.numerics_class, sampler, asked.prompt.nonce):
        raise DecodeError("is for another model, numerics class, sampler or nonce")
    if found.given != begin or found.count > kept.until:
        raise DecodeError(f"is for tokens {found.given + 1} to {found.count}")
    if found.output_hash != OutputHash(output_ids[: found.count]).digest():
        raise DecodeError("is for other tokens than the receipt's")
    if prompt_ids is not None and found.commitment != commit_prompt(prompt_ids, kept.blinding):
        raise DecodeError("commits to another prompt")
    return found
