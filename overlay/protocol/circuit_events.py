"""What happened to a circuit, as its client sees it."""

from dataclasses import dataclass
from enum import StrEnum

from crypto.identity import NodeId
from overlay.protocol.effects import SendCell


class CloseCause(StrEnum):
    """Why a circuit ended."""

    CLOSED_HERE = "closed-here"
    BUILD_TIMEOUT = "build-timeout"
    BUILD_REFUSED = "build-refused"
    BUILD_UNCONFIRMED = "build-unconfirmed"
    DESTROYED = "destroyed"
    TAMPERED = "tampered"
    VIOLATED = "violated"
    LINK_LOST = "link-lost"
    PROXY_LEFT = "proxy-left"
    PING_TIMEOUT = "ping-timeout"
    IDLE = "idle"
    EXPIRED = "expired"
    OVERFLOWED = "overflowed"


@dataclass(frozen=True, slots=True)
class CircuitBuilt:
    """Every hop confirmed; took elapsed_s since `start`."""

    elapsed_s: float


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """An answer cell came for one of our messages."""

    message: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class CloveUndelivered:
    """The proxy could not hand this message's clove on, or has lost the node that was answering it."""

    message: bytes


@dataclass(frozen=True, slots=True)
class PongReceived:
    """The proxy echoed a ping after rtt_s."""

    rtt_s: float


@dataclass(frozen=True, slots=True)
class CircuitClosed:
    """The circuit is no more. blamed: relays that this counts against; empty where nobody did wrong."""

    cause: CloseCause
    blamed: tuple[NodeId, ...]


CircuitEvent = CircuitBuilt | ResponseReceived | CloveUndelivered | PongReceived | CircuitClosed
CircuitOutput = SendCell | CircuitEvent
