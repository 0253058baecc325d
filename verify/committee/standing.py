"""Where a member stands at one height: all that it must not forget, whatever happens to it.

Of a member that speaks it changes by records and by nothing else, live and in replay alike: so a log that is whole
gives back exactly the standing that wrote it. Numbers in comments are lines of the algorithm in arXiv 1807.04938.
"""

from dataclasses import dataclass, field
from enum import IntEnum

from verify.committee.messages import NIL, NO_ROUND, Certificate, Kind, Proposal, ValueId, Votes

ROUNDS_REPEATED = 1
"""So many rounds before the present one what was said in them is still repeated to others."""


class Step(IntEnum):
    """What a member does next in its round (line 13)."""

    PROPOSE = 0
    PREVOTE = 1
    PRECOMMIT = 2


@dataclass(frozen=True, slots=True)
class Opened:
    """A height begins. decided: the certificate of the one before. is_abstaining: this member must not speak in it."""

    height: int
    decided: Certificate | None
    is_abstaining: bool


@dataclass(frozen=True, slots=True)
class Entered:
    """A round begins (lines 12 and 13)."""

    round: int


@dataclass(frozen=True, slots=True)
class Said:
    """A proposal or a vote is signed, and may be sent from now on. A precommit for a value locks it (38 to 40)."""

    message: Proposal | Votes


@dataclass(frozen=True, slots=True)
class Validated:
    """A quorum prevoted a value in the present round (lines 42 and 43)."""

    certificate: Certificate


Record = Opened | Entered | Said | Validated
Place = tuple[int, Kind]
"""A round and what may be said once in it."""


@dataclass(slots=True)
class Standing:
    """locked: the own precommit for a value in the latest round that has one. valid: a value and the prevotes for it.

    said: own messages by round and kind, of the present round and those that are still repeated.
    """

    height: int
    decided: Certificate | None = None
    is_abstaining: bool = False
    round: int = NO_ROUND
    step: Step = Step.PROPOSE
    locked: Votes | None = None
    valid: Certificate | None = None
    said: dict[Place, Proposal | Votes] = field(default_factory=dict)

    @classmethod
    def of(cls, opened: Opened) -> "Standing":
        """The standing at the beginning of a height."""
        return cls(opened.height, opened.decided, opened.is_abstaining)

    @property
    def locked_round(self) -> int:
        """The lockedRound: NO_ROUND where nothing is locked."""
        return NO_ROUND if self.locked is None else self.locked.statement.round

    @property
    def locked_id(self) -> ValueId:
        """The id of lockedValue: NIL where nothing is locked."""
        return NIL if self.locked is None else self.locked.statement.value_id

    @property
    def valid_round(self) -> int:
        """The validRound: NO_ROUND where no value has had its quorum."""
        return NO_ROUND if self.valid is None else self.valid.votes.statement.round

    def apply(self, record: Entered | Said | Validated) -> None:
        """What a record changes. Live, the record is written at the same time."""
        match record:
            case Entered(round_):
                self.round, self.step = round_, Step.PROPOSE
                self.said = {at: what for at, what in self.said.items() if at[0] >= round_ - ROUNDS_REPEATED}
            case Said(message):
                self._say(message)
            case Validated(certificate):
                self.valid = certificate

    def records(self) -> list[Record]:
        """The fewest records that give this standing."""
        found: list[Record] = [Opened(self.height, self.decided, self.is_abstaining)]
        if self.valid is not None:
            found.append(Validated(self.valid))
        if self.locked is not None and (self.locked_round, Kind.PRECOMMIT) not in self.said:
            found += (Entered(self.locked_round), Said(self.locked))
        for round_ in sorted({at[0] for at in self.said} | ({self.round} - {NO_ROUND})):
            found.append(Entered(round_))
            found += (Said(self.said[round_, kind]) for kind in Kind if (round_, kind) in self.said)
        return found

    def _say(self, message: Proposal | Votes) -> None:
        statement = message.statement
        self.said[statement.round, statement.kind] = message
        if statement.kind is Kind.PREVOTE:
            self.step = Step.PREVOTE
        elif statement.kind is Kind.PRECOMMIT:
            self.step = Step.PRECOMMIT
            if statement.value_id != NIL:
                self.locked = message if isinstance(message, Votes) else None
