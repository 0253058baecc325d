"""Tendermint: how a committee agrees on one value, though up to a third of it lies (arXiv 1807.04938, algorithm 1).

Theory of operation
-------------------
A height is decided in rounds. In each, one member proposes a value, all prevote it or nil, and whoever sees a quorum
of prevotes for it locks it and precommits it; a quorum of precommits decides. Two quorums share an honest member, and
an honest member that locked a value prevotes another only on proof that a quorum did so in a later round: that is
why no two values are ever decided. Rounds get longer until one suffices: that is why one is.

    WAITING --begin--> PROPOSE --prevote--> PREVOTE --precommit--> PRECOMMIT --timeout--> PROPOSE of the next round
                          |  any step: a quorum of precommits for a proposal decides; f+1 members of a later
                          |  round take this one along

Numbers in comments are the algorithm's lines; the rules are here in its order, and each is tried until none applies.
What the paper leaves to its network, that all honest members hear what one hears, is done here and in `member.py`: a
proposal of an earlier value carries its prevotes, whoever locks sends round the quorum it saw, and what is held of
the present and the last round is repeated (`repeat`). Line 55 counts members in that round *or a later one*.

This file is told only of checked messages (`member.py` checks them) and never of the time but by argument.
"""

from math import inf
from typing import Protocol

from verify.committee.effects import EquivocationFound
from verify.committee.evidence import Equivocation
from verify.committee.genesis import Genesis
from verify.committee.messages import NIL, NO_ROUND, Certificate, Kind, Proposal, Statement, ValueId, Votes
from verify.committee.standing import Entered, Standing, Step, Validated
from verify.committee.tally import Tally
from verify.committee.timing import CommitteeTiming
from verify.committee.voice import Voice


class Ballots(Protocol):
    """What is put to the vote. Honest members must agree on what is valid."""

    def propose(self, height: int) -> bytes:
        """The value that this member would have decided (getValue). Valid, and at most MAX_VALUE_BYTES."""

    def is_valid(self, height: int, value: bytes) -> bool:
        """Whether a value may be decided at this height. The same answer every time."""


class Tendermint:
    """One member in one height."""

    def __init__(
        self,
        genesis: Genesis,
        ballots: Ballots,
        voice: Voice,
        standing: Standing,
        timing: CommitteeTiming,
    ) -> None:
        self.standing = standing
        self.tally = Tally(genesis.quorum)
        self._genesis = genesis
        self._ballots = ballots
        self._voice = voice
        self._timing = timing
        self._is_begun = False
        self._deadlines: dict[Step, float] = {}
        self._accused: set[int] = set()
        self.tally.enter(max(standing.round, 0))
        for message in standing.said.values():
            self._count_own(message)

    # --- inputs ---

    def begin(self, now: float) -> Certificate | None:
        """Takes part from now on, from where the standing left off. Like all inputs, returns what is decided by it."""
        if not self._is_begun:
            self._is_begun = True
            if self.standing.round == NO_ROUND:
                self._start_round(0, now)  # 10
            else:
                self._open_round(now)
        return self.settle(now)

    def hear_proposal(self, proposal: Proposal, now: float) -> Certificate | None:
        """A checked proposal of whose turn it was."""
        statement = proposal.statement
        proposer = self._genesis.proposer(statement.height, statement.round)
        self._accuse(proposer, self.tally.add_proposal(proposal, proposer))
        return self.settle(now)

    def hear_votes(self, votes: Votes, now: float) -> Certificate | None:
        """Checked votes."""
        for member, signature in votes.signatures:
            self._accuse(member, self.tally.add_vote(votes.statement, member, signature))
        return self.settle(now)

    def next_deadline(self) -> float:
        """When `handle_deadline` wants to be called; infinity where others have to act first."""
        return min(self._deadlines.values(), default=inf)

    def handle_deadline(self, now: float) -> Certificate | None:
        """Gives up what has taken too long."""
        step, round_ = self.standing.step, self.standing.round
        due = {which for which, deadline in self._deadlines.items() if deadline <= now}
        for which in due:
            self._deadlines[which] = inf  # set, and over: not to be set again in this round
        if Step.PROPOSE in due and step is Step.PROPOSE:
            self._prevote(NIL)  # 57 to 60
        if Step.PREVOTE in due and self.standing.step is Step.PREVOTE:
            self._precommit(NIL)  # 61 to 64
        if Step.PRECOMMIT in due:
            self._start_round(round_ + 1, now)  # 65 to 67
        return self.settle(now)

    def repeat(self) -> None:
        """Sends round again what is held of the last round and the present one, whoever said it."""
        if not self._is_begun:
            return
        proposal = self.tally.proposal(self.standing.round)
        if proposal is not None:
            self._voice.send(proposal)
        for votes in self.tally.all_votes():
            self._voice.send(votes)

    # --- rules ---

    def settle(self, now: float) -> Certificate | None:
        """Applies rules until none applies, or one decides."""
        while True:
            decided = self._decide()
            if decided is not None or not self._is_begun:
                return decided
            if not (self._skip(now) or self._on_proposal() or self._on_prevotes(now)):
                self._on_precommits(now)
                return None

    def _start_round(self, round_: int, now: float) -> None:
        self._voice.record(self.standing, Entered(round_))  # 11 to 13
        self.tally.enter(round_)
        self._deadlines.clear()
        self._open_round(now)

    def _open_round(self, now: float) -> None:
        standing = self.standing
        is_mine = self._genesis.proposer(standing.height, standing.round) == self._voice.number  # 14
        if is_mine and standing.step is Step.PROPOSE and (standing.round, Kind.PROPOSAL) not in standing.said:
            self._propose()
        self._schedule(Step.PROPOSE, now)  # 20, 21; a proposer that abstains waits for itself, too

    def _propose(self) -> None:
        valid = self.standing.valid
        value = self._ballots.propose(self.standing.height) if valid is None else valid.value  # 15 to 18
        self._count_own(self._voice.propose(self.standing, value, valid))  # 19

    def _on_proposal(self) -> bool:
        proposal = self.tally.proposal(self.standing.round)
        if proposal is None or self.standing.step is not Step.PROPOSE:
            return False
        # 22 and 28: the prevotes of an earlier round came with the proposal, and are checked
        is_right = self._is_valid(proposal) and self._lock_allows(proposal)  # 23, 29
        self._prevote(proposal.statement.value_id if is_right else NIL)  # 24 to 27, 30 to 33
        return True

    def _lock_allows(self, proposal: Proposal) -> bool:
        """Lines 23 and 29: without a valid round, lockedRound <= NO_ROUND says that nothing is locked."""
        standing = self.standing
        is_locked_on = standing.locked_id == proposal.statement.value_id
        return standing.locked_round <= proposal.statement.valid_round or is_locked_on

    def _on_prevotes(self, now: float) -> bool:
        standing = self.standing
        if standing.step is Step.PROPOSE:
            return False
        if standing.step is Step.PREVOTE and self.tally.has_any_quorum(Kind.PREVOTE, standing.round):  # 34
            self._schedule(Step.PREVOTE, now)  # 35
        proposal = self.tally.proposal(standing.round)
        is_first = standing.valid_round < standing.round or standing.step is Step.PREVOTE
        if is_first and proposal is not None and self._may_lock(proposal):  # 36
            self._lock(proposal)
            return True
        has_nil = self.tally.has_quorum(Kind.PREVOTE, standing.round, NIL)
        if standing.step is Step.PREVOTE and has_nil:  # 44
            self._precommit(NIL)  # 45, 46
            return True
        return False

    def _may_lock(self, proposal: Proposal) -> bool:
        voted = proposal.statement.value_id
        has_prevotes = self.tally.has_quorum(Kind.PREVOTE, self.standing.round, voted)
        return has_prevotes and self._is_valid(proposal)

    def _lock(self, proposal: Proposal) -> None:
        seen = Statement(Kind.PREVOTE, self.standing.height, self.standing.round, proposal.statement.value_id)
        prevotes = self.tally.votes_for(seen)
        if self.standing.valid_round < self.standing.round:
            self._voice.record(self.standing, Validated(Certificate(proposal.value, prevotes)))  # 42, 43
        if self.standing.step is Step.PREVOTE:  # 37
            self._precommit(seen.value_id)  # 38 to 41: the precommit is the lock
        self._voice.send(prevotes)

    def _on_precommits(self, now: float) -> None:
        if self.tally.has_any_quorum(Kind.PRECOMMIT, self.standing.round):  # 47
            self._schedule(Step.PRECOMMIT, now)  # 48

    def _decide(self) -> Certificate | None:
        for proposal in self.tally.proposals():  # 49: of any round that is kept
            said = proposal.statement
            if self.tally.has_quorum(Kind.PRECOMMIT, said.round, said.value_id) and self._is_valid(
                proposal
            ):  # 50
                decided = Statement(Kind.PRECOMMIT, said.height, said.round, said.value_id)
                return Certificate(proposal.value, self.tally.votes_for(decided))  # 51
        return None

    def _skip(self, now: float) -> bool:
        reached = self.tally.round_reached(self._genesis.most_traitors + 1)
        if reached <= self.standing.round:  # 55
            return False
        self._start_round(reached, now)  # 56
        return True

    # --- saying ---

    def _prevote(self, voted: ValueId) -> None:
        self._count_own(self._voice.vote(self.standing, Kind.PREVOTE, voted))
        self.standing.step = Step.PREVOTE  # of a member that abstains, too

    def _precommit(self, voted: ValueId) -> None:
        self._count_own(self._voice.vote(self.standing, Kind.PRECOMMIT, voted))
        self.standing.step = Step.PRECOMMIT

    def _count_own(self, message: Proposal | Votes | None) -> None:
        match message:
            case Proposal():
                self.tally.add_proposal(message, self._voice.number)
            case Votes(statement, ((member, signature),)):
                self.tally.add_vote(statement, member, signature)

    def _schedule(self, which: Step, now: float) -> None:
        """Sets a timer, for the first time in the round."""
        self._deadlines.setdefault(which, now + self._timing.timeout_s(which, self.standing.round))

    def _is_valid(self, proposal: Proposal) -> bool:
        return self._ballots.is_valid(self.standing.height, proposal.value)

    def _accuse(self, member: int, found: Equivocation | None) -> None:
        """Evidence, once a member and height."""
        if found is not None and member not in self._accused:
            self._accused.add(member)
            self._voice.do(EquivocationFound(found))
