"""What a committee member asks its driver to do.

Effects are performed in the order given: a record is on disk before its message goes out.
"""

from dataclasses import dataclass

from crypto.identity import NodeId
from verify.committee.evidence import Equivocation
from verify.committee.messages import Certificate


@dataclass(frozen=True, slots=True)
class AppendToLog:
    """Append this and sync it. Where that fails, perform none of the effects that follow, and stop the member."""

    record: bytes


@dataclass(frozen=True, slots=True)
class ReplaceLog:
    """Put this in the place of the whole log, whole or not at all, and sync it. Where it fails: as above."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Send this to every other member. Whatever is lost is repeated later."""

    message: bytes


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Send this to one member."""

    peer: NodeId
    message: bytes


@dataclass(frozen=True, slots=True)
class SendCertificate:
    """Send a member the certificate of this height, encoded as a message, if it is still stored."""

    peer: NodeId
    height: int


@dataclass(frozen=True, slots=True)
class HeightDecided:
    """A height has its value. Store it; call `begin` when the next epoch begins. May come again after a restart."""

    certificate: Certificate


@dataclass(frozen=True, slots=True)
class EquivocationFound:
    """A member signed two things of which it may sign one. Keep it as evidence."""

    evidence: Equivocation


@dataclass(frozen=True, slots=True)
class PeerMisbehaved:
    """A member sent what no honest one passes on. Close its link."""

    peer: NodeId
    reason: str


@dataclass(frozen=True, slots=True)
class Abstaining:
    """This member does not speak until a height has been decided before its eyes. Say so to its operator."""

    reason: str


Effect = (
    AppendToLog
    | ReplaceLog
    | Broadcast
    | SendMessage
    | SendCertificate
    | HeightDecided
    | EquivocationFound
    | PeerMisbehaved
    | Abstaining
)
