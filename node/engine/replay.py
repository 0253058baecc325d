"""Teacher-forced scoring of a given answer: what an audit is made of.

The answer's tokens are fed in one pass like a prompt; no logits kept from generation are used. Each answer token is
then held against what sampling would have taken after the same beginning.
"""

from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

import torch

from node.engine.events import Ending
from node.engine.logprobs import log_probabilities
from node.engine.model_runner import ModelRunner, adjust_logits, top_candidates
from node.engine.penalties import Penalties
from node.engine.sampler import SeededPosition, margin, sample
from node.engine.sequence import Sequence

_ROWS_AT_ONCE = 32  # bounds the logits in memory: 32 x 262,144 tokens in fp32 are 34 MB


@dataclass(slots=True)
class Scores:
    """Figures of one replay, growing chunk by chunk, one entry per answer token.

    penalties: what changes the logits that the next token was drawn from.
    """

    penalties: Penalties | None = None
    margins: list[float] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    fingerprints: list[bytes] = field(default_factory=list)
    reference_ids: list[int] = field(default_factory=list)


def score_rows(scores: Scores, sequence: Sequence, hidden: torch.Tensor, runner: ModelRunner) -> None:
    """Score the answer tokens that these hidden states predict, in order."""
    for rows in hidden.split(_ROWS_AT_ONCE):
        position = len(scores.margins)
        chosen = (sequence.forced_ids or ())[position : position + len(rows)]
        logits = runner.logits(rows)
        scores.fingerprints += runner.fingerprints(rows)
        scores.logprobs += log_probabilities(logits, chosen)
        _hold_against(scores, sequence, chosen, adjust_logits(logits, _advance(scores, chosen)))


def _advance(scores: Scores, chosen: Tokens[int]) -> list[Penalties | None]:
    """What changes the logits that each of these tokens was drawn from."""
    found = []
    for token in chosen:
        found.append(scores.penalties)
        scores.penalties = scores.penalties and scores.penalties.after(token)
    return found


def _hold_against(scores: Scores, sequence: Sequence, chosen: Tokens[int], logits: torch.Tensor) -> None:
    columns = zip(chosen, logits, top_candidates(logits), strict=True)
    for position, (token, row, candidates) in enumerate(columns, len(scores.margins)):
        seeded = SeededPosition(sequence.nonce, sequence.prompt_hash, position)
        scores.margins.append(margin(candidates, sequence.sampler, seeded, token, float(row[token])))
        scores.reference_ids.append(candidates.ids[sample(candidates, sequence.sampler, seeded)])


def read_ending(sequence: Sequence, end_ids: frozenset[int]) -> tuple[str, Ending]:
    """The text of a given answer, and how it ends under the sampler's own rules."""
    ids = sequence.forced_ids or ()
    shown: list[str] = []
    ended_at, ending = len(ids), "early"
    for index, token in enumerate(ids):
        if token in end_ids and index >= sequence.sampler.min_tokens:
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
