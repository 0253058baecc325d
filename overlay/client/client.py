"""Asking a model node anonymously: a prompt out over n circuits, its answer back over the same.

`Client.complete` chooses a model node, takes n open circuits to it, seals and splits the prompt, and reads the answer
through an `AnswerReceiver`. A circuit that ends or misbehaves while the answer runs is replaced by its set; the
request then goes on over the new one, under a new path number, and the model node is told by a sealed update.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import assert_never

import trio

from crypto.entropy import Entropy
from crypto.identity import NodeId
from crypto.sealed import SealingPublicKey
from overlay.client.circuits import CircuitPool, CircuitSet, PooledCircuit
from overlay.errors import AnswerError, LocalProtocolError
from overlay.protocol.circuit import (
    CircuitBuilt,
    CircuitClosed,
    CircuitEvent,
    CloveUndelivered,
    PongReceived,
    ResponseReceived,
)
from overlay.protocol.envelope import SealingTarget
from overlay.protocol.request import Request, RequestTerms, open_request
from overlay.protocol.stream import (
    AnswerEnded,
    AnswerMalformed,
    AnswerReceiver,
    AnswerTimedOut,
    AnswerTiming,
    BlocksMissing,
    PathFaulty,
    PathLossy,
    PathSilent,
    ReceiverEvent,
)
from overlay.routing.draw import draw_below
from overlay.transport.switch import Switch
from overlay.wire.answer import (
    AnswerAccepted,
    AnswerEvent,
    AnswerFailed,
    AnswerFinished,
    ReceiptIssued,
    TokensGenerated,
)
from overlay.wire.descriptor import Descriptor, ModelOffer
from overlay.wire.limits import MESSAGE_BYTES
from overlay.wire.prompt import Prompt, ReplyPath

CIRCUITS_TIMEOUT_S = 20.0
MAX_ATTEMPTS = 3
"""Model nodes that are tried for one prompt, as long as none has begun to answer it."""
SHUNNED_S = 60.0
"""A model node that could not be reached or fell silent is asked again only after this, unless it is the only one."""
_ELSEWHERE = frozenset(
    {
        "model_node_unreachable",
        "model_node_silent",
        "answer_malformed",
        "answer_cut_short",
        "draining",
        "engine_down",
        "busy",
    }
)
"""Failures of a node rather than of the prompt: another one may do better."""
_WAITED_FOR = {
    "first": "the model node did not answer at all",
    "idle": "the model node fell silent",
    "progress": "the model node made no progress",
}


@dataclass(frozen=True, slots=True)
class ClientTerms:
    """What holds for every prompt of this client. network is part of what a prompt is sealed to."""

    network: bytes
    request: RequestTerms
    timing: AnswerTiming


class Client:
    """Sends prompts of this node to model nodes of the directory."""

    def __init__(
        self,
        switch: Switch,
        pool: CircuitPool,
        terms: ClientTerms,
        *,
        entropy: Entropy,
        unix_time: Callable[[], float],
    ) -> None:
        self.pool = pool
        self._switch = switch
        self._terms = terms
        self._entropy = entropy
        self._unix_time = unix_time
        self._shunned: dict[NodeId, float] = {}  # until when, by model node

    def warm(self, model: str | None = None) -> None:
        """Begin to build circuits to some model node, so that the first prompt finds them open."""
        nodes = self._switch.directory.serving(model) if model else self._switch.directory.model_nodes()
        others = [node for node in nodes if node.node_id != self._switch.node_id]
        if others and not self.pool.sets:
            self.pool.to(others[draw_below(len(others), self._entropy)].node_id)

    @asynccontextmanager
    async def complete(self, prompt: Prompt) -> AsyncIterator["Answering"]:
        """Send a prompt and give its answer; leaving the context ends the answer, at the model node too.

        Entering waits until a model node has begun to answer. One that can't be reached, is busy or says nothing
        gives way to another; what its successors see is a prompt with secrets of its own.

        Raises:
            AnswerError: no node serves the model, the prompt can't be sent, or no node would answer.
            NoRouteError: the circuits can't be had.
        """
        answering = await self._begin(prompt)
        try:
            yield answering
        finally:
            self._note_end(answering)
            answering.end()

    async def _begin(self, prompt: Prompt) -> "Answering":
        tried: list[NodeId] = []
        while True:
            node = self._choose_node(prompt.model, tried)
            tried.append(node.node_id)
            answering = await self._attempt(prompt, node)
            error = answering.error
            if error is None:
                return answering
            self._note_end(answering)
            if (
                error.code not in _ELSEWHERE
                or len(tried) == MAX_ATTEMPTS
                or not self._has_other(prompt, tried)
            ):
                raise error

    async def _attempt(self, prompt: Prompt, node: Descriptor) -> "Answering":
        """Ask one node, up to the first sign of an answer or of a failure."""
        circuits = self.pool.to(node.node_id)
        opened = await circuits.wait_open(CIRCUITS_TIMEOUT_S)
        answering = self._open(prompt, node, circuits, opened)
        try:
            answering.start(self._switch)
            await answering.wait_begun()
        except BaseException:
            answering.end()
            raise
        if answering.error is not None:
            answering.end()
        return answering

    def _note_end(self, answering: "Answering") -> None:
        """Remember a node that failed, so that the next prompt goes elsewhere."""
        if answering.error is not None and answering.error.code in _ELSEWHERE:
            self._shunned[answering.node_id] = trio.current_time() + SHUNNED_S

    def _has_other(self, prompt: Prompt, tried: list[NodeId]) -> bool:
        ends = {*tried, self._switch.node_id}
        return any(node.node_id not in ends for node in self._switch.directory.serving(prompt.model))

    def _choose_node(self, model: str, tried: Collection[NodeId] = ()) -> Descriptor:
        """A node that serves the model; not one that has just failed, and rather one with open circuits."""
        serving = self._switch.directory.serving(model)
        nodes = [node for node in serving if node.node_id not in (self._switch.node_id, *tried)]
        if not nodes:
            raise AnswerError("model_not_found", self._explain_missing(model))
        now = trio.current_time()
        self._shunned = {node_id: until for node_id, until in self._shunned.items() if until > now}
        sound = [node for node in nodes if node.node_id not in self._shunned] or nodes
        choices = [node for node in sound if self.pool.is_warm(node.node_id)] or sound
        return choices[draw_below(len(choices), self._entropy)]

    def explain_unready(self) -> list[str]:
        """What keeps a prompt from being sent now, in sentences; empty when nothing does."""
        directory, policy = self._switch.directory, self.pool.policy
        own = self._switch.node_id
        reasons = []
        if not any(node.node_id != own for node in directory.model_nodes()):
            reasons.append("no model node is known")
        relays = sum(relay.node_id != own for relay in directory.relays())
        if relays < policy.relays_needed:
            shape = f"{policy.n} paths of {policy.hops}"
            reasons.append(f"{shape} need {policy.relays_needed} relays, {relays} are known")
        elif not reasons and not any(self.pool.is_warm(kept.destination) for kept in self.pool.sets):
            reasons.append("circuits are being built")
        return reasons

    def _explain_missing(self, model: str) -> str:
        nodes = self._switch.directory.model_nodes()
        served = sorted({offer.alias for node in nodes for offer in node.models})
        known = ", ".join(served) if served else "none at all"
        return f"no node serves {model!r}; models served now: {known}"

    def _open(
        self, prompt: Prompt, node: Descriptor, circuits: CircuitSet, opened: list[PooledCircuit]
    ) -> "Answering":
        key = node.sealing_keys[-1]
        target = SealingTarget(self._terms.network, node.node_id, key.epoch, SealingPublicKey(key.public))
        messages = [self._entropy(MESSAGE_BYTES) for _ in opened]
        replies = [_reply_path(circuit, message) for circuit, message in zip(opened, messages, strict=True)]
        try:
            request = open_request(
                prompt,
                replies,
                target,
                self._terms.request,
                unix_time=self._unix_time(),
                entropy=self._entropy,
            )
        except LocalProtocolError as error:
            raise AnswerError("prompt_not_sendable", str(error)) from None
        receiver = AnswerReceiver(request.terms, trio.current_time(), self._terms.timing)
        carried = list(zip(opened, messages, strict=True))
        return Answering(request, receiver, circuits, carried, _offer_of(node, prompt.model), self._entropy)


def _offer_of(node: Descriptor, model: str) -> ModelOffer:
    offer = node.offer_of(model)
    if offer is None:
        raise AnswerError("model_not_found", f"the node chosen does not serve {model!r} any more")
    return offer


def _reply_path(circuit: PooledCircuit, message: bytes) -> ReplyPath:
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
        entropy: Entropy,
    ) -> None:
        self.request = request
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
        if not self._heard and len(failed) > terms.n - terms.k:
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
                case AnswerAccepted() | TokensGenerated() | AnswerFinished() | ReceiptIssued():
                    self._complete = self._complete or isinstance(event, AnswerFinished)
                    self._events.append(event)
                case _:
                    assert_never(event)
        if self._switch is not None:
            self._switch.deadlines.touched(self._receiver)
        if events:
            self._signal()

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
        if self._over:
            return
        old = self.request.path_numbers[slot]
        stale = self._carriers.pop(old)
        stale.circuit.subscribers.pop(stale.message, None)
        carrier = _Carrier(circuit, self._entropy(MESSAGE_BYTES))
        try:
            number = self.request.replace_path(old, _reply_path(circuit, carrier.message))
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
