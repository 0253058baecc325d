"""Seeded sampling of one position, exactly as docs/spec/sampling.md says. Pure Python over at most 64 candidates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from crypto.seeded import gumbel_noise, token_seed
from overlay.wire.prompt import SamplerSpec


@dataclass(frozen=True, slots=True)
class Candidates:
    """The most likely tokens of one position, by their adjusted logits: falling, equal ones by rising id."""

    ids: Sequence[int]
    logits: Sequence[float]


@dataclass(frozen=True, slots=True)
class SeededPosition:
    """Which noise applies: the position in the whole answer, under the request's nonce and prompt."""

    nonce: bytes
    prompt_hash: bytes
    position: int

    def noise(self, token_ids: Sequence[int]) -> list[float]:
        """Gumbel noise of these tokens."""
        return gumbel_noise(token_seed(self.nonce, self.prompt_hash, self.position), token_ids)


def sample(candidates: Candidates, spec: SamplerSpec, seeded: SeededPosition) -> int:
    """Index among the candidates of the token to take: argmax(l + T * G), plain argmax at temperature 0."""
    kept = nucleus(candidates, spec)
    if kept == 1:
        return 0
    scores = _scores(candidates, kept, spec, seeded)
    return min(range(kept), key=lambda i: (-scores[i], candidates.ids[i]))


def margin(
    candidates: Candidates, spec: SamplerSpec, seeded: SeededPosition, token_id: int, token_logit: float
) -> float:
    """How far a token fell short of the one that sampling takes; 0 when it is that one.

    For a token outside the candidates that remain after top-k and top-p it is at least its logit's distance to the
    last of them.
    """
    kept = nucleus(candidates, spec)
    scores = _scores(candidates, kept, spec, seeded)
    best = max(scores)
    for index in range(kept):
        if candidates.ids[index] == token_id:
            return max(best - scores[index], 0.0)
    score = token_logit + spec.temperature * seeded.noise([token_id])[0]
    return max(best - score, candidates.logits[kept - 1] - token_logit, 0.0)


def nucleus(candidates: Candidates, spec: SamplerSpec) -> int:
    """How many candidates remain: the first top_k, then the fewest whose softmax(l / T) adds up to top_p."""
    if spec.temperature <= 0.0:
        return 1
    kept = max(1, min(spec.top_k, len(candidates.ids)))
    if spec.top_p >= 1.0:
        return kept
    highest = candidates.logits[0]
    weights = [math.exp((logit - highest) / spec.temperature) for logit in candidates.logits[:kept]]
    wanted, mass = spec.top_p * math.fsum(weights), 0.0
    for index, weight in enumerate(weights):
        mass += weight
        if mass >= wanted:
            return index + 1
    return kept


def _scores(candidates: Candidates, kept: int, spec: SamplerSpec, seeded: SeededPosition) -> list[float]:
    if spec.temperature <= 0.0:
        return list(candidates.logits[:kept])
    noise = seeded.noise(candidates.ids[:kept])
    return [
        logit + spec.temperature * gumbel
        for logit, gumbel in zip(candidates.logits[:kept], noise, strict=True)
    ]
