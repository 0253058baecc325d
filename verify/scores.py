"""What a committee says of all nodes: the median of its members' reports, coordinate by coordinate.

Reports differ, because verifiers see different canaries and waits. Of q reports fewer than half of which lie, the
median lies between two honest figures, whatever the others say. With n members, of which f < n/3 lie,
q = floor(2n/3) + 1 are enough: more than 2f. Proofs are no matter of opinion and not reported: whoever holds one shows
it, and each member computes it again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crypto.identity import NodeId
from verify.committee.genesis import quorum_of
from verify.lower_bound import UNIT
from verify.reputation import Reputation


@dataclass(frozen=True, slots=True, order=True)
class Scores:
    """One node's two rates, in units of 1e-6."""

    integrity: int
    service: int

    def __post_init__(self) -> None:
        """Raises ValueError for what is no rate."""
        if not (0 <= self.integrity <= UNIT and 0 <= self.service <= UNIT):
            raise ValueError("scores are from 0 to a million")

    @classmethod
    def of(cls, reputation: Reputation) -> "Scores":
        """What to report."""
        return cls(reputation.integrity.score, reputation.service.score)


Report = Mapping[NodeId, Scores]


def median_scores(reports: Sequence[Report], members: int) -> dict[NodeId, Scores]:
    """The median of each coordinate; of two in the middle, the lower.

    A report that leaves a node out says that it is new, so that nobody is judged by the few that name it. Raises
    ValueError when there are fewer reports than a quorum of the committee, or more than members.
    """
    if not quorum_of(members) <= len(reports) <= members:
        raise ValueError(f"{len(reports)} reports of {members} members, not {quorum_of(members)} at least")
    unknown = Scores.of(Reputation())
    found = {}
    for node_id in sorted(set().union(*reports)):
        said = [report.get(node_id, unknown) for report in reports]
        found[node_id] = Scores(_median([s.integrity for s in said]), _median([s.service for s in said]))
    return found


def _median(values: Sequence[int]) -> int:
    return sorted(values)[(len(values) - 1) // 2]
