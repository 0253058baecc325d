"""Teacher-forced scoring of a given answer: what an audit is made of.

The answer's tokens are fed in one pass like a prompt; no logits kept from generation are used. Each answer token is
then held against what sampling would have taken after the same beginning.
"""

from dataclasses import dataclass, field

import torch

from node.engine.events import Ending
from node.engine.model_runner import ModelRunner, top_candidates
from node.engine.sampler import SeededPosition, margin, sample
from node.engine.sequence import Sequence

_ROWS_AT_ONCE = 32  # bounds the logits in memory: 32 x 262,144 tokens in fp32 are 34 MB


@dataclass(slots=True)
class Scores:
    """Figures of one replay, growing chunk by chunk, one entry per answer token."""

    margins: list[float] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    fingerprints: list[bytes] = field(default_factory=list)
    reference_ids: list[int] = field(default_factory=list)


def score_rows(scores: Scores, sequence: Sequence, hidden: torch.Tensor, runner: ModelRunner) -> None:
    """Score the answer tokens that these hidden states predict, in order."""
    for rows in hidden.split(_ROWS_AT_ONCE):
        scores.fingerprints += runner.fingerprints(rows)
        logits = runner.logits(rows)
        for row, candidates in zip(logits, top_candidates(logits), strict=True):
            position = len(scores.margins)
            chosen = (sequence.forced_ids or ())[position]
            chosen_logit = float(row[chosen])
            seeded = SeededPosition(sequence.nonce, sequence.prompt_hash, position)
            scores.margins.append(margin(candidates, sequence.sampler, seeded, chosen, chosen_logit))
            scores.reference_ids.append(candidates.ids[sample(candidates, sequence.sampler, seeded)])
            scores.logprobs.append(chosen_logit - candidates.log_total)


def read_ending(sequence: Sequence, end_ids: frozenset[int]) -> tuple[str, Ending]:
    """The text of a given answer, and how it ends under the sampler's own rules."""
    ids = sequence.forced_ids or ()
    shown: list[str] = []
    ended_at, ending = len(ids), "early"
    for index, token in enumerate(ids):
        if token in end_ids:
            ended_at, ending = index + 1, "eos"
            break
        shown.append(sequence.text.push(token))
        if sequence.text.stopped:
            ended_at, ending = index + 1, "stop"
            break
    shown.append(sequence.text.finish())
    if ended_at < len(ids) or len(ids) > sequence.max_output:
        return "".join(shown), "overrun"
    if ending == "early" and len(ids) == sequence.max_output:
        return "".join(shown), "length"
    return "".join(shown), ending  # type: ignore[return-value]
