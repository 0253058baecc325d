"""How a member speaks: it signs a statement, puts it on disk, and only then sends it. Never twice in one place."""

from crypto.identity import IdentityKey
from verify.committee.effects import AppendToLog, Broadcast, Effect, ReplaceLog
from verify.committee.genesis import Genesis
from verify.committee.log import LogWriter
from verify.committee.message_codec import encode_message
from verify.committee.messages import (
    NO_ROUND,
    Certificate,
    Kind,
    Proposal,
    Statement,
    ValueId,
    Votes,
    sign_statement,
    value_id,
)
from verify.committee.standing import Entered, Said, Standing, Validated

MAX_LOG_BYTES = 8 << 20
"""A log that has grown beyond this is written anew, with only what still counts."""


class Voice:
    """One member's key, its log, and the effects that wait to be performed."""

    def __init__(self, genesis: Genesis, key: IdentityKey, number: int) -> None:
        self.number = number
        self._genesis = genesis
        self._key = key
        self._log = LogWriter(genesis, key.node_id)
        self._effects: list[Effect] = []

    def take_effects(self) -> list[Effect]:
        """What is to be done since this was last called."""
        taken, self._effects = self._effects, []
        return taken

    def do(self, effect: Effect) -> None:
        """One more effect."""
        self._effects.append(effect)

    def send(self, message: Proposal | Votes) -> None:
        """Tells all others."""
        self.do(Broadcast(encode_message(message)))

    def rewrite(self, standing: Standing) -> None:
        """Writes the log anew, as short as it can be."""
        self.do(ReplaceLog(self._log.begin(standing.records())))

    def record(self, standing: Standing, record: Entered | Said | Validated) -> None:
        """Changes the standing, and the log with it."""
        standing.apply(record)
        if self._log.length_bytes > MAX_LOG_BYTES:
            self.rewrite(standing)
        else:
            self.do(AppendToLog(self._log.record(record)))

    def propose(self, standing: Standing, value: bytes, valid: Certificate | None) -> Proposal | None:
        """Line 19. None where this member must be silent."""
        valid_round = NO_ROUND if valid is None else valid.votes.statement.round
        statement = Statement(Kind.PROPOSAL, standing.height, standing.round, value_id(value), valid_round)
        if not self._may_say(standing, statement):
            return None
        signature = sign_statement(self._key, self._genesis, statement)
        proposal = Proposal(statement, value, None if valid is None else valid.votes, signature)
        self._say(standing, proposal)
        return proposal

    def vote(self, standing: Standing, kind: Kind, voted: ValueId) -> Votes | None:
        """A prevote or precommit in the present round. None where this member must be silent."""
        statement = Statement(kind, standing.height, standing.round, voted)
        if not self._may_say(standing, statement):
            return None
        signature = sign_statement(self._key, self._genesis, statement)
        vote = Votes(statement, ((self.number, signature),))
        self._say(standing, vote)
        return vote

    def _may_say(self, standing: Standing, statement: Statement) -> bool:
        return not standing.is_abstaining and (statement.round, statement.kind) not in standing.said

    def _say(self, standing: Standing, message: Proposal | Votes) -> None:
        self.record(standing, Said(message))  # on disk first
        self.send(message)
