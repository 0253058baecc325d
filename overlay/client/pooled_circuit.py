"""A circuit that a client keeps, and who waits for what comes over it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import assert_never

import trio

from crypto.identity import NodeId
from overlay.errors import LocalProtocolError
from overlay.protocol.circuit import (
    CircuitBuilt,
    CircuitClosed,
    CircuitEvent,
    CloveUndelivered,
    PongReceived,
    ResponseReceived,
)
from overlay.routing.paths import Path
from overlay.transport.switch import OwnCircuit


@dataclass(slots=True, eq=False)
class PooledCircuit:
    """A circuit of a set, and who waits for answers on it. Implements `CircuitListener`."""

    path: Path
    own: OwnCircuit | None = None
    cause: str | None = None
    """Why it closed; None while it is open or being built."""
    settled: trio.Event = field(default_factory=trio.Event)
    """Set once it is open, or closed."""
    closed: trio.Event = field(default_factory=trio.Event)
    blamed: tuple[NodeId, ...] = ()
    subscribers: dict[bytes, Callable[[CircuitEvent], None]] = field(default_factory=dict)
    """By message id; each is told of events for its message and of the circuit's end."""

    @property
    def is_open(self) -> bool:
        """Whether cloves can be sent on it."""
        return self.own is not None and self.settled.is_set() and not self.closed.is_set()

    @property
    def opened(self) -> OwnCircuit:
        """The circuit itself. Raises LocalProtocolError before it was started."""
        if self.own is None:
            raise LocalProtocolError("this circuit was not started")
        return self.own

    def circuit_event(self, event: CircuitEvent) -> None:
        """Pass an event on to whom it concerns."""
        match event:
            case CircuitBuilt():
                self.settled.set()
            case CircuitClosed(cause, blamed):
                self.cause, self.blamed = cause, blamed
                self.settled.set()
                self.closed.set()
                for told in list(self.subscribers.values()):
                    told(event)
            case ResponseReceived(message) | CloveUndelivered(message):
                if (subscriber := self.subscribers.get(message)) is not None:
                    subscriber(event)
            case PongReceived():
                pass
            case _:
                assert_never(event)
