"""Log-probabilities of tokens: as receipts state them, and as prompts that ask for them are told.

Always those of the raw logits at temperature 1 over the whole vocabulary, whatever the sampler made of these.
"""

import struct
from collections.abc import Callable, Sequence

import torch

from node.engine.model_runner import top_candidates
from overlay.wire.answer import RankedToken, TokenLogprobs

_LOWEST_HALF = -65504.0


def log_probabilities(logits: torch.Tensor, tokens: Sequence[int]) -> list[float]:
    """The natural log-probability of one token under each row of raw logits."""
    ids = torch.tensor(tokens, device=logits.device)[:, None]
    totals = logits.logsumexp(dim=-1, keepdim=True)
    found: list[float] = (logits.gather(1, ids).double() - totals.double()).flatten().tolist()
    return found


def tell_likeliest(
    logits: torch.Tensor, taken: tuple[int, float], count: int, bytes_of: Callable[[int], bytes]
) -> TokenLogprobs:
    """The token taken after one row of raw logits, [vocabulary], and the `count` likeliest ones in its place.

    taken: its id and log-probability, which is told as the receipt has it.
    """
    likeliest: list[RankedToken] = []
    if count:
        (found,), total = top_candidates(logits[None]), float(logits.logsumexp(dim=-1))
        for token, logit in zip(found.ids[:count], found.logits[:count], strict=True):
            likeliest.append(RankedToken(bytes_of(token), to_half(logit - total)))
    return TokenLogprobs(RankedToken(bytes_of(taken[0]), to_half(taken[1])), tuple(likeliest))


def to_half(logprob: float) -> float:
    """The nearest fp16 value that a receipt can carry: at most 0, and finite."""
    bounded = min(max(logprob, _LOWEST_HALF), 0.0)
    rounded: float = struct.unpack("<e", struct.pack("<e", bounded))[0]
    return rounded
