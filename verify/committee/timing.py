"""How long a member waits before it gives up on a step of a round."""

from dataclasses import dataclass

from verify.committee.standing import Step


@dataclass(frozen=True, slots=True)
class CommitteeTiming:
    """In seconds. Every round waits longer than the one before, until messages arrive within it, however slow they are.

    resend_s: how often a member repeats to the others what it holds, and asks one of them whether it is behind.
    """

    propose_s: float = 1.0
    vote_s: float = 0.5
    longer_s: float = 0.5
    resend_s: float = 2.0

    def timeout_s(self, step: Step, round_: int) -> float:
        """timeoutPropose, timeoutPrevote and timeoutPrecommit of a round."""
        first_s = self.propose_s if step is Step.PROPOSE else self.vote_s
        return first_s + self.longer_s * round_
