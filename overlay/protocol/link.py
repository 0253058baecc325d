"""One link to a neighbour: greeting, liveness and farewell, with no I/O.

Theory of operation
-------------------
A link runs over one authenticated connection with two streams, control and cells. Its states:

    GREETING --hello--> DECIDING --accept--> OPEN --> CLOSED        (acceptor)
    GREETING ---------hello----------------> OPEN --> CLOSED        (dialler)

The dialler says HELLO at once and waits. The acceptor reads that HELLO, checks it, and its driver decides:
`accept` answers with our own HELLO and opens the link, `refuse` says why not. So a link opens at the
acceptor first; the dialler reads no cell before the answer has come, and an acceptor that has answered has
no other link to this peer.

Both sides send a heartbeat every `heartbeat_s` and close a link on which nothing at all (cells count) has
arrived for `dead_after_s`. A peer may end the link with LINK_CLOSING. Anything else before the greeting is
complete, and a second HELLO after it, breaks the protocol.

Two nodes may dial each other at once. The dial of the smaller NodeId wins (`settle_inbound`): the larger
node accepts the inbound connection at once and gives up its own dial; the smaller one holds the inbound
connection until its own dial has ended, takes it if that failed, and refuses it if not. No node ever waits
for a node that waits for it.
"""

import enum
from dataclasses import dataclass

from crypto.identity import NodeId
from overlay.errors import LocalProtocolError, RemoteProtocolError
from overlay.wire.messages import ControlMessage, Heartbeat, Hello, LinkClosing

LINK_VERSION = 1


@dataclass(frozen=True, slots=True)
class LinkTiming:
    """When a link speaks and when it gives up, in seconds. All nodes of a network should use the same."""

    heartbeat_s: float = 15.0
    dead_after_s: float = 45.0
    greeting_timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Queue this on the control stream."""

    message: ControlMessage


@dataclass(frozen=True, slots=True)
class PeerGreeted:
    """A sound HELLO came in on a connection that we accepted: call `accept` or `refuse`."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class LinkOpened:
    """Both sides have greeted; cells and messages may flow."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A message for the layer above."""

    message: ControlMessage


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """The link is over: send what is queued if that goes quickly, then close."""

    reason: str


LinkOutput = SendMessage | PeerGreeted | LinkOpened | MessageReceived | CloseConnection


class _State(enum.Enum):
    GREETING = enum.auto()
    DECIDING = enum.auto()
    OPEN = enum.auto()
    CLOSED = enum.auto()


class LinkMachine:
    """The state of one link. See the theory of operation above."""

    def __init__(self, own_hello: Hello, *, dialled: bool, timing: LinkTiming, now: float) -> None:
        self._own_hello = own_hello
        self._dialled = dialled
        self._timing = timing
        self._state = _State.GREETING
        self._greet_by = now + timing.greeting_timeout_s
        self._heartbeat_at = now + timing.heartbeat_s
        self._heard_at = now
        self._peer_hello: Hello | None = None

    @property
    def is_open(self) -> bool:
        """Both sides have greeted and neither has closed."""
        return self._state is _State.OPEN

    @property
    def clock_ahead_s(self) -> int | None:
        """By how much this node's clock is ahead of the peer's, to some seconds; None before the peer has greeted."""
        return None if self._peer_hello is None else self._own_hello.unix_time - self._peer_hello.unix_time

    def start(self) -> list[LinkOutput]:
        """Begins: a dialler greets, an acceptor waits to be greeted."""
        return [SendMessage(self._own_hello)] if self._dialled else []

    def receive_message(self, message: ControlMessage, now: float) -> list[LinkOutput]:
        """Handles a control message. Raises RemoteProtocolError; the driver then calls `fail`."""
        self._heard_at = now
        match self._state:
            case _State.CLOSED:
                return []
            case _State.OPEN:
                return self._receive_open(message)
            case _State.GREETING | _State.DECIDING:
                return self._receive_greeting(message, now)

    def _receive_open(self, message: ControlMessage) -> list[LinkOutput]:
        match message:
            case Heartbeat():
                return []
            case LinkClosing(reason):
                return self._close(f"peer: {reason}")
            case Hello():
                raise RemoteProtocolError("a second HELLO")
            case _:
                return [MessageReceived(message)]

    def _receive_greeting(self, message: ControlMessage, now: float) -> list[LinkOutput]:
        match message:
            case LinkClosing(reason):
                return self._close(f"peer: {reason}")
            case Hello() if self._state is _State.GREETING:
                return self._receive_hello(message, now)
            case _:
                raise RemoteProtocolError("a message before the greeting is over")

    def _receive_hello(self, hello: Hello, now: float) -> list[LinkOutput]:
        mismatch = self._mismatch(hello)
        if mismatch is not None:
            return [SendMessage(LinkClosing(mismatch)), *self._close(mismatch)]
        self._peer_hello = hello
        if self._dialled:
            return self._open(hello, now)
        self._state = _State.DECIDING
        return [PeerGreeted(hello)]

    def _mismatch(self, hello: Hello) -> str | None:
        if hello.version != self._own_hello.version:
            return f"link version {hello.version}, not {self._own_hello.version}"
        if hello.network != self._own_hello.network:
            return "another network"
        return None

    def accept(self, now: float) -> list[LinkOutput]:
        """The driver keeps this inbound connection: answer the greeting."""
        if self._state is not _State.DECIDING or self._peer_hello is None:
            raise LocalProtocolError("accept without a greeting to answer")
        return [SendMessage(self._own_hello), *self._open(self._peer_hello, now)]

    def refuse(self, reason: str) -> list[LinkOutput]:
        """Ends the link with a word to the peer: a duplicate, a fault of its, or our own going down."""
        if self._state is _State.CLOSED:
            return []
        return [SendMessage(LinkClosing(reason)), *self._close(reason)]

    def drop(self) -> None:
        """The connection is gone; there is nobody to tell."""
        self._state = _State.CLOSED

    def receive_cells(self, now: float) -> None:
        """Notes that something arrived on the cell stream: the peer lives."""
        self._heard_at = now

    def next_deadline(self) -> float | None:
        """When `handle_deadline` is due, None once the link is closed."""
        match self._state:
            case _State.CLOSED:
                return None
            case _State.OPEN:
                return min(self._heartbeat_at, self._heard_at + self._timing.dead_after_s)
            case _State.GREETING | _State.DECIDING:
                return self._greet_by

    def handle_deadline(self, now: float) -> list[LinkOutput]:
        """Sends the heartbeat that is due, or gives the peer up. Early calls do nothing."""
        match self._state:
            case _State.CLOSED:
                return []
            case _State.OPEN:
                return self._handle_open_deadline(now)
            case _State.GREETING | _State.DECIDING:
                return self.refuse("no greeting in time") if now >= self._greet_by else []

    def _handle_open_deadline(self, now: float) -> list[LinkOutput]:
        if now >= self._heard_at + self._timing.dead_after_s:
            return self._close("no sign of life")
        if now < self._heartbeat_at:
            return []
        self._heartbeat_at = now + self._timing.heartbeat_s
        return [SendMessage(Heartbeat())]

    def _open(self, hello: Hello, now: float) -> list[LinkOutput]:
        self._state = _State.OPEN
        self._heartbeat_at = now + self._timing.heartbeat_s
        return [LinkOpened(hello)]

    def _close(self, reason: str) -> list[LinkOutput]:
        self._state = _State.CLOSED
        return [CloseConnection(reason)]


class Inbound(enum.Enum):
    """What to do with a greeted inbound connection."""

    ACCEPT = enum.auto()
    """Take it; it replaces a dial of ours or the link to an earlier run of that peer, if there is one."""
    HOLD = enum.auto()
    """Decide again when our own dial to that peer, or the link we have, has ended; refuse it after a
    while."""


def settle_inbound(
    own: NodeId, peer: NodeId, hello: Hello, *, dialling: bool, linked: Hello | None
) -> Inbound:
    """Says what becomes of a greeted inbound connection from `peer`.

    dialling: a dial of ours to that peer is under way. linked: the peer's HELLO on the link that we have to
    it.
    """
    if linked is not None:
        # One and the same run of that peer dials only when it has no link: ours is about to end, or this
        # dial crossed with ours and has already been given up. Another run has no part in the link we hold.
        return Inbound.HOLD if linked.instance == hello.instance else Inbound.ACCEPT
    return Inbound.HOLD if dialling and own < peer else Inbound.ACCEPT
