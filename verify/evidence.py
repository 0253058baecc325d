"""What is known of one model node's conduct: dated facts, each of which counts once.

Whoever keeps evidence checks it first (signatures, the replay of a proof) and leaves out what was refuted; nothing here
looks at bytes. An `EvidenceId` is the hash of the record that a fact rests on, so that the same receipt, gossiped twice
or audited by two verifiers, counts once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NewType, assert_never

from verify.lower_bound import UNIT

EvidenceId = NewType("EvidenceId", bytes)
SLACK_MS = 500
RATIO = 2
"""A wait of so many times what was promised, and so much more, is no breach (as in `overlay.routing.promises`)."""
LATE_MS = 10_000
"""Late by so much more is as bad as lost."""
RELEASED_SHARE = UNIT // 10
REFUSED_SHARE = UNIT // 5


class Source(StrEnum):
    """Where an audited answer came from."""

    CANARY = "canary"
    """A verifier asked for it, over the same paths as anybody."""
    RELEASED = "released receipt"
    """A user gave the receipt away. A node can be its own user and ask itself, so a pass counts a tenth."""


class Flaw(StrEnum):
    """What a proof proves, to anybody who computes it again."""

    FRAUD = "fraud proof"
    EQUIVOCATION = "equivocation proof"


class Delivery(StrEnum):
    """How a prompt fared."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    """At once, so that the client could ask another: a fifth of a loss."""
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Audit:
    """An answer was replayed, and passed or failed at the bar that raises suspicion (alpha 1e-4): no proof yet."""

    unix_time: int
    evidence_id: EvidenceId
    outcome: Literal["passed", "failed"]
    source: Source = Source.CANARY

    def __str__(self) -> str:
        return f"audit {self.outcome} ({self.source})"


@dataclass(frozen=True, slots=True)
class Proof:
    """Something that an honest node can't have signed."""

    unix_time: int
    evidence_id: EvidenceId
    flaw: Flaw

    def __str__(self) -> str:
        return str(self.flaw)


@dataclass(frozen=True, slots=True)
class Service:
    """One prompt's first token: the wait that the node had promised, and the one that it took. Milliseconds."""

    unix_time: int
    evidence_id: EvidenceId
    delivery: Delivery
    promised_ms: int = 0
    waited_ms: int = 0

    def __str__(self) -> str:
        if self.delivery is not Delivery.DELIVERED:
            return f"prompt {self.delivery}"
        return f"first token after {self.waited_ms} ms, {self.promised_ms} promised"


Evidence = Audit | Proof | Service


@dataclass(frozen=True, slots=True)
class Weight:
    """So much good and bad, in units of 1e-6 of one whole fact; never more than one together."""

    good: int
    bad: int


def weigh(fact: Audit | Service) -> Weight:
    """What a fact weighs."""
    match fact:
        case Audit(outcome="failed"):
            return Weight(0, UNIT)  # whoever asked: a node can't be made to answer wrongly
        case Audit():
            return Weight(UNIT if fact.source is Source.CANARY else RELEASED_SHARE, 0)
        case Service(delivery=Delivery.DELIVERED):
            late_ms = max(0, fact.waited_ms - RATIO * fact.promised_ms - SLACK_MS)
            bad = min(UNIT, late_ms * UNIT // LATE_MS)
            return Weight(UNIT - bad, bad)
        case Service(delivery=Delivery.REFUSED):
            return Weight(0, REFUSED_SHARE)
        case Service():
            return Weight(0, UNIT)
        case _:
            assert_never(fact)


def in_order(evidence: Iterable[Evidence]) -> list[Evidence]:
    """Each fact once, by date. However evidence arrives, every verifier that has the same counts it in the same order.

    Of two facts about one record the earlier counts, and the worse where they have one date.
    """
    first: dict[EvidenceId, Evidence] = {}
    for fact in sorted(evidence, key=_rank):
        first.setdefault(fact.evidence_id, fact)
    return list(first.values())


def _rank(fact: Evidence) -> tuple[int, EvidenceId, int, str]:
    good = -UNIT if isinstance(fact, Proof) else weigh(fact).good
    return fact.unix_time, fact.evidence_id, good, repr(fact)  # all of it, so that no two facts tie
