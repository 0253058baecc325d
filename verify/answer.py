"""Checking one whole answer: what `clove verify` does with what `clove ask` kept.

The record is the user's own account of what was asked and what came back. Everything in it is held against
the node's receipt, and the receipt against a fresh replay. All that is wrong is reported, not only the
first thing. An answer of the class `upstream` can't be replayed: its receipt is held against the record alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from crypto.errors import AuthenticationError, DecodeError
from crypto.identity import NodeId
from overlay.wire.answer_terms import UPSTREAM, SamplerTerms
from overlay.wire.prompt import ModelId, Prompt
from verify.audit import FIXED_TABLE, Table, audit
from verify.errors import ReplayRefusedError
from verify.parts import Asked, KeptPart, divide
from verify.ports import Replay, Scorer
from verify.receipt import Receipt, commit_prompt, decode_receipt
from verify.stated import StatedAnswer, commit_answer_text, commit_prompt_text, upstream_model_id
from verify.verdict import Finding, Part, Reason, Verdict

_ENDINGS = {"eos": "stop", "stop": "stop", "length": "length"}
_ENDING_WORDS = {
    "eos": "with an end token",
    "stop": "at a stop string",
    "length": "at the length asked for",
    "early": "before the model's end",
    "overrun": "beyond their own end",
}


_UPSTREAM_NOTE = (
    "it comes from an upstream engine: nothing can be replayed, and which model it was is the node's word"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRecord:
    """An answer as its user keeps it. Encoded by `verify.record_codec`.

    node_id, model_id and numerics_class are what the chosen node's descriptor said when it was asked;
    blinding is the prompt's, 32 bytes; receipt is still encoded. given: how many of the answer's tokens came from
    earlier nodes, which failed; parts: theirs, in order, as far as they are kept.
    """

    prompt: Prompt
    blinding: bytes
    text: str
    node_id: NodeId
    model_id: ModelId
    numerics_class: str
    receipt: bytes
    created_unix: int
    given: int = 0
    parts: tuple[KeptPart, ...] = ()


async def check_answer(record: AnswerRecord, scorer: Scorer, table: Table = FIXED_TABLE) -> Verdict:
    """Checks a kept answer in full. Raises ReplayUnavailableError when the reference model can't be run."""
    opened = _open(record)
    if isinstance(opened, Verdict):
        return opened
    receipt, claims = opened
    # The promised model is run, whatever the receipt says.
    prompt = replace(record.prompt, model=record.model_id)
    try:
        replayed = await scorer.replay(prompt, receipt.output_ids)
    except ReplayRefusedError as error:
        parts, faults = _divide(record, receipt, None)
        return Verdict((*claims, *faults, Reason(Finding.REPLAY, str(error))), None, parts=parts)
    parts, faults = _divide(record, receipt, replayed.prompt_ids)
    found = audit(receipt, replayed, table, parts)
    reasons = (*claims, *faults, *_differing_replay(record, receipt, replayed), *found.reasons)
    return Verdict(reasons, found.figures, found.notes, parts=found.parts)


def _divide(
    record: AnswerRecord, receipt: Receipt, prompt_ids: Sequence[int] | None
) -> tuple[tuple[Part, ...], tuple[Reason, ...]]:
    """Who signed what, where more than one node did."""
    if not record.parts and not receipt.given:
        return (), ()
    asked = Asked(record.prompt, record.model_id, record.numerics_class, record.parts)
    return divide(asked, receipt, decode_receipt(record.receipt).signer, prompt_ids)


def check_without_model(record: AnswerRecord) -> Verdict | None:
    """The verdict that needs no model: on a broken receipt, or on an answer that can't be replayed. Else None."""
    opened = _open(record)
    return opened if isinstance(opened, Verdict) else None


def _open(record: AnswerRecord) -> Verdict | tuple[Receipt, tuple[Reason, ...]]:
    """The receipt with what is wrong with its claims, or the verdict where a replay would add nothing."""
    try:
        signed = decode_receipt(record.receipt)
    except DecodeError as error:
        return Verdict((Reason(Finding.MALFORMED, f"the receipt can't be read: {error}"),), None)
    stranger = _stranger(record, signed.signer)
    try:
        receipt = signed.check()
    except AuthenticationError:
        # Nothing in a receipt that nobody signed is worth a look.
        detail = "the receipt is not signed by the node that it names"
        return Verdict((Reason(Finding.SIGNATURE, detail), *stranger), None)
    claims = (*stranger, *_differing_claims(record, receipt))
    if receipt.stated is not None:
        stated = _differing_statement(record, receipt, receipt.stated)
        return Verdict((*claims, *stated), None, (_UPSTREAM_NOTE,), replayable=False)
    if record.numerics_class == UPSTREAM:
        # What was offered has no weights that a replay could run; that the receipt is for another class is a claim.
        return Verdict(claims, None, (_UPSTREAM_NOTE,), replayable=False)
    return receipt, claims


def _stranger(record: AnswerRecord, signer: NodeId) -> tuple[Reason, ...]:
    if signer == record.node_id:
        return ()
    return (
        Reason(Finding.NODE, f"signed by {signer.hex()[:16]}, while {record.node_id.hex()[:16]} was asked"),
    )


def _differing_claims(record: AnswerRecord, receipt: Receipt) -> Iterator[Reason]:
    """What can be seen without a model."""
    if receipt.model_id != record.model_id:
        yield Reason(Finding.MODEL, f"the receipt is for {receipt.model_id}, asked was {record.model_id}")
    if receipt.numerics_class != record.numerics_class:
        yield Reason(
            Finding.NUMERICS,
            f"the receipt is for {receipt.numerics_class}, offered was {record.numerics_class}",
        )
    asked = SamplerTerms.of(record.prompt.sampler)
    if receipt.sampler != asked:
        yield Reason(Finding.SAMPLER, f"the receipt says {receipt.sampler.differences(asked)}")
    if receipt.nonce != record.prompt.nonce:
        yield Reason(Finding.NONCE, "the receipt is for another nonce")
    if receipt.given != record.given:
        yield Reason(
            Finding.COUNTS,
            f"the receipt says that {receipt.given} tokens were given to the node, {record.given} were",
        )
    if len(receipt.output_ids) > asked.max_tokens:
        yield Reason(
            Finding.COUNTS, f"{len(receipt.output_ids)} tokens, asked were {asked.max_tokens} at most"
        )


def _differing_statement(record: AnswerRecord, receipt: Receipt, stated: StatedAnswer) -> Iterator[Reason]:
    """What can be seen of an answer that can't be replayed."""
    asked = record.prompt.model
    if record.model_id not in (asked, upstream_model_id(asked)):
        yield Reason(Finding.MODEL, f"{record.model_id} is not the id of an upstream engine's {asked!r}")
    if receipt.commitment != commit_prompt_text(record.prompt, record.blinding):
        yield Reason(Finding.PROMPT, "the receipt commits to another prompt")
    if stated.text_commitment != commit_answer_text(record.text, record.blinding):
        yield Reason(Finding.TEXT, "the receipt commits to another text")


def _differing_replay(record: AnswerRecord, receipt: Receipt, replayed: Replay) -> Iterator[Reason]:
    """What the replay shows beside the audit's figures."""
    if replayed.model_id != record.model_id:
        yield Reason(Finding.MODEL, f"the replay ran {replayed.model_id}, asked was {record.model_id}")
    if receipt.commitment != commit_prompt(replayed.prompt_ids, record.blinding):
        yield Reason(Finding.PROMPT, "the receipt commits to another prompt")
    if receipt.prompt_tokens != len(replayed.prompt_ids):
        yield Reason(
            Finding.COUNTS,
            f"the receipt counts {receipt.prompt_tokens} prompt tokens, there are {len(replayed.prompt_ids)}",
        )
    if record.text != replayed.text:
        at = _first_difference(record.text, replayed.text)
        yield Reason(Finding.TEXT, f"the text is not what the receipt's tokens say, from character {at} on")
    if _ENDINGS.get(replayed.ending) != receipt.finish_reason:
        yield Reason(
            Finding.FINISH,
            f"the receipt says {receipt.finish_reason}, its tokens end {_ENDING_WORDS[replayed.ending]}",
        )


def _first_difference(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))
