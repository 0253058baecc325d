"""The last hop as an end point: cloves out to model nodes, answer cells back to the client.

One `Proxy` per circuit that ends here. It sees contents after the last layer is off. What the client may do
wrong is a CircuitViolationError, and its circuit's end; what a model node may do wrong is answer a message
that was never delivered to it, which the relay refuses before it gets here.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from crypto.identity import NodeId
from crypto.onion import RelayLayer
from overlay.protocol.effects import DeliverClove, Effect, SendCell
from overlay.protocol.reassembly import ByteBudget, LostClove, Reassembly, WholeClove
from overlay.protocol.violation import CircuitViolationError
from overlay.protocol.window import ReceiveWindow, SendWindow
from overlay.wire.cells import Cell, CircuitId, Command
from overlay.wire.contents import (
    Close,
    CloseReason,
    CloveFragment,
    Content,
    Dummy,
    Ping,
    Response,
    SendMe,
    Undelivered,
    decode_outbound,
    encode_inbound,
)
from overlay.wire.limits import (
    MAX_DESTINATIONS_PER_REPLY,
    MAX_REPLIES_PER_CIRCUIT,
    MAX_WAITING_ANSWERS,
)


@dataclass(slots=True, eq=False)
class Reply:
    """By whom and on which circuit a message may be answered. destinations: where its cloves went.

    answered_at: when an answer cell came last.
    """

    proxy: "Proxy"
    message: bytes
    destinations: list[NodeId]
    answered_at: float = float("-inf")


class Proxy:
    """The far end of one circuit. peer, circ_id: where inbound cells go. replies: shared by all circuits."""

    def __init__(
        self,
        peer: NodeId,
        circ_id: CircuitId,
        layer: RelayLayer,
        *,
        replies: dict[bytes, Reply],
        budget: ByteBudget,
        may_deliver_to: Callable[[NodeId], bool],
    ) -> None:
        self.peer = peer
        self.circ_id = circ_id
        self._layer = layer
        self._replies = replies
        self._may_deliver_to = may_deliver_to
        self._reassembly = Reassembly(budget)
        self._tokens: dict[bytes, bytes] = {}  # message -> token, oldest first
        self._arriving = ReceiveWindow()
        self._window = SendWindow()
        self._waiting: deque[Response] = deque()

    def receive_content(self, data: bytes, now: float) -> list[Effect]:
        """Take what the last layer hid. Raises DecodeError or CircuitViolationError: destroy the circuit."""
        content = decode_outbound(data)
        match content:
            case CloveFragment():
                return self._receive_fragment(content, now)
            case SendMe():
                self._window.credit()
                return self._send_waiting()
            case Ping():
                return [self._inbound(content)]
            case Dummy():
                return []
            case Close() | Response() | Undelivered():
                # decode_outbound returns none of these
                raise CircuitViolationError("an inbound content came outbound")
            case _:
                assert_never(content)

    def _receive_fragment(self, fragment: CloveFragment, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if fragment.destination is not None:
            # From the first fragment on: an answer that other paths made possible may overtake the rest.
            self._expect_answers(fragment.message, fragment.destination)
        match self._reassembly.receive(fragment, now):
            case WholeClove(destination, message, sealed):
                effects.append(self._deliver(destination, message, sealed))
            case LostClove(message):
                effects.append(self._inbound(Undelivered(message)))
            case None:
                pass
        if self._arriving.receive():
            effects.append(self._inbound(SendMe()))
        return effects

    def _expect_answers(self, message: bytes, destination: NodeId) -> None:
        token = self._tokens.get(message)
        if token is None:
            if len(self._tokens) >= MAX_REPLIES_PER_CIRCUIT:
                oldest = next(iter(self._tokens))
                del self._replies[self._tokens.pop(oldest)]
            token = self._tokens[message] = self._layer.reply_token(message)
            self._replies[token] = Reply(self, message, [])
        destinations = self._replies[token].destinations
        if destination in destinations:
            return
        if len(destinations) >= MAX_DESTINATIONS_PER_REPLY:
            raise CircuitViolationError("too many destinations for one message")
        destinations.append(destination)

    def _deliver(self, destination: NodeId, message: bytes, sealed: bytes) -> Effect:
        token = self._tokens.get(message)
        if token is None or not self._may_deliver_to(destination):
            return self._inbound(Undelivered(message))
        return DeliverClove(destination, token, sealed)

    def report_undelivered(self, message: bytes) -> list[Effect]:
        """Tell the client that a clove did not reach its destination."""
        return [self._inbound(Undelivered(message))]

    def send_answer(self, message: bytes, data: bytes) -> list[Effect]:
        """Pass an answer cell on, now or when the window opens; CircuitViolationError if too many wait."""
        if len(self._waiting) >= MAX_WAITING_ANSWERS:
            raise CircuitViolationError("the client takes its answers too slowly")
        self._waiting.append(Response(message, data))
        return self._send_waiting()

    def _send_waiting(self) -> list[Effect]:
        effects: list[Effect] = []
        while self._waiting and self._window.open_cells > 0:
            self._window.open_cells -= 1
            effects.append(self._inbound(self._waiting.popleft()))
        return effects

    def _inbound(self, content: Content) -> Effect:
        body = self._layer.seal(encode_inbound(content))
        return SendCell(self.peer, Cell(self.circ_id, Command.BWD, body))

    def next_deadline(self) -> float | None:
        """Return when a partial clove must be given up."""
        return self._reassembly.next_deadline()

    def handle_deadline(self, now: float) -> list[Effect]:
        """Give up partial cloves that took too long, and say so to the client."""
        return [self._inbound(Undelivered(lost.message)) for lost in self._reassembly.drop_expired(now)]

    def close(self, reason: CloseReason) -> list[Effect]:
        """Tell the client that this end leaves in good order. The caller destroys the circuit after it."""
        return [self._inbound(Close(reason))]

    def discard(self) -> None:
        """The circuit is gone: forget its partial cloves and reply tokens."""
        self._reassembly.discard()
        for token in self._tokens.values():
            del self._replies[token]
        self._tokens.clear()
        self._waiting.clear()
