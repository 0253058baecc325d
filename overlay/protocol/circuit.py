r"""One circuit at the client that built it.

Theory of operation.

    NEW --start--> BUILDING --BUILT, every hop confirmed--> OPEN --> CLOSED
                       \------- anything else -------------------> CLOSED

OPEN ends by our `close`, a deadline (idle, lifetime, unanswered ping), the proxy's CLOSE, a DESTROY, a lost
link, or a breach of the protocol; each is one CircuitClosed event, once, with who is to blame. Blame is fair
rather than sharp: a DESTROY or a failed tag may be the work of any hop, so it counts against all of them;
only the first hop can lose our link, and only the last can seal a malformed content.

Clove cells beyond the window wait, unwrapped, for the proxy's SENDME: a wrapped cell must be sent, and in
order.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import assert_never

from crypto.entropy import Entropy
from crypto.errors import CryptoError, DecodeError
from crypto.identity import NodeId
from crypto.onion import BuildTerms, ClientLayers, Hop, PendingCircuit, start_build
from overlay.errors import LocalProtocolError
from overlay.protocol.circuit_events import (
    CircuitBuilt,
    CircuitClosed,
    CircuitEvent,
    CircuitOutput,
    CloseCause,
    CloveUndelivered,
    PongReceived,
    ResponseReceived,
)
from overlay.protocol.effects import SendCell
from overlay.protocol.violation import CircuitViolationError
from overlay.protocol.window import ReceiveWindow, SendWindow
from overlay.wire.cells import Cell, CircuitId, Command, destroy_cell
from overlay.wire.contents import (
    Close,
    CloveFragment,
    Content,
    Dummy,
    Ping,
    Response,
    SendMe,
    Undelivered,
    decode_inbound,
    encode_outbound,
    split_clove,
)
from overlay.wire.limits import MAX_WAITING_FRAGMENTS, PING_BYTES

__all__ = [
    "CircuitBuilt",
    "CircuitClosed",
    "CircuitEvent",
    "CircuitMachine",
    "CircuitOutput",
    "CircuitState",
    "CircuitTimeouts",
    "CloseCause",
    "CloveUndelivered",
    "PongReceived",
    "ResponseReceived",
]


class CircuitState(Enum):
    """How far a circuit has come at its client."""

    NEW = auto()
    BUILDING = auto()
    OPEN = auto()
    CLOSED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitTimeouts:
    """Spans after which the client acts. idle_s None: keep an unused circuit to the end of its lifetime."""

    build_s: float = 8.0
    idle_s: float | None = 120.0
    ping_interval_s: float = 30.0
    ping_timeout_s: float = 10.0


class CircuitMachine:
    """One circuit over `hops`, from build to close. Pure: inputs return cells to send and what happened.

    circ_id: free on the link to the first hop, see `choose_circuit_id`. Start it while terms.unix_minute is
    true.
    """

    def __init__(
        self,
        hops: Sequence[Hop],
        *,
        circ_id: CircuitId,
        terms: BuildTerms,
        entropy: Entropy,
        timeouts: CircuitTimeouts | None = None,
    ) -> None:
        self.circ_id = circ_id
        self.state = CircuitState.NEW
        self.relays = tuple(hop.node_id for hop in hops)
        self._hops = tuple(hops)
        self._terms = terms
        self._entropy = entropy
        self._timeouts = timeouts or CircuitTimeouts()
        self._pending: PendingCircuit | None = None
        self._layers: ClientLayers | None = None
        self._started_at = self._used_at = self._heard_at = 0.0
        self._ping: tuple[bytes, float] | None = None
        self._window = SendWindow()
        self._arriving = ReceiveWindow()
        self._waiting: deque[bytes] = deque()

    # --- what the driver may ask ------------------------------------------------------------------------

    @property
    def guard(self) -> NodeId:
        """The first hop: the peer of the link that this circuit's cells travel on."""
        return self.relays[0]

    @property
    def proxy(self) -> NodeId:
        """The last hop."""
        return self.relays[-1]

    @property
    def waiting_fragments(self) -> int:
        """How many clove cells wait for the proxy's window."""
        return len(self._waiting)

    @property
    def lives_until(self) -> float:
        """When the lifetime asked for ends; meaningful once started."""
        return self._started_at + self._terms.lifetime_s

    def reply_token(self, message: bytes) -> bytes:
        """Return the token by which the proxy finds this circuit for an answer to `message`."""
        return self._open_layers().reply_token(message)

    # --- what the client does ---------------------------------------------------------------------------

    def start(self, now: float) -> list[CircuitOutput]:
        """Send BUILD to the first hop. ValueError or AuthenticationError where hops or terms are unusable."""
        if self.state is not CircuitState.NEW:
            raise LocalProtocolError("a circuit is started once")
        self._pending, body = start_build(self._hops, self._terms, entropy=self._entropy)
        self.state = CircuitState.BUILDING
        self._started_at = now
        return [self._send(Command.BUILD, body)]

    def send_clove(
        self, destination: NodeId, message: bytes, sealed: bytes, now: float
    ) -> list[CircuitOutput]:
        """Send a sealed clove to a model node; what is over the window waits.

        Raises LocalProtocolError if the circuit is not open or too much waits already; nothing is sent then.
        """
        layers = self._open_layers()
        contents = [encode_outbound(fragment) for fragment in split_clove(destination, message, sealed)]
        if len(self._waiting) + len(contents) > MAX_WAITING_FRAGMENTS:
            raise LocalProtocolError("too many clove cells wait on this circuit")
        self._used_at = now
        self._waiting.extend(contents)
        return self._send_waiting(layers)

    def ping(self, now: float) -> list[CircuitOutput]:
        """Ask the proxy for an echo, unless one is under way."""
        layers = self._open_layers()
        if self._ping is not None:
            return []
        self._ping = (self._entropy(PING_BYTES), now)
        return [self._send_content(layers, Ping(self._ping[0]))]

    def send_dummy(self, now: float) -> list[CircuitOutput]:
        """Send a cell that means nothing."""
        return [self._send_content(self._open_layers(), Dummy())]

    def close(self, now: float) -> list[CircuitOutput]:
        """End the circuit from here."""
        return self._close(CloseCause.CLOSED_HERE)

    # --- what happens to it -----------------------------------------------------------------------------

    def receive_cell(self, cell: Cell, now: float) -> list[CircuitOutput]:
        """Take a cell of this circuit in. Never raises: whatever is wrong with it closes the circuit."""
        if self.state in (CircuitState.NEW, CircuitState.CLOSED):
            return []
        if cell.command is Command.DESTROY:
            built = self.state is CircuitState.OPEN
            cause = CloseCause.DESTROYED if built else CloseCause.BUILD_REFUSED
            return self._close(cause, self.relays, tell=False)
        if cell.command is Command.BUILT and self._pending is not None:
            return self._receive_built(self._pending, cell.body, now)
        if cell.command is Command.BWD and self._layers is not None:
            return self._receive_inbound(self._layers, cell.body, now)
        return self._close(CloseCause.VIOLATED, self.relays)

    def link_closed(self, now: float) -> list[CircuitOutput]:
        """The link to the first hop is gone."""
        return self._close(CloseCause.LINK_LOST, (self.guard,), tell=False)

    def send_failed(self, now: float) -> list[CircuitOutput]:
        """The circuit's queue on its link is full: a cell is lost, and the layers with it."""
        return self._close(CloseCause.OVERFLOWED)

    def next_deadline(self) -> float | None:
        """Return when `handle_deadline` wants to be called next."""
        spans = self._timeouts
        match self.state:
            case CircuitState.NEW | CircuitState.CLOSED:
                return None
            case CircuitState.BUILDING:
                return self._started_at + spans.build_s
            case CircuitState.OPEN:
                idle = [] if spans.idle_s is None else [self._used_at + spans.idle_s]
                return min(self.lives_until, self._ping_deadline(), *idle)
            case _:
                assert_never(self.state)

    def _ping_deadline(self) -> float:
        if self._ping is not None:
            return self._ping[1] + self._timeouts.ping_timeout_s
        return self._heard_at + self._timeouts.ping_interval_s

    def handle_deadline(self, now: float) -> list[CircuitOutput]:
        """Act on the first deadline that has passed, if any has."""
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return []
        if self.state is CircuitState.BUILDING:
            return self._close(CloseCause.BUILD_TIMEOUT, self.relays)
        if now >= self.lives_until:
            return self._close(CloseCause.EXPIRED)
        if self._timeouts.idle_s is not None and now >= self._used_at + self._timeouts.idle_s:
            return self._close(CloseCause.IDLE)
        if self._ping is not None:
            return self._close(CloseCause.PING_TIMEOUT, self.relays)
        return self.ping(now)

    # --- inbound ----------------------------------------------------------------------------------------

    def _receive_built(self, pending: PendingCircuit, body: bytes, now: float) -> list[CircuitOutput]:
        try:
            self._layers = pending.finish(body)
        except CryptoError:
            return self._close(CloseCause.BUILD_UNCONFIRMED, self.relays)
        self._pending = None
        self.state = CircuitState.OPEN
        self._used_at = self._heard_at = now
        return [CircuitBuilt(now - self._started_at)]

    def _receive_inbound(self, layers: ClientLayers, body: bytes, now: float) -> list[CircuitOutput]:
        try:
            data = layers.peel(body)
        except CryptoError:
            return self._close(CloseCause.TAMPERED, self.relays)
        self._heard_at = now
        try:
            return self._receive_content(layers, decode_inbound(data), now)
        except (DecodeError, CircuitViolationError):
            return self._close(CloseCause.VIOLATED, (self.proxy,))

    def _receive_content(self, layers: ClientLayers, content: Content, now: float) -> list[CircuitOutput]:
        match content:
            case Response(message, data):
                self._used_at = now
                received: list[CircuitOutput] = [ResponseReceived(message, data)]
                return (
                    [*received, self._send_content(layers, SendMe())]
                    if self._arriving.receive()
                    else received
                )
            case SendMe():
                self._window.credit()
                return self._send_waiting(layers)
            case Ping(token):
                return [PongReceived(now - self._finish_ping(token))]
            case Undelivered(message):
                return [CloveUndelivered(message)]
            case Close():
                return self._close(CloseCause.PROXY_LEFT)
            case Dummy():
                return []
            case CloveFragment():
                # decode_inbound returns none
                raise CircuitViolationError("an outbound content came inbound")
            case _:
                assert_never(content)

    def _finish_ping(self, token: bytes) -> float:
        if self._ping is None or self._ping[0] != token:
            raise CircuitViolationError("an echo of no ping of ours")
        sent_at, self._ping = self._ping[1], None
        return sent_at

    # --- outbound ---------------------------------------------------------------------------------------

    def _send_waiting(self, layers: ClientLayers) -> list[CircuitOutput]:
        count = min(self._window.open_cells, len(self._waiting))
        self._window.open_cells -= count
        return [self._send(Command.FWD, layers.wrap(self._waiting.popleft())) for _ in range(count)]

    def _send_content(self, layers: ClientLayers, content: Content) -> SendCell:
        return self._send(Command.FWD, layers.wrap(encode_outbound(content)))

    def _send(self, command: Command, body: bytes) -> SendCell:
        return SendCell(self.relays[0], Cell(self.circ_id, command, body))

    def _open_layers(self) -> ClientLayers:
        if self.state is not CircuitState.OPEN or self._layers is None:
            raise LocalProtocolError("the circuit is not open")
        return self._layers

    def _close(
        self, cause: CloseCause, blamed: tuple[NodeId, ...] = (), *, tell: bool = True
    ) -> list[CircuitOutput]:
        if self.state is CircuitState.CLOSED:
            return []
        started = self.state is not CircuitState.NEW
        self.state = CircuitState.CLOSED
        self._pending = self._layers = None
        self._waiting.clear()
        closed = CircuitClosed(cause, blamed)
        if not (tell and started):
            return [closed]
        return [SendCell(self.guard, destroy_cell(self.circ_id, self._entropy)), closed]
