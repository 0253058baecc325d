"""What an audit finds: accepted, rejected or unproven, every reason, and the figures that it rests on."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from crypto.identity import NodeId


class Finding(StrEnum):
    """What can be wrong with an answer."""

    MALFORMED = "malformed"
    SIGNATURE = "signature"
    NODE = "node"
    MODEL = "model"
    NUMERICS = "numerics"
    SAMPLER = "sampler"
    NONCE = "nonce"
    PROMPT = "prompt"
    COUNTS = "counts"
    FINISH = "finish"
    TEXT = "text"
    REPLAY = "replay"
    MARGINS = "margins"
    FINGERPRINTS = "fingerprints"
    LOGPROBS = "logprobs"
    GIVEN = "given"
    CHECKPOINT = "checkpoint"


class Outcome(StrEnum):
    """unproven: nothing is wrong with what can be checked, but the answer is of a class that nobody can replay."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNPROVEN = "unproven"


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that is wrong: a code for programs and a sentence for people."""

    finding: Finding
    detail: str

    def __str__(self) -> str:
        return f"{self.finding}: {self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a replay measured, and the bars that it was held against.

    exceedances: tokens whose margin is over epsilon. log10_e: decimal logarithm of the greatest value that
    the e-process took; reject_log10_e is where it rejects. Distances and gaps are means over the tokens.
    """

    tokens: int
    exceedances: int
    largest_margin: float
    epsilon: float
    log10_e: float
    reject_log10_e: float
    fingerprint_distance: float
    largest_fingerprint_distance: float
    fingerprint_bar: float
    logprob_gap: float
    largest_logprob_gap: float
    logprob_bar: float


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens first to last of an answer, counted from 1, and who answers for them.

    node_id: who signed them or, where nobody did, who was asked for them; None where that is not known. exceedances: of
    them, those with a margin over epsilon; None where no replay could be held against bars.
    """

    first: int
    last: int
    node_id: NodeId | None
    signed_by: Literal["checkpoint", "receipt"] | None
    exceedances: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Accepted only when nothing is wrong and it can be replayed. notes say what a reader should know besides.

    figures is None when no replay could be held against bars. replayable is False for an answer of a class that
    nobody can replay. parts: of an answer that several nodes gave, in order; else none.
    """

    reasons: tuple[Reason, ...]
    figures: Figures | None
    notes: tuple[str, ...] = ()
    replayable: bool = True
    parts: tuple[Part, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether the answer was replayed, and there is no reason against it."""
        return self.outcome is Outcome.ACCEPTED

    @property
    def outcome(self) -> Outcome:
        """The verdict in a word."""
        if self.reasons:
            return Outcome.REJECTED
        return Outcome.ACCEPTED if self.replayable else Outcome.UNPROVEN

    @property
    def findings(self) -> frozenset[Finding]:
        """The codes of the reasons."""
        return frozenset(reason.finding for reason in self.reasons)
