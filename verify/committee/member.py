"""A member of the committee: bytes in, effects out, height after height.

Theory of operation
-------------------
Two heights are open: the present one (`tendermint.py`), which is idle until the driver says `begin`, and the next,
whose messages are only kept, since others may be a little ahead. Whatever comes in is decoded, dropped if it is of
another height or known already, checked against its signer's key, and only then heard.

When a height is decided, the log is replaced by that of the next, which begins with the certificate; only then is the
driver told. A member that is behind learns a height by its certificate: every `resend_s` it asks one other, each in
turn, for that of its present height, and goes on asking whoever had it. Certificates are taken from anybody.

What a peer may do wrong: what is malformed, or has a signature that doesn't hold, closes its link, since honest
members pass on only what they checked. Two statements where one is allowed are evidence against who signed them, not
against who brought them. Asking again and again for the same certificate gets no answer for half of `resend_s`.

What is signed with this member's own key, and it did not sign, means that its log is older than its words or that
another has its key. It abstains at once (`recall.py`).
"""

from math import inf
from typing import assert_never

from crypto.errors import AuthenticationError, DecodeError
from crypto.identity import IdentityKey, NodeId
from overlay.errors import LocalProtocolError
from verify.committee.effects import (
    Abstaining,
    Effect,
    HeightDecided,
    PeerMisbehaved,
    SendCertificate,
    SendMessage,
)
from verify.committee.genesis import Genesis
from verify.committee.message_codec import decode_message, encode_message
from verify.committee.messages import (
    Certificate,
    Proposal,
    Statement,
    Votes,
    Wanted,
    check_certificate,
    check_proposal,
    check_votes,
)
from verify.committee.recall import Memory
from verify.committee.standing import Opened, Standing
from verify.committee.tendermint import Ballots, Tendermint
from verify.committee.timing import CommitteeTiming
from verify.committee.voice import Voice


class CommitteeMember:
    """One member's machine. See the theory of operation above."""

    def __init__(
        self,
        genesis: Genesis,
        key: IdentityKey,
        ballots: Ballots,
        memory: Memory,
        timing: CommitteeTiming | None = None,
    ) -> None:
        """Raises LocalProtocolError where the key is no member's."""
        number = genesis.number_of(key.node_id)
        if number is None:
            raise LocalProtocolError("this node is no member of the committee that the genesis file names")
        self.genesis = genesis
        self.number = number
        self._ballots = ballots
        self._timing = timing or CommitteeTiming()
        self._voice = Voice(genesis, key, number)
        self._abstains = memory.abstains
        self._alien_height = 0
        self._present = self._open(memory.standing)
        self._next = self._open(Standing(memory.standing.height + 1))
        self._resend_at = inf
        self._turn = number
        self._served: dict[NodeId, tuple[int, float]] = {}

    @property
    def height(self) -> int:
        """The height that is not decided yet."""
        return self._present.standing.height

    @property
    def standing(self) -> Standing:
        """Where this member stands in it: what its log gives back."""
        return self._present.standing

    # --- inputs ---

    def start(self, now: float) -> list[Effect]:
        """To be called once, before all else."""
        standing = self._present.standing
        self._voice.rewrite(standing)
        if standing.decided is not None:
            self._voice.do(HeightDecided(standing.decided))
        if standing.is_abstaining:
            self._voice.do(Abstaining(self._abstains))
        self._resend_at = now
        return self._voice.take_effects()

    def begin(self, now: float) -> list[Effect]:
        """The epoch whose value is the present height's has come. A second call changes nothing."""
        self._close(self._present.begin(now), now)
        return self._voice.take_effects()

    def receive(self, peer: NodeId, data: bytes, now: float) -> list[Effect]:
        """Handles a message that came over the link to `peer`; from anyone but another member it is ignored."""
        sender = self.genesis.number_of(peer)
        if sender is not None and sender != self.number:
            try:
                self._hear(peer, sender, data, now)
            except (DecodeError, AuthenticationError) as error:
                self._voice.do(PeerMisbehaved(peer, f"a message of the committee: {error}"))
        return self._voice.take_effects()

    def next_deadline(self) -> float:
        """When `handle_deadline` wants to be called."""
        return min(self._resend_at, self._present.next_deadline())

    def handle_deadline(self, now: float) -> list[Effect]:
        """Does what is due by now."""
        if self._present.next_deadline() <= now:
            self._close(self._present.handle_deadline(now), now)
        if self._resend_at <= now:
            self._present.repeat()
            self._ask_next()
            self._resend_at = now + self._timing.resend_s
        return self._voice.take_effects()

    # --- hearing ---

    def _hear(self, peer: NodeId, sender: int, data: bytes, now: float) -> None:
        message = decode_message(data)
        match message:
            case Wanted(height):
                self._serve(peer, height, now)
            case Certificate():
                self._hear_certificate(sender, message, now)
            case Proposal(statement):
                proposer = self.genesis.proposer(statement.height, statement.round)
                at = self._at(statement, proposer)
                if at is not None:
                    check_proposal(self.genesis, message)
                    if not self._is_alien(statement, proposer):
                        self._settle(at, at.hear_proposal(message, now), now)
            case Votes(statement):
                self._hear_votes(message, now)
            case _:
                assert_never(message)

    def _hear_votes(self, votes: Votes, now: float) -> None:
        statement = votes.statement
        fresh = tuple(row for row in votes.signatures if self._at(statement, row[0]) is not None)
        check_votes(self.genesis, Votes(statement, fresh))
        others = tuple(row for row in fresh if not self._is_alien(statement, row[0]))
        at = self._of_height(statement.height)
        if others and at is not None:
            self._settle(at, at.hear_votes(Votes(statement, others), now), now)

    def _hear_certificate(self, sender: int, certificate: Certificate, now: float) -> None:
        if certificate.height != self.height:
            return
        check_certificate(self.genesis, certificate)
        # Line 50 asks whether it is valid. A quorum's word will do: who is late may lack what that is told by.
        self._close(certificate, now, was_handed=True)
        self._ask(sender)

    def _at(self, statement: Statement, member: int) -> Tendermint | None:
        """The height in which a statement is news; None where it is none."""
        at = self._of_height(statement.height)
        return None if at is None or at.tally.knows(statement, member) else at

    def _of_height(self, height: int) -> Tendermint | None:
        return {self.height: self._present, self.height + 1: self._next}.get(height)

    def _is_alien(self, statement: Statement, member: int) -> bool:
        """Whether somebody else spoke with this member's key, or it itself in a life that it has forgotten."""
        if member != self.number:
            return False
        standing = self._present.standing
        self._alien_height = max(self._alien_height, statement.height)
        if not standing.is_abstaining:
            self._abstains = "a statement is about that has its signature and is not in its log"
            standing.is_abstaining = True
            self._voice.rewrite(standing)
            self._voice.do(Abstaining(self._abstains))
        return True

    # --- deciding ---

    def _settle(self, at: Tendermint, decided: Certificate | None, now: float) -> None:
        """What was decided in the next height has to wait for the present one."""
        if at is self._present:
            self._close(decided, now)

    def _close(self, decided: Certificate | None, now: float, *, was_handed: bool = False) -> None:
        """A height is over (lines 52 to 54); so may be the next, by what was kept of it."""
        while decided is not None:
            has_seen = not was_handed and self.height >= self._alien_height
            abstains = self._present.standing.is_abstaining and not has_seen
            opened = Standing.of(Opened(self.height + 1, decided, abstains))
            self._voice.rewrite(opened)
            self._voice.do(HeightDecided(decided))
            if not was_handed:
                self._voice.send(decided.votes)
            self._present = self._next
            self._present.standing = opened
            self._next = self._open(Standing(opened.height + 1))
            decided, was_handed = self._present.settle(now), False

    def _open(self, standing: Standing) -> Tendermint:
        return Tendermint(self.genesis, self._ballots, self._voice, standing, self._timing)

    # --- catching up ---

    def _ask_next(self) -> None:
        """Asks the next of the others; a traitor among them costs one turn."""
        count = len(self.genesis.members)
        self._turn = (self._turn + 1) % count
        if self._turn == self.number:
            self._turn = (self._turn + 1) % count
        self._ask(self._turn)

    def _ask(self, member: int) -> None:
        if member != self.number:
            self._voice.do(SendMessage(self.genesis.members[member], encode_message(Wanted(self.height))))

    def _serve(self, peer: NodeId, height: int, now: float) -> None:
        last_height, at = self._served.get(peer, (0, -inf))
        if height < self.height and (height > last_height or now >= at + self._timing.resend_s / 2):
            self._served[peer] = (height, now)
            self._voice.do(SendCertificate(peer, height))
