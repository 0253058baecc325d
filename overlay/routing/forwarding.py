"""Which member of a model group a prompt is handed to, though what is known of them is old. Pure.

The entry node estimates every member's wait (`cost.py`) from what it was told, and then does one of three things:

- *commit* at once, where asking would not change its mind: one member is alone, what the best told is fresh, or the
  others would be slower even if they were idle and it had become busier by as much as could be;
- *probe* a few: the best by the old view, and one at random, so that a member whom the view wrongs comes to be seen.
  Of those who answer, the best by what they answered is committed to (late binding);
- *refuse*, with the seconds after which to come again, where the best of all would wait too long. A prompt with nothing
  ahead of it is never refused for its own length, as in the engine: to come again would make it no shorter.

The member that a prompt is handed to may hand it on once, where another would answer sooner by more than what another
journey costs and an old view errs by: 1.2 times and .1 s. Two entry nodes that asked at once will have chosen the same
member, and the second prompt finds the first one there. What the others answered, a journey ago, comes with the
prompt; that is what it is held against, since the receiver's own view is older. Where nobody was asked a node keeps
what it is handed: else a member that claims much would be believed twice.

Reputation weighs: a member's wait is divided by its weight, 0 excludes it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import islice

from crypto.entropy import Entropy
from crypto.identity import NodeId
from overlay.routing.cost import Sent, Wait, predict_wait
from overlay.routing.draw import draw_each
from overlay.wire.group import BLOCK_TOKENS, Load, Speed

PROBES = 4
"""Three leave more to the old view: where speeds differ, they cost 4 % of the mean time to a first token."""
FRESH_S = 0.1
"""With some entry nodes at work, what was told half a second ago already sends them all to the same member."""
DOMINANT_S = 0.1
"""By how much the best must lead, beyond what its own wait comes to, to be taken without asking."""
REFORWARD_RATIO, REFORWARD_S = 1.2, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A member as it is known: what it told, what was sent to it since, and how long ago it told, in seconds.

    late_s: by what it was late lately.
    """

    member: NodeId
    speed: Speed
    load: Load
    sent: Sent
    age_s: float
    weight: float = 1.0
    late_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a prompt would wait at a member."""

    member: NodeId
    cached_tokens: int
    wait: Wait
    age_s: float
    weight: float

    @property
    def cost_s(self) -> float:
        """What members are compared by."""
        return self.wait.total_s / self.weight


class Reason(Enum):
    """Why a prompt goes where it goes."""

    ALONE = "alone"
    FRESH = "fresh"
    DOMINANT = "dominant"
    PROBED = "probed"
    UNANSWERED = "unanswered"


@dataclass(frozen=True, slots=True)
class Commit:
    """Hand it to this member. others: the further members who answered, which goes with the prompt."""

    estimate: Estimate
    reason: Reason
    others: tuple[Estimate, ...] = ()


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask these first. `otherwise`: whom to take if none answers in time."""

    estimates: tuple[Estimate, ...]
    otherwise: Estimate


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nobody would begin in time. wait_s: what the best would take; None where there is nobody at all."""

    wait_s: float | None


def estimate_waits(
    candidates: Iterable[Candidate],
    held: Mapping[NodeId, int],
    tokens: int,
    *,
    block_tokens: int = BLOCK_TOKENS,
) -> list[Estimate]:
    """Every member's estimate, the best first; who is excluded is not listed.

    held: how many leading blocks of the prompt a member holds; tokens: the prompt's length.
    """
    found = []
    for each in candidates:
        if each.weight <= 0:
            continue
        cached = min(tokens, held.get(each.member, 0) * block_tokens)
        wait = predict_wait(each.speed, each.load, each.sent, tokens=tokens, cached=cached)
        wait = replace(wait, late_s=each.late_s)
        found.append(Estimate(each.member, cached, wait, each.age_s, each.weight))
    return sorted(found, key=lambda estimate: estimate.cost_s)


def decide(estimates: Sequence[Estimate], entropy: Entropy, *, max_wait_s: float) -> Commit | Probe | Refuse:
    """What to do with a prompt. estimates: the best first."""
    if not estimates:
        return Refuse(None)
    best, *others = estimates
    if not others:
        return _commit(best, Reason.ALONE, max_wait_s)
    if best.age_s <= FRESH_S:
        return _commit(best, Reason.FRESH, max_wait_s)
    if _is_dominant(best, others):
        return _commit(best, Reason.DOMINANT, max_wait_s)
    near, far = others[: PROBES - 2], others[PROBES - 2 :]
    drawn = islice(draw_each(far, entropy), 1)
    return Probe((best, *near, *drawn), best)


def _is_dominant(best: Estimate, others: Sequence[Estimate]) -> bool:
    """Whether the others would be slower if they were idle, and the best one twice as busy as we believe.

    And busier by a second for each second since it told: twice nothing is nothing, and an idle node gets a prompt.
    """
    least = min(other.wait.reading_s / other.weight for other in others)
    return best.cost_s + best.wait.total_s + best.age_s + DOMINANT_S < least


def commit_to_answer(answers: Sequence[Estimate], probe: Probe, *, max_wait_s: float) -> Commit | Refuse:
    """Bind late: the best by what the probed answered. answers: their estimates anew, in any order."""
    if not answers:
        return _commit(probe.otherwise, Reason.UNANSWERED, max_wait_s)
    best, *others = sorted(answers, key=lambda estimate: estimate.cost_s)
    return _commit(best, Reason.PROBED, max_wait_s, tuple(others))


def _commit(
    estimate: Estimate, reason: Reason, max_wait_s: float, others: tuple[Estimate, ...] = ()
) -> Commit | Refuse:
    wait = estimate.wait
    if wait.is_queued and wait.total_s > max_wait_s:
        return Refuse(wait.total_s)
    return Commit(estimate, reason, others)


def find_better(here: Estimate, others: Iterable[Estimate], *, hops_left: int) -> Estimate | None:
    """Whom the member that a prompt came to should hand it on to; None: it keeps it.

    others: those who came with the prompt; none where the entry node asked nobody.
    """
    if hops_left <= 0:
        return None
    worth_it = [each for each in others if each.cost_s * REFORWARD_RATIO + REFORWARD_S < here.cost_s]
    return min(worth_it, key=lambda estimate: estimate.cost_s, default=None)
