"""Blame: which relays were on circuits that failed, fading with time.

A circuit that breaks does not say who broke it, so all of its relays are blamed; whoever really did it is
blamed again and again, the others are absolved by circuits that work. The guard of a failed circuit is
blamed less: it is on every circuit of its path, and a client that is driven off its guards is the aim of an
attack. When a link to the guard itself fails, it alone is blamed, fully.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from crypto.identity import NodeId

HALF_LIFE_S = 600.0
GUARD_SHARE = 0.25
EXCLUDED_FROM = 0.5
"""A relay that was blamed once is passed over for one half-life."""
MAX_BLAMED = 1024
"""Beyond it, the least blamed are forgotten."""


@dataclass(frozen=True, slots=True)
class Blame:
    """Who is blamed how much. A value; `now` is monotonic."""

    scores: Mapping[NodeId, tuple[float, float]] = field(default_factory=lambda: MappingProxyType({}))
    """Score and the time it was true, by relay."""

    def score(self, node_id: NodeId, now: float) -> float:
        """How much blame is left."""
        score, at = self.scores.get(node_id, (0.0, now))
        return float(score * 0.5 ** (max(0.0, now - at) / HALF_LIFE_S))

    def blamed(self, node_ids: Sequence[NodeId], now: float) -> "Blame":
        """After a failure on a path of these relays, first hop first, or at one relay alone."""
        shares = [1.0] * len(node_ids)
        if len(node_ids) > 1:
            shares[0] = GUARD_SHARE
        changed = {
            node_id: (self.score(node_id, now) + share, now)
            for node_id, share in zip(node_ids, shares, strict=True)
        }
        return Blame(_bounded({**self.scores, **changed}, now))

    def absolved(self, node_ids: Sequence[NodeId], now: float) -> "Blame":
        """After a path of these relays has worked: what they were blamed for is halved."""
        if not any(node_id in self.scores for node_id in node_ids):
            return self
        changed = {
            node_id: (self.score(node_id, now) / 2, now) for node_id in node_ids if node_id in self.scores
        }
        return Blame(_bounded({**self.scores, **changed}, now))

    def excluded(self, now: float, *, at_most: int) -> frozenset[NodeId]:
        """The relays to pass over now: the most blamed ones, at most so many.

        at_most is what the directory can spare, so that blame never makes a small network unusable.
        """
        scored = [(self.score(node_id, now), node_id) for node_id in self.scores]
        worst = sorted((pair for pair in scored if pair[0] >= EXCLUDED_FROM), reverse=True)
        return frozenset(node_id for _, node_id in worst[: max(0, at_most)])


def _bounded(
    scores: dict[NodeId, tuple[float, float]], now: float
) -> MappingProxyType[NodeId, tuple[float, float]]:
    if len(scores) > MAX_BLAMED:
        left = Blame(scores)
        scores = dict(sorted(scores.items(), key=lambda item: -left.score(item[0], now))[:MAX_BLAMED])
    return MappingProxyType(scores)
