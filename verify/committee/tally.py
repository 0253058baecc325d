"""What a member has heard at one height: one proposal a round, one vote of each kind a member and round.

Bounded whatever others send: rounds from the one before the member's own to two after it, what comes first counts,
and of rounds beyond that, only how far each member has come.
"""

from dataclasses import dataclass, field

from verify.committee.evidence import Equivocation, equivocation_of
from verify.committee.messages import Kind, Proposal, Statement, ValueId, Votes

ROUNDS_BEHIND = 1
ROUNDS_AHEAD = 2


@dataclass(slots=True)
class _Round:
    proposal: Proposal | None = None
    votes: dict[Kind, dict[int, tuple[Statement, bytes]]] = field(
        default_factory=lambda: {Kind.PREVOTE: {}, Kind.PRECOMMIT: {}}
    )


class Tally:
    """Checked proposals and votes of one height."""

    def __init__(self, quorum: int) -> None:
        self._quorum = quorum
        self._rounds: dict[int, _Round] = {}
        self._round = 0
        self._reached: dict[int, int] = {}

    def enter(self, round_: int) -> None:
        """The member's own round is this now. What is too old is forgotten."""
        self._round = round_
        for old in [number for number in self._rounds if number < round_ - ROUNDS_BEHIND]:
            del self._rounds[old]

    def keeps(self, round_: int) -> bool:
        """Whether statements of this round are kept."""
        return self._round - ROUNDS_BEHIND <= round_ <= self._round + ROUNDS_AHEAD

    def knows(self, statement: Statement, member: int) -> bool:
        """Whether hearing this once more would change nothing."""
        if not self.keeps(statement.round):
            return statement.round <= self._reached.get(member, self._round)
        held = self._held(statement, member)
        return held is not None and held[0] == statement

    def add_proposal(self, proposal: Proposal, proposer: int) -> Equivocation | None:
        """Keeps a proposal, unless there is one; evidence where that is another."""
        found = self._note(proposal.statement, proposer, proposal.signature)
        if self.keeps(proposal.statement.round):
            kept = self._at(proposal.statement.round)
            kept.proposal = kept.proposal or proposal
        return found

    def add_vote(self, statement: Statement, member: int, signature: bytes) -> Equivocation | None:
        """Keeps a vote, unless the member has one there; evidence where that is another."""
        found = self._note(statement, member, signature)
        if self.keeps(statement.round):
            self._at(statement.round).votes[statement.kind].setdefault(member, (statement, signature))
        return found

    def proposal(self, round_: int) -> Proposal | None:
        """The first proposal of a round."""
        kept = self._rounds.get(round_)
        return kept.proposal if kept is not None else None

    def proposals(self) -> list[Proposal]:
        """All proposals that are kept, by round."""
        kept = (self._rounds[number].proposal for number in sorted(self._rounds))
        return [proposal for proposal in kept if proposal is not None]

    def has_quorum(self, kind: Kind, round_: int, value_id: ValueId) -> bool:
        """Whether a quorum voted this (`NIL`: for nil)."""
        return sum(said.value_id == value_id for said, _ in self._votes(kind, round_)) >= self._quorum

    def has_any_quorum(self, kind: Kind, round_: int) -> bool:
        """Whether a quorum voted, whatever for."""
        return len(self._votes(kind, round_)) >= self._quorum

    def votes_for(self, statement: Statement) -> Votes:
        """Everybody's votes that say this; at least one has to be there."""
        votes = self._rounds[statement.round].votes[statement.kind]
        return Votes(
            statement, tuple((who, votes[who][1]) for who in sorted(votes) if votes[who][0] == statement)
        )

    def all_votes(self) -> list[Votes]:
        """All votes that are kept, those that say the same together."""
        said = [
            vote[0]
            for kept in self._rounds.values()
            for kind in kept.votes.values()
            for vote in kind.values()
        ]
        return [self.votes_for(statement) for statement in dict.fromkeys(said)]

    def round_reached(self, count: int) -> int:
        """The latest round that so many members have reached; -1 where fewer were heard."""
        reached = sorted(self._reached.values(), reverse=True)
        return reached[count - 1] if count <= len(reached) else -1

    def _note(self, statement: Statement, member: int, signature: bytes) -> Equivocation | None:
        self._reached[member] = max(statement.round, self._reached.get(member, -1))
        held = self._held(statement, member)
        return None if held is None else equivocation_of(member, held, (statement, signature))

    def _held(self, statement: Statement, member: int) -> tuple[Statement, bytes] | None:
        kept = self._rounds.get(statement.round)
        if kept is None:
            return None
        if statement.kind is Kind.PROPOSAL:
            proposal = kept.proposal
            return None if proposal is None else (proposal.statement, proposal.signature)
        return kept.votes[statement.kind].get(member)

    def _at(self, round_: int) -> _Round:
        return self._rounds.setdefault(round_, _Round())

    def _votes(self, kind: Kind, round_: int) -> list[tuple[Statement, bytes]]:
        kept = self._rounds.get(round_)
        return [] if kept is None else list(kept.votes[kind].values())
