"""Reputation: what a node's record is worth, as a fold over dated evidence. Pure, in integers of 1e-6.

Two rates are held apart: *integrity* from audits, *service* from waits and losses. Each is a Beta distribution with the
prior (1, 3), of which the 5 % quantile counts: what the rate is at least. So a newcomer starts near 0, at .017, and
who comes back under a new name has lost all trust that was earned.

Forgetting goes by evidence, not by time: a whole fact leaves .995 of the good and .9995 of the bad that was there, a
part of a fact the same part of that. So good counts 200 at most, bad 2,000 times what a failure weighs, and bad fades
ten times as slowly. More bad evidence never raises a score, wherever it is put in, and more good never lowers one. A
failed audit weighs `FAILURE` passes: at its bar an honest node fails one in ten thousand.

A proof sets all to 0 for as long as it stands, that is, for as long as the evidence that is folded holds it.

Every operation is on integers, with roundings against the node, and `verify.lower_bound` is exact: equal evidence gives
equal scores on every machine.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from verify.evidence import Audit, Evidence, Proof, Weight, in_order, weigh
from verify.lower_bound import UNIT, lower_bound

PRIOR_GOOD = 1 * UNIT
PRIOR_BAD = 3 * UNIT
GOOD_FORGOTTEN = 200
BAD_FORGOTTEN = 2000
"""A whole fact forgets one part in so many: .995 and .9995 are left."""
FAILURE = 10
"""What a failed audit weighs, in passes."""
P_MIN = UNIT // 100
P_NEW = UNIT // 4
"""Shares of its traffic at which a node that can't be trusted more, and a newcomer, is audited."""
NEW_BELOW = UNIT // 2
"""Integrity under which a node counts as new: eight passes are enough, if nothing else is known."""
NEW_REQUESTS_PER_H = 20
NEW_TRAFFIC = UNIT // 20


@dataclass(frozen=True, slots=True)
class Tally:
    """Good and bad evidence, in units of 1e-6, older evidence counting less."""

    good: int = 0
    bad: int = 0

    def after(self, weight: Weight, bad_times: int = 1) -> "Tally":
        """With one fact more, whose bad part counts so many times."""
        whole = weight.good + weight.bad
        good_lost = -(-self.good * whole // (GOOD_FORGOTTEN * UNIT))
        bad_lost = self.bad * whole // (BAD_FORGOTTEN * UNIT)
        return Tally(self.good - good_lost + weight.good, self.bad - bad_lost + bad_times * weight.bad)

    @property
    def score(self) -> int:
        """What the rate of good is at least, in units of 1e-6."""
        return lower_bound(PRIOR_GOOD + self.good, PRIOR_BAD + self.bad)


@dataclass(frozen=True, slots=True)
class Reputation:
    """The state of the fold. proofs: how many stand."""

    integrity: Tally = Tally()
    service: Tally = Tally()
    proofs: int = 0

    def after(self, fact: Evidence) -> "Reputation":
        """With one fact more, which must be new and the latest: `fold` sees to that."""
        if isinstance(fact, Proof):
            return replace(self, proofs=self.proofs + 1)
        if isinstance(fact, Audit):
            return replace(self, integrity=self.integrity.after(weigh(fact), bad_times=FAILURE))
        return replace(self, service=self.service.after(weigh(fact)))

    @property
    def banned(self) -> bool:
        """Whether a proof stands."""
        return self.proofs > 0

    @property
    def score(self) -> int:
        """Integrity times service, rounded down, in units of 1e-6; 0 while a proof stands."""
        return 0 if self.banned else self.integrity.score * self.service.score // UNIT


@dataclass(frozen=True, slots=True)
class Step:
    """One fact, and what it did."""

    fact: Evidence
    before: Reputation
    after: Reputation

    def __str__(self) -> str:
        return f"{self.fact}: {self._moved}; reputation {_shown(self.before.score)} -> {_shown(self.after.score)}"

    @property
    def _moved(self) -> str:
        if isinstance(self.fact, Proof):
            return "banned while it stands"
        name = "integrity" if isinstance(self.fact, Audit) else "service"
        before, after = (getattr(state, name).score for state in (self.before, self.after))
        return f"{name} {_shown(before)} -> {_shown(after)}"


def fold(evidence: Iterable[Evidence]) -> Reputation:
    """A node's reputation from all its evidence, in whatever order and however often each comes."""
    reputation = Reputation()
    for fact in in_order(evidence):
        reputation = reputation.after(fact)
    return reputation


def explain(evidence: Iterable[Evidence]) -> list[Step]:
    """The same, step by step: the last step's `after` is what `fold` returns."""
    steps, reputation = [], Reputation()
    for fact in in_order(evidence):
        steps.append(Step(fact, reputation, reputation.after(fact)))
        reputation = steps[-1].after
    return steps


def audit_rate(integrity: int) -> int:
    """The share of a node's traffic to audit, in units of 1e-6, by its integrity score."""
    return min(UNIT, P_MIN + (P_NEW - P_MIN) * (UNIT - integrity) // UNIT)


def traffic_cap(integrity: int, requests_per_h: int) -> int | None:
    """Requests an hour that a node may get, of so many in all; None where it has no cap.

    A new node gets 5 %, at most 20, at least one: it has to be audited to become known. Where all nodes are new
    somebody has to answer, and it is the caller that must go over the cap.
    """
    if integrity >= NEW_BELOW:
        return None
    return max(1, min(NEW_REQUESTS_PER_H, requests_per_h * NEW_TRAFFIC // UNIT))


def _shown(units: int) -> str:
    return f"{units // UNIT}.{units % UNIT:06}"[:6]
