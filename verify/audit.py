"""The audit: does one replay bear out a receipt?

Three tests, each with a bar for the pair (the node's numerics class, the auditor's):

- Token margin. m_t = max_v(l_v + T G_v) - (l_y + T G_y) says how far token y fell short of the one that the
  sampler's noise G picks; honest arithmetic keeps nearly all of them at 0. x_t = [m_t > epsilon] feeds a
  betting e-process E_n = mean_j prod_t (q1_j / q0)^x ((1 - q1_j) / (1 - q0))^(1 - x). Were x_t 1 with
  probability q0 at most, E would reach 1/alpha with probability alpha at most, at whatever point one stops
  (Ville's inequality); so it rejects there.
- Fingerprint. The mean relative distance of the claimed hidden states to the replayed ones.
- Log-prob gap. The mean difference of the claimed log-probabilities to the replayed ones.

Where another node had begun the answer, the three are about the signer's own tokens; those it was given are held to the
first test, apart: those of each signer, those that nobody signed, and all together. Nothing here runs a model: the
replay comes in as values.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from verify.fingerprint import distances
from verify.ports import Replay
from verify.receipt import Receipt, round_logprob
from verify.verdict import Figures, Finding, Part, Reason, Verdict

ALTERNATIVES = (0.02, 0.05, 0.2, 0.6)
"""q1_j: the rates of exceedances that the e-process bets on."""
ALPHA = 1e-4
"""How often an honest answer may be rejected."""


@dataclass(frozen=True, slots=True)
class Bars:
    """What an honest node of one numerics class shows to an auditor of another.

    q0 bounds the rate of margins over epsilon (in logits). calibrated is False where nobody has measured
    honest nodes.
    """

    epsilon: float
    q0: float
    fingerprint_distance: float
    logprob_gap: float
    calibrated: bool


Table = Mapping[tuple[str, str], Bars]
"""Bars by (the node's numerics class, the auditor's)."""

_FP32 = Bars(epsilon=2e-3, q0=0.002, fingerprint_distance=2e-3, logprob_gap=5e-3, calibrated=True)
_BF16 = Bars(epsilon=0.25, q0=0.02, fingerprint_distance=5e-2, logprob_gap=0.1, calibrated=False)

FIXED_TABLE: Table = {
    ("torch-fp32", "torch-fp32"): _FP32,
    ("int8-fp32", "int8-fp32"): _FP32,  # arithmetic is the same; only the weights differ
    ("torch-bf16", "torch-bf16"): _BF16,
    ("torch-bf16", "torch-fp32"): _BF16,
    ("torch-fp32", "torch-bf16"): _BF16,
}
"""Used until self-play at install measures these. docs/spec/receipt.md says what the bars of torch-fp32 and int8-fp32
rest on; those with torch-bf16 are guesses, marked as such."""


def audit(
    receipt: Receipt, replay: Replay, table: Table = FIXED_TABLE, parts: tuple[Part, ...] = ()
) -> Verdict:
    """Holds a receipt's tokens, fingerprints and log-probabilities against a replay of them.

    parts: who signed which tokens, where several nodes did.
    """
    count = len(receipt.output_ids)
    given = receipt.given
    if not len(replay.margins) == len(replay.logprobs) == len(replay.fingerprints) == count:
        raise ValueError(f"a replay of other than the receipt's {count} tokens")
    pair = (receipt.numerics_class, replay.numerics_class)
    bars = table.get(pair)
    if bars is None:
        detail = f"there are no bars for {pair[0]} audited by {pair[1]}"
        return Verdict((Reason(Finding.NUMERICS, detail),), None, parts=parts)
    figures = _measure(receipt, replay, bars)
    by_part = tuple(_reasons_in_parts(parts, replay.margins, bars))
    beginning = by_part or _reasons_in_beginning(replay.margins[:given], bars)
    notes = () if bars.calibrated else (f"the bars for {pair[0]} audited by {pair[1]} are not calibrated",)
    reasons = (*beginning, *_reasons_in(figures))
    measured = tuple(
        replace(part, exceedances=sum(_exceedances_of(part, replay.margins, bars))) for part in parts
    )
    return Verdict(reasons, figures, notes, parts=measured)


def log10_e(exceedances: Iterable[bool], q0: float) -> float:
    """The greatest value of the e-process over these tokens in their order, as a decimal logarithm."""
    ups = [math.log(q1 / q0) for q1 in ALTERNATIVES]
    downs = [math.log((1 - q1) / (1 - q0)) for q1 in ALTERNATIVES]
    logs = [0.0] * len(ALTERNATIVES)
    greatest = 0.0
    for exceeds in exceedances:
        logs = [value + step for value, step in zip(logs, ups if exceeds else downs, strict=True)]
        top = max(logs)
        mean = top + math.log(sum(math.exp(value - top) for value in logs) / len(logs))
        greatest = max(greatest, mean)
    return greatest / math.log(10)


def _measure(receipt: Receipt, replay: Replay, bars: Bars) -> Figures:
    # `not <=` and not `>`: a margin that is not a number speaks against the answer.
    margins, given = replay.margins[receipt.given :], receipt.given
    exceeds = [not margin <= bars.epsilon for margin in margins]
    apart = distances(receipt.fingerprints, replay.fingerprints[given:])
    gaps = [
        abs(claimed - round_logprob(replayed))
        for claimed, replayed in zip(receipt.logprobs, replay.logprobs[given:], strict=True)
    ]
    return Figures(
        tokens=len(exceeds),
        exceedances=sum(exceeds),
        largest_margin=max(margins, default=0.0),
        epsilon=bars.epsilon,
        log10_e=log10_e(exceeds, bars.q0),
        reject_log10_e=-math.log10(ALPHA),
        fingerprint_distance=_mean(apart),
        largest_fingerprint_distance=max(apart, default=0.0),
        fingerprint_bar=bars.fingerprint_distance,
        logprob_gap=_mean(gaps),
        largest_logprob_gap=max(gaps, default=0.0),
        logprob_bar=bars.logprob_gap,
    )


def _reasons_in_beginning(margins: Sequence[float], bars: Bars) -> tuple[Reason, ...]:
    """What is wrong with tokens that an earlier node gave: the signer answers for his own only, the answer for all."""
    exceeds = [not margin <= bars.epsilon for margin in margins]
    if log10_e(exceeds, bars.q0) < -math.log10(ALPHA):
        return ()
    of_all = f"{sum(exceeds)} of the first {len(exceeds)} tokens, which an earlier node gave,"
    return (Reason(Finding.GIVEN, f"{of_all} are not the ones that model, sampler and nonce give"),)


def _reasons_in_parts(parts: Iterable[Part], margins: Sequence[float], bars: Bars) -> Iterator[Reason]:
    """Which parts of earlier nodes are wrong by themselves. Who signed one is convicted by its checkpoint."""
    for part in parts:
        exceeds = _exceedances_of(part, margins, bars)
        if part.signed_by == "receipt" or log10_e(exceeds, bars.q0) < -math.log10(ALPHA):
            continue
        node = "an earlier node" if part.node_id is None else part.node_id.hex()[:16]
        whose = f"{node} signed" if part.signed_by else f"{node} gave and nobody signed"
        of_all = f"{sum(exceeds)} of tokens {part.first} to {part.last}, which {whose},"
        yield Reason(Finding.GIVEN, f"{of_all} are not the ones that model, sampler and nonce give")


def _exceedances_of(part: Part, margins: Sequence[float], bars: Bars) -> list[bool]:
    return [not margin <= bars.epsilon for margin in margins[part.first - 1 : part.last]]


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found) if found else 0.0


def _reasons_in(figures: Figures) -> tuple[Reason, ...]:
    reasons = []
    if figures.log10_e >= figures.reject_log10_e:
        of_all = f"{figures.exceedances} of {figures.tokens} tokens"
        odds = f"E = 10^{figures.log10_e:.1f}, rejected from 10^{figures.reject_log10_e:.0f}"
        reasons.append(
            Reason(Finding.MARGINS, f"{of_all} are not the ones that model, sampler and nonce give ({odds})")
        )
    measured = (
        (Finding.FINGERPRINTS, "hidden states", figures.fingerprint_distance, figures.fingerprint_bar),
        (Finding.LOGPROBS, "log-probabilities", figures.logprob_gap, figures.logprob_bar),
    )
    for finding, what, value, bar in measured:
        if not value <= bar:
            reasons.append(
                Reason(finding, f"{what} are {value:.2g} off the model's, at most {bar:.2g} passes")
            )
    return tuple(reasons)
