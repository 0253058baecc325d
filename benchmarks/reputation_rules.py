"""Two rules that decide whether a node is trusted, each fed what a node answers in an epoch of an hour.

Ours is the code of `verify`, with audits that see what pilots measured. PlanetServe's is that of its published code
(github.com/fffeifang/PlanetServe, its ReputationManager and VerificationConfig), with three challenges an epoch, which
nobody recognises here.
"""

import math
import random  # noqa: TID251 - the same traces in every run, no secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from verify.audit import ALPHA, ALTERNATIVES, FIXED_TABLE
from verify.evidence import Audit, EvidenceId, Flaw, Proof
from verify.lower_bound import UNIT
from verify.reputation import NEW_BELOW, Reputation, audit_rate, traffic_cap

TOKENS = 16
"""Of an audited answer."""
NETWORK_PER_H = 6000
Q0 = FIXED_TABLE["torch-fp32", "torch-fp32"].q0
PROOF_LOG_E = 9.0
POOL_AUDITS = 64
"""Answers whose evidence is pooled for one proof; then a new pool begins, at the same alpha of 1e-9."""
NO_ID = EvidenceId(b"")


@dataclass(frozen=True, slots=True)
class Attack:
    """What an audit of one cheated answer of 16 tokens sees.

    proven: the chance that it is a proof at once (a fingerprint far over its bar). power: the chance that its margins
    fail at alpha 1e-4; they may add up to a proof with those of other answers.
    """

    name: str
    proven: float = 0.0
    power: float = 0.0


INT8 = Attack("int8 weights (.95 at once)", proven=0.95)
FLIPS = Attack("small flips, power .5", power=0.5)
FEW_FLIPS = Attack("small flips, power .1", power=0.1)


def log_e(exceedances: int, tokens: int) -> list[float]:
    """Natural logarithms of the e-process's four bets, for so many margins over epsilon."""
    return [
        exceedances * math.log(q1 / Q0) + (tokens - exceedances) * math.log((1 - q1) / (1 - Q0))
        for q1 in ALTERNATIVES
    ]


def log10_mean(bets: Sequence[float]) -> float:
    """Of their exponentials, as a decimal logarithm."""
    top = max(bets)
    return (top + math.log(math.fsum(math.exp(bet - top) for bet in bets) / len(bets))) / math.log(10)


FAILS_FROM = next(count for count in range(TOKENS) if log10_mean(log_e(count, TOKENS)) >= -math.log10(ALPHA))


@cache
def exceedance_rate(power: float) -> float:
    """The rate of margins over epsilon at which an answer fails with this chance."""
    low, high = 0.0, 1.0
    for _ in range(50):
        rate = (low + high) / 2
        below = sum(
            math.comb(TOKENS, count) * rate**count * (1 - rate) ** (TOKENS - count)
            for count in range(FAILS_FROM)
        )
        low, high = (rate, high) if 1 - below < power else (low, rate)
    return low


class Ours:
    """`verify.reputation`, updated and acted upon at the end of each epoch."""

    def __init__(self, attack: Attack, draw: random.Random) -> None:
        self.attack, self.draw = attack, draw
        self.rate = exceedance_rate(attack.power) if attack.power else Q0
        self.reputation = Reputation()
        self.pool, self.pooled = [0.0] * len(ALTERNATIVES), 0
        self.audits = 0
        self.was_trusted = False

    @property
    def excluded(self) -> bool:
        """Whether a proof stands."""
        return self.reputation.banned

    @property
    def throttled(self) -> bool:
        """Whether it gets a newcomer's traffic."""
        return self.reputation.integrity.score < NEW_BELOW

    def live(self, answers: Sequence[bool]) -> int:
        """An epoch in which this is asked for, True for a cheated answer. Returns how many the node got to answer."""
        integrity = self.reputation.integrity.score
        cap = traffic_cap(integrity, NETWORK_PER_H)
        served, share = answers[:cap], audit_rate(integrity) / UNIT
        for cheats in served:
            if self.draw.random() < share:
                self._audit(cheats)
        return len(served)

    def _audit(self, cheats: bool) -> None:  # noqa: FBT001 - what an answer is
        self.audits += 1
        rate = self.rate if cheats else Q0  # the worst that an honest node may show
        count = sum(self.draw.random() < rate for _ in range(TOKENS))
        proven = cheats and self.draw.random() < self.attack.proven
        self.pool = [sum(pair) for pair in zip(self.pool, log_e(count, TOKENS), strict=True)]
        self.pooled += 1
        if proven or log10_mean(self.pool) >= PROOF_LOG_E:
            self.reputation = self.reputation.after(Proof(0, NO_ID, Flaw.FRAUD))
        failed = proven or count >= FAILS_FROM
        self.reputation = self.reputation.after(Audit(0, NO_ID, "failed" if failed else "passed"))
        if self.pooled == POOL_AUDITS:
            self.pool, self.pooled = [0.0] * len(ALTERNATIVES), 0


@dataclass(frozen=True, slots=True)
class Credit:
    """1/perplexity of answers: mean and spread (standard deviation) of honest and of cheated ones."""

    name: str
    honest: float
    cheated: float
    spread: float


AS_MEASURED = Credit("scores as measured", 0.145, 0.31, 0.014)
"""SmolLM2-135M at T = .8, scored .12 to .17, and its greedy int4 copy."""
PRUNED = Credit("scores as measured, pruned", 0.145, 0.40, 0.014)
"""The same, and a copy with 30 % of its weights gone."""
FAVOURABLE = Credit("scores in its favour", 0.7, 0.2, 0.05)
"""Assumed: a model so sure of itself, and a copy so bad, that the score separates them at once."""


class PlanetServe:
    """R = .4 R + .6 C; (W + 1) / (W + c / gamma + 2) instead of .6 where over a fifth of the window is abnormal."""

    START, UNTRUSTED, ALPHA, BETA, WINDOW, TAU, GAMMA = 0.5, 0.3, 0.4, 0.6, 5, 0.4, 0.2
    CHALLENGES = 3

    def __init__(self, credit: Credit, draw: random.Random) -> None:
        self.credit, self.draw = credit, draw
        self.score = self.START
        self.window: list[float] = []
        self.audits = 0

    @property
    def excluded(self) -> bool:
        """Whether it counts as untrusted."""
        return self.score < self.UNTRUSTED

    throttled = False

    def live(self, answers: Sequence[bool]) -> int:
        """An epoch, as for ours. Nothing is capped."""
        means = [
            self.credit.cheated if cheats else self.credit.honest
            for cheats in self.draw.choices(answers, k=self.CHALLENGES)
        ]
        self.audits += self.CHALLENGES
        credit = sum(min(1.0, max(0.0, self.draw.gauss(mean, self.credit.spread))) for mean in means) / len(
            means
        )
        # As in its code: c counts the window before this epoch and this one, the window's length after it.
        abnormal = sum(score < self.TAU for score in [*self.window, credit])
        self.window = [*self.window, credit][-self.WINDOW :]
        weight = self.BETA
        if abnormal / len(self.window) > self.GAMMA:
            weight = (self.WINDOW + 1) / (self.WINDOW + abnormal / self.GAMMA + 2)
        self.score = min(1.0, self.ALPHA * self.score + weight * credit)
        return len(answers)
