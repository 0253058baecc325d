"""A committee for tests: its keys and genesis, and a bench on which one member hears what the test has others say."""

from contextlib import suppress

from tests.support.descriptors import fixed_key
from verify.committee.effects import AppendToLog, Broadcast, HeightDecided, ReplaceLog
from verify.committee.genesis import Genesis
from verify.committee.member import CommitteeMember
from verify.committee.message_codec import decode_message, encode_message
from verify.committee.messages import (
    NIL,
    NO_ROUND,
    Kind,
    Proposal,
    Statement,
    Votes,
    sign_statement,
    value_id,
)
from verify.committee.recall import new_log, recall

INVALID = b"invalid"


def keys_of(count):
    """So many keys, in the order of their ids: a member's number is its place."""
    return sorted((fixed_key(f"member {number}") for number in range(count)), key=lambda key: key.node_id)


def genesis_of(count, network="clove-test"):
    return Genesis.of(network, 60, [key.node_id for key in keys_of(count)])


class FixedBallots:
    """Puts one value to the vote at each height; everything but `INVALID` is valid."""

    def __init__(self, name="own"):
        self.name = name

    def propose(self, height):
        return f"{self.name} {height}".encode()

    def is_valid(self, height, value):
        return value != INVALID


def voted(value):
    """The id that votes name a value by; None is nil."""
    return NIL if value is None else value_id(value)


class Bench:
    """One member, and the voices of all others."""

    def __init__(self, me=0, count=4, height=1):
        self.keys, self.genesis = keys_of(count), genesis_of(count)
        self.me, self.height, self.now = me, height, 0.0
        self.log, self.effects, self.unsynced = new_log(self.genesis, self.keys[me].node_id), [], []
        self.restart()

    @property
    def others(self):
        return [number for number in range(len(self.keys)) if number != self.me]

    def restart(self, stored=None):
        """A new life, with what the log says."""
        key = self.keys[self.me]
        memory = recall(self.genesis, key.node_id, self.log, stored)
        self.member = CommitteeMember(self.genesis, key, FixedBallots(), memory)
        self.perform(self.member.start(self.now))

    def begin(self):
        self.perform(self.member.begin(self.now))
        return self

    def perform(self, effects):
        for effect in effects:
            match effect:
                case AppendToLog(record):
                    self.log += record
                case ReplaceLog(data):
                    self.log = data
                case Broadcast(message):
                    assert len(self.keys) == 1 or self.is_on_disk(message), "sent before it was on disk"
            self.effects.append(effect)

    def is_on_disk(self, data):
        message = decode_message(data)
        if (
            isinstance(message, Votes)
            and message.signatures[0][0] == self.me
            and len(message.signatures) == 1
        ):
            return data in self.log
        return not isinstance(message, Proposal) or not self.is_mine(message.statement) or data in self.log

    def is_mine(self, statement):
        return self.genesis.proposer(statement.height, statement.round) == self.me

    # --- what others say ---

    def hear(self, message, peer=None):
        sender = self.others[0] if peer is None else peer
        data = message if isinstance(message, bytes) else encode_message(message)
        self.perform(self.member.receive(self.keys[sender].node_id, data, self.now))
        return self

    def signed(self, member, statement):
        return sign_statement(self.keys[member], self.genesis, statement)

    def votes(self, kind, round_, value, members, height=None):
        statement = Statement(kind, height or self.height, round_, voted(value))
        return Votes(statement, tuple((member, self.signed(member, statement)) for member in sorted(members)))

    def proposal(self, round_, value, valid_round=NO_ROUND, *, by=None, proof=None, height=None):
        at = height or self.height
        statement = Statement(Kind.PROPOSAL, at, round_, value_id(value), valid_round)
        proposer = self.genesis.proposer(at, round_) if by is None else by
        if valid_round != NO_ROUND and proof is None:
            proof = self.votes(Kind.PREVOTE, valid_round, value, range(self.genesis.quorum))
        return Proposal(statement, value, proof, self.signed(proposer, statement))

    def propose(self, *args, **kwargs):
        return self.hear(self.proposal(*args, **kwargs))

    def prevote(self, round_, value, members):
        return self.hear(self.votes(Kind.PREVOTE, round_, value, members))

    def precommit(self, round_, value, members):
        return self.hear(self.votes(Kind.PRECOMMIT, round_, value, members))

    # --- time ---

    def wait(self, seconds):
        """Lets time pass, deadline after deadline."""
        end = self.now + seconds
        while self.member.next_deadline() <= end:
            self.now = max(self.now, self.member.next_deadline())
            self.perform(self.member.handle_deadline(self.now))
        self.now = end
        return self

    def enter(self, round_):
        """Has others take the member along to a round."""
        some = self.others[-self.genesis.most_traitors - 1 :]
        return self.hear(self.votes(Kind.PRECOMMIT, round_, None, some))

    # --- what it said ---

    def sent(self, kind):
        """Own statements of a kind in the order of the first time, as (round, value id)."""
        found = []
        for effect in self.effects:
            if isinstance(effect, Broadcast):
                message = decode_message(effect.message)
                with suppress(AttributeError):
                    said = message.statement
                    own = self.is_mine(said) if kind is Kind.PROPOSAL else self.is_vote_of_mine(message)
                    if said.kind is kind and own and (said.round, said.value_id) not in found:
                        found.append((said.round, said.value_id))
        return found

    def is_vote_of_mine(self, message):
        return isinstance(message, Votes) and self.me in dict(message.signatures)

    def said(self, kind, round_):
        """What it said in a round: a list of value ids, of one at most."""
        return [found for at, found in self.sent(kind) if at == round_]

    def decided(self):
        return [effect.certificate.value for effect in self.effects if isinstance(effect, HeightDecided)]
