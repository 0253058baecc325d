"""One answer on its way: the driver between an `AnswerReceiver` and the circuits that carry its cells.

A circuit that ends or misbehaves while the answer runs is replaced by its set; the request then goes on over the
new one, under a new path number, and the model node is told by a sealed update.
"""

from collections import deque
from dataclasses import dataclass
from typing import assert_never

import trio

from crypto.entropy import Entropy
from crypto.identity import NodeId
from overlay.client.circuit_set import CircuitSet
from overlay.client.pooled_circuit import PooledCircuit
from overlay.errors import AnswerError, LocalProtocolError, RemoteProtocolError
from overlay.protocol.circuit import (
    CircuitBuilt,
    CircuitClosed,
    CircuitEvent,
    CloveUndelivered,
    PongReceived,
    ResponseReceived,
)
from overlay.protocol.request import Request
from overlay.protocol.stream import (
    AnswerEnded,
    AnswerMalformed,
    AnswerReceiver,
    AnswerTimedOut,
    BlocksMissing,
    PathFaulty,
    PathLossy,
    PathSilent,
    ReceiverEvent,
)
from overlay.protocol.witness import Witness
from overlay.transport.switch import Switch
from overlay.wire.answer import (
    AnswerAccepted,
    AnswerEvent,
    AnswerFailed,
    AnswerFinished,
    CheckpointIssued,
    ReceiptIssued,
    TokensGenerated,
)
from overlay.wire.descriptor import ModelOffer
from overlay.wire.limits import MESSAGE_BYTES
from overlay.wire.prompt import ReplyPath

_WAITED_FOR = {
    "first": "the model node did not answer at all",
    "idle": "the model node fell silent",
    "progress": "the model node made no progress",
}


def reply_path(circuit: PooledCircuit, message: bytes) -> ReplyPath:
    """Where answers to `message` go when it is sent over this circuit."""
    return ReplyPath(circuit.path.proxy, circuit.opened.machine.reply_token(message))


@dataclass(frozen=True, slots=True)
class _Carrier:
    """A circuit as it is used for one path of one answer."""

    circuit: PooledCircuit
    message: bytes


class Answering:
    """One prompt on its way and its answer coming back. Iterate it once for the events, in order."""

    def __init__(
        self,
        request: Request,
        receiver: AnswerReceiver,
        circuits: CircuitSet,
        opened: list[tuple[PooledCircuit, bytes]],
        offer: ModelOffer,
        witness: Witness,
        entropy: Entropy,
    ) -> None:
        self.request = request
        self.witness = witness
        self.offer = offer
        self.cloves_sent = 0
        self.paths_replaced = 0
        self.culprits: list[NodeId] = []
        self.paths_used = [circuit.path.node_ids for circuit, _ in opened]
        """Relays of every circuit that carried this answer, guard first; replacements are appended."""
        self._receiver = receiver
        self._set = circuits
        self._carriers = {
            number: _Carrier(circuit, message) for number, (circuit, message) in enumerate(opened)
        }
        self._entropy = entropy
        self._undelivered: set[int] = set()
        """Paths whose proxy does not reach the model node, and which have brought nothing since it said so."""
        self._heard = False
        self._complete = False
        self._events: deque[AnswerEvent] = deque()
        self._error: AnswerError | None = None
        self._over = False
        self._changed = trio.Event()
        self._switch: Switch | None = None

    @property
    def error(self) -> AnswerError | None:
        """Why the answer ended early, if it did."""
        return self._error

    async def wait_begun(self) -> None:
        """Wait until something of the answer has come, or it has failed; the receiver's deadlines bound the wait."""
        while not (self._events or self._over or self._error is not None):
            await self._changed.wait()

    @property
    def node_id(self) -> NodeId:
        """The model node that answers."""
        return self.request.target.node_id

    # --- start and end ----------------------------------------------------------------------------------

    def start(self, switch: Switch) -> None:
        """Send the cloves, one over each circuit."""
        self._switch = switch
        switch.deadlines.add(self._receiver, self._wake)
        self._set.watchers.add(self._adopt)
        for number, carrier in list(self._carriers.items()):
            self._subscribe(number, carrier)
            self._send(carrier, self.request.clove(number))
            self.cloves_sent += 1

    def end(self) -> None:
        """Stop listening; if the answer is not over, tell the model node that nobody does."""
        if not self._over:
            self._send_update(cancel=True)
        self._over = True
        self._set.watchers.discard(self._adopt)
        self._set.last_used = trio.current_time()
        for carrier in self._carriers.values():
            carrier.circuit.subscribers.pop(carrier.message, None)
        if self._switch is not None:
            self._switch.deadlines.remove(self._receiver)

    # --- events out -------------------------------------------------------------------------------------

    def __aiter__(self) -> "Answering":
        """Events in order."""
        return self

    async def __anext__(self) -> AnswerEvent:
        """The next event. Raises AnswerError where the answer ends early."""
        while not self._events:
            if self._error is not None:
                raise self._error
            if self._over:
                raise StopAsyncIteration
            await self._changed.wait()
        return self._events.popleft()

    def _signal(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _fail(self, code: str, message: str, retry_after_s: float | None = None) -> None:
        if self._error is None and not self._over:
            self._error = AnswerError(code, message, retry_after_s)
            self._send_update(cancel=True)
            self._over = True
            self._signal()

    # --- what comes in ----------------------------------------------------------------------------------

    def _subscribe(self, number: int, carrier: _Carrier) -> None:
        def receive(event: CircuitEvent) -> None:
            self._circuit_event(number, carrier, event)

        carrier.circuit.subscribers[carrier.message] = receive
        if carrier.circuit.closed.is_set():
            self._receiver.path_lost(number)

    def _circuit_event(self, number: int, carrier: _Carrier, event: CircuitEvent) -> None:
        match event:
            case ResponseReceived(_, data):
                if not self._heard:
                    self._note_heard()
                self._undelivered.discard(number)
                self._take(self._receiver.receive_cell(number, data, trio.current_time()))
            case CircuitClosed(_, blamed):
                carrier.circuit.subscribers.pop(carrier.message, None)
                self.culprits.extend(blamed)
                self._receiver.path_lost(number)
            case CloveUndelivered():
                self._note_undelivered(number)
            case CircuitBuilt() | PongReceived():
                pass
            case _:
                assert_never(event)

    def _note_heard(self) -> None:
        self._heard = True
        if self.paths_replaced:
            # An update that overtook the prompt was dropped; now there is an answer that it can be about.
            self._send_update()

    def _note_undelivered(self, number: int) -> None:
        self._undelivered.add(number)
        terms = self.request.terms
        failed = self._undelivered & self._carriers.keys()
        if len(failed) <= terms.n - terms.k:
            return
        if self._heard:
            self._fail("model_node_lost", "the model node is gone", 1.0)
        else:
            self._fail("model_node_unreachable", "the model node can't be reached from its proxies", 1.0)

    def _wake(self, now: float) -> None:
        self._take(self._receiver.handle_deadline(now))

    def _take(self, events: list[ReceiverEvent]) -> None:
        for event in events:
            match event:
                case PathFaulty(number) | PathSilent(number) | PathLossy(number):
                    self._retire(number)
                case BlocksMissing():
                    self._send_update(stalled=True)
                case AnswerEnded():
                    self._end_stream()
                case AnswerTimedOut(waited_for):
                    self._fail("model_node_silent", f"{_WAITED_FOR[waited_for]}; ask again", 1.0)
                case AnswerMalformed(reason):
                    self._fail("answer_malformed", f"the model node's answer makes no sense: {reason}")
                case AnswerFailed(code, message, retry_after_s):
                    self._error = AnswerError(code, message, retry_after_s)
                case (
                    AnswerAccepted()
                    | TokensGenerated()
                    | CheckpointIssued()
                    | AnswerFinished()
                    | ReceiptIssued()
                ):
                    self._take_event(event)
                case _:
                    assert_never(event)
        if self._switch is not None:
            self._switch.deadlines.touched(self._receiver)
        if events:
            self._signal()

    def _take_event(self, event: AnswerEvent) -> None:
        if self._over:
            return  # given up: the tokens that came until then are what the next attempt goes on from
        try:
            self.witness.receive(event)
        except RemoteProtocolError as error:
            self._fail("answer_malformed", f"the model node signs what it did not send: {error}")
            return
        self._complete = self._complete or isinstance(event, AnswerFinished)
        self._events.append(event)

    def _end_stream(self) -> None:
        if not self._complete and self._error is None:
            self._error = AnswerError("answer_cut_short", "the model node ended the answer early", 1.0)
        self._over = True

    # --- paths ------------------------------------------------------------------------------------------

    def _retire(self, number: int) -> None:
        carrier = self._carriers.get(number)
        if carrier is not None:
            self.culprits.extend(carrier.circuit.path.node_ids)
            self._set.retire(carrier.circuit)

    def _adopt(self, slot: int, circuit: PooledCircuit) -> None:
        """The set has a new circuit in this slot: go on over it."""
        old = self.request.path_numbers[slot]
        if (
            self._over or self._carriers[old].circuit is circuit
        ):  # begun between its opening and this word of it
            return
        stale = self._carriers.pop(old)
        stale.circuit.subscribers.pop(stale.message, None)
        carrier = _Carrier(circuit, self._entropy(MESSAGE_BYTES))
        try:
            number = self.request.replace_path(old, reply_path(circuit, carrier.message))
        except LocalProtocolError as error:
            self._fail("paths_exhausted", str(error))
            return
        self._carriers[number] = carrier
        self._receiver.add_path(number, trio.current_time())
        self._subscribe(number, carrier)
        self.paths_replaced += 1
        self.paths_used.append(circuit.path.node_ids)
        if not self._heard:
            self._send(carrier, self.request.clove(slot))
        # Over the new circuit for sure: its proxy passes answers only for a message that it delivered.
        (envelope,) = self.request.update(self._receiver.have, copies=1)
        self._send(carrier, envelope)

    def _send_update(self, *, stalled: bool = False, cancel: bool = False) -> None:
        """Over every path: some may be dead already, and a cancel must follow the last clove, wherever that went."""
        alive = [carrier for carrier in self._carriers.values() if carrier.circuit.is_open]
        envelopes = self.request.update(
            self._receiver.have, stalled=stalled, cancel=cancel, copies=len(alive)
        )
        for carrier, envelope in zip(alive, envelopes, strict=True):
            self._send(carrier, envelope)

    def _send(self, carrier: _Carrier, envelope: bytes) -> None:
        if carrier.circuit.is_open:
            try:
                carrier.circuit.opened.send_clove(self.node_id, carrier.message, envelope)
            except LocalProtocolError:
                # Too much waits on this circuit: it does not drain. The others carry what matters.
                self._set.retire(carrier.circuit)
