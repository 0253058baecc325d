"""Joins a node's links with its machines: the only place where cells and control messages change hands.

A cell that comes in belongs to a circuit that this node opened as a client (found by link and circuit id) or else
to the relay machine. A control message belongs to the membership machine, to the relay machine (answer cells), to
whoever serves models here (`ModelPort`) or to who keeps the view of its model groups (`GroupPort`). Handlers run to
completion without awaiting, in the order in which a link delivered; what they want sent is queued on links. Only
dialling takes a task of its own.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, assert_never

import trio

from crypto.entropy import Entropy
from crypto.identity import NodeId
from crypto.onion import BuildTerms, Hop
from overlay.errors import LocalProtocolError, RemoteProtocolError, UnreachableError
from overlay.protocol.circuit import (
    CircuitEvent,
    CircuitMachine,
    CircuitOutput,
    CircuitState,
    CircuitTimeouts,
)
from overlay.protocol.effects import CloseLink, DeliverClove, Effect, OpenLink, RefuseAnswer, SendCell
from overlay.protocol.membership import (
    DirectoryChanged,
    MembershipMachine,
    MembershipOutput,
    SendDirectoryMessage,
)
from overlay.protocol.relay import RelayMachine
from overlay.routing.directory import Directory
from overlay.transport.deadlines import Deadlines
from overlay.transport.links import Link, Links
from overlay.wire.cells import CircuitId, Command, choose_circuit_id, decode_cell, encode_cell
from overlay.wire.descriptor import Descriptor
from overlay.wire.group_messages import GroupMessage, GroupNews, GroupVector
from overlay.wire.handover import EventsPart, HandEnded, HandMessage, PromptPart, WaitAsked, WaitTold
from overlay.wire.messages import (
    AnswerCellSent,
    AnswerRefused,
    CloveDelivered,
    ControlMessage,
    DescriptorsGiven,
    DescriptorsWanted,
    DirectoryDigest,
    DirectoryIndex,
    Heartbeat,
    Hello,
    LinkClosing,
)

MAX_WAITING_FOR_LINKS = 256
"""Builds and deliveries that may wait for a dial; over it they fail at once."""


class ModelPort(Protocol):
    """Who serves models on this node. Called from reader tasks; may not await."""

    def clove_delivered(self, proxy: NodeId, reply_token: bytes, sealed: bytes) -> None:
        """A proxy handed over a sealed clove."""

    def answer_refused(self, proxy: NodeId, reply_token: bytes) -> None:
        """No circuit stands behind this token at that proxy."""

    def proxy_lost(self, proxy: NodeId) -> None:
        """The link to this neighbour closed, or none can be had."""


class GroupPort(Protocol):
    """Who keeps this node's view of its model groups. Called from reader tasks; may not await."""

    def group_message(self, peer: NodeId, message: GroupMessage | HandMessage) -> None:
        """A neighbour says what it knows of a group, or something about a prompt that is handed over."""

    def neighbour_lost(self, peer: NodeId) -> None:
        """The link to this neighbour closed."""


class CircuitListener(Protocol):
    """Who opened a circuit."""

    def circuit_event(self, event: CircuitEvent) -> None:
        """Something happened to it. May not await."""


@dataclass(slots=True, eq=False)
class OwnCircuit:
    """A circuit that this node opened as a client, with the means to use it."""

    machine: CircuitMachine
    listener: CircuitListener
    switch: "Switch"
    opened_at: float
    cells_sent: int = 0
    cells_received: int = 0

    def send_clove(self, destination: NodeId, message: bytes, sealed: bytes) -> None:
        """Send a clove. Raises LocalProtocolError if the circuit is not open or too much waits."""
        outputs = self.machine.send_clove(destination, message, sealed, trio.current_time())
        self.switch.perform_own(self, outputs)

    def close(self) -> None:
        """End the circuit; its listener hears of it."""
        self.switch.perform_own(self, self.machine.close(trio.current_time()))


_Waiting = tuple[Callable[[Link], None], Callable[[], None]]
"""What to do with a link, and without one."""


class Switch:
    """A node's traffic. Implements `LinkHandler`.

    relay is None on a node that relays nothing, model is None on one that serves nothing, groups on one that shares
    nothing.
    directory_changed is given each new snapshot.
    """

    def __init__(
        self,
        *,
        node_id: NodeId,
        membership: MembershipMachine,
        relay: RelayMachine | None,
        entropy: Entropy,
        unix_time: Callable[[], float],
        directory_changed: Callable[[Directory], None] = lambda _directory: None,
    ) -> None:
        self.node_id = node_id
        self.counters: Counter[str] = Counter()
        self.deadlines = Deadlines()
        self.model: ModelPort | None = None
        self.groups: GroupPort | None = None
        self._membership = membership
        self._relay = relay
        self._entropy = entropy
        self._unix_time = unix_time
        self._directory_changed = directory_changed
        self._directory = Directory(membership.descriptors)
        self._own: dict[tuple[NodeId, CircuitId], OwnCircuit] = {}
        self._effects: deque[Effect] = deque()
        self._is_performing = False
        self._links: Links | None = None
        self._nursery: trio.Nursery | None = None
        self._waiting: dict[NodeId, list[_Waiting]] = {}

    async def serve(
        self, links: Links, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run links and deadlines until cancelled. `links` was made with this switch as its handler."""
        self._links = links
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(links.serve)
            self.deadlines.add(self._membership, self._wake_membership)
            if self._relay is not None:
                self.deadlines.add(self._relay, self._wake_relay)
            await nursery.start(self.deadlines.serve)
            task_status.started()

    @property
    def directory(self) -> Directory:
        """The descriptors that are valid now."""
        return self._directory

    @property
    def links(self) -> Links:
        """The links of this node."""
        if self._links is None:
            raise LocalProtocolError("the switch is not running")
        return self._links

    @property
    def own_circuits(self) -> tuple[OwnCircuit, ...]:
        """Circuits that this node opened, open or being built."""
        return tuple(self._own.values())

    # --- links ------------------------------------------------------------------------------------------

    async def link_to(self, peer: NodeId, addresses: Sequence[str] = ()) -> Link:
        """The link to `peer`, dialled by what the directory says where there is none.

        Raises:
            UnreachableError: no address is known or none answers.
        """
        link = self.links.get(peer)
        if link is not None:
            return link
        descriptor = self.directory.find(peer)
        known = tuple(addresses) or (descriptor.addresses if descriptor is not None else ())
        if not known:
            raise UnreachableError(f"no address of {peer.hex()[:16]} is known")
        return await self.links.link_to(peer, known)

    def is_reserved(self, peer: NodeId, circ_id: CircuitId) -> bool:
        """Whether an id on a link is in use by a circuit of ours. For the relay machine."""
        return (peer, circ_id) in self._own

    def link_opened(self, link: Link) -> None:
        """`LinkHandler`: greet a new neighbour with what we know."""
        self._perform_membership(self._membership.link_opened(link.peer, trio.current_time()))

    def link_closed(self, peer: NodeId, reason: str) -> None:
        """`LinkHandler`: everything that went over this link is over."""
        del reason
        now = trio.current_time()
        self._membership.link_closed(peer)
        for (guard, _), circuit in list(self._own.items()):
            if guard == peer:
                self.perform_own(circuit, circuit.machine.link_closed(now))
        if self._relay is not None:
            self._perform(self._relay.link_closed(peer, now))
        if self.model is not None:
            self.model.proxy_lost(peer)
        if self.groups is not None:
            self.groups.neighbour_lost(peer)

    # --- cells ------------------------------------------------------------------------------------------

    def cell_received(self, link: Link, cell: bytes) -> None:
        """`LinkHandler`: one cell. A DecodeError or RemoteProtocolError out of here closes the link."""
        decoded = decode_cell(cell)
        now = trio.current_time()
        own = self._own.get((link.peer, decoded.circ_id))
        if own is not None:
            own.cells_received += 1
            self.perform_own(own, own.machine.receive_cell(decoded, now))
        elif self._relay is not None:
            self._perform(self._relay.receive_cell(link.peer, decoded, now, self._unix_time()))
        else:
            self.counters["cells_without_circuit"] += 1

    def _send_cell(self, effect: SendCell) -> bool:
        link = self.links.get(effect.peer)
        if link is None:
            return False
        cell = effect.cell
        return link.send_cell(encode_cell(cell), cell.circ_id, ends=cell.command is Command.DESTROY)

    # --- circuits of ours -------------------------------------------------------------------------------

    def open_circuit(
        self,
        hops: Sequence[Hop],
        terms: BuildTerms,
        listener: CircuitListener,
        *,
        timeouts: CircuitTimeouts | None = None,
    ) -> OwnCircuit:
        """Start a circuit over a link that is open already; `listener` hears of its end, whatever that is.

        Raises:
            LocalProtocolError: there is no link to the first hop.
        """
        guard = hops[0].node_id
        if self.links.get(guard) is None:
            raise LocalProtocolError("a circuit needs an open link to its first hop")
        circ_id = choose_circuit_id(
            self.node_id, guard, taken=lambda drawn: self._is_taken(guard, drawn), entropy=self._entropy
        )
        machine = CircuitMachine(hops, circ_id=circ_id, terms=terms, entropy=self._entropy, timeouts=timeouts)
        circuit = OwnCircuit(machine, listener, self, trio.current_time())
        outputs = machine.start(trio.current_time())
        self._own[guard, circ_id] = circuit
        self.deadlines.add(machine, lambda now: self.perform_own(circuit, machine.handle_deadline(now)))
        self.perform_own(circuit, outputs)
        return circuit

    def _is_taken(self, peer: NodeId, circ_id: CircuitId) -> bool:
        relayed = self._relay is not None and self._relay.knows(peer, circ_id)
        return relayed or self.is_reserved(peer, circ_id)

    def perform_own(self, circuit: OwnCircuit, outputs: Iterable[CircuitOutput]) -> None:
        """Do what a circuit of ours asks for, then tell its listener what happened.

        All cells go before the first event: a listener may send at once, and its cells are wrapped after these.
        """
        machine = circuit.machine
        events: list[CircuitEvent] = []
        waiting = deque(outputs)
        while waiting:
            output = waiting.popleft()
            if not isinstance(output, SendCell):
                events.append(output)
            elif self._send_cell(output):
                circuit.cells_sent += 1
            else:
                # One cell is lost, so those behind it are of no use. Nothing comes of this once it is closed.
                events += [left for left in waiting if not isinstance(left, SendCell)]
                waiting = deque(machine.send_failed(trio.current_time()))
        if machine.state is CircuitState.CLOSED:
            self._own.pop((machine.guard, machine.circ_id), None)
            self.deadlines.remove(machine)
        else:
            self.deadlines.touched(machine)
        for event in events:
            circuit.listener.circuit_event(event)

    def close_circuits(self) -> None:
        """This node leaves: end its own circuits and those through it, in good order."""
        now = trio.current_time()
        for circuit in list(self._own.values()):
            self.perform_own(circuit, circuit.machine.close(now))
        if self._relay is not None:
            self._perform(self._relay.close_all(now))

    # --- relaying ---------------------------------------------------------------------------------------

    def _wake_relay(self, now: float) -> None:
        if self._relay is not None:
            self._perform(self._relay.handle_deadline(now))

    def _perform(self, effects: Iterable[Effect]) -> None:
        """Do what the relay asks for, in the order in which it asked: cells of a circuit must not overtake."""
        self._effects.extend(effects)
        if self._is_performing:
            return
        self._is_performing = True
        try:
            while self._effects:
                self._perform_one(self._effects.popleft())
        finally:
            self._is_performing = False
        if self._relay is not None:
            self.deadlines.touched(self._relay)

    def _perform_one(self, effect: Effect) -> None:
        match effect:
            case SendCell(peer, cell):
                if not self._send_cell(effect) and self._relay is not None:
                    self._perform(self._relay.send_failed(peer, cell.circ_id, trio.current_time()))
            case OpenLink(peer):
                self._when_linked(peer, self._extend, partial(self._link_failed, peer))
            case DeliverClove(destination, reply_token):
                self._deliver(effect, destination, reply_token)
            case RefuseAnswer(peer, reply_token):
                self._send_message(peer, AnswerRefused(reply_token))
            case CloseLink(peer, reason):
                self._close_link(peer, reason)
            case _:
                assert_never(effect)

    def _extend(self, link: Link) -> None:
        if self._relay is not None:
            self._perform(self._relay.link_ready(link.peer, trio.current_time()))

    def _link_failed(self, peer: NodeId) -> None:
        if self._relay is not None:
            self._perform(self._relay.link_failed(peer, trio.current_time()))

    def _deliver(self, effect: DeliverClove, destination: NodeId, reply_token: bytes) -> None:
        def send(link: Link) -> None:
            if not link.send_message(CloveDelivered(reply_token, effect.sealed)):
                fail()

        def fail() -> None:
            if self._relay is not None:
                self._perform(self._relay.delivery_failed(reply_token, trio.current_time()))

        if destination == self.node_id:
            # No honest client has the destination on a path; to serve it would hand us both ends of one.
            fail()
        else:
            self._when_linked(destination, send, fail)

    def _when_linked(self, peer: NodeId, ready: Callable[[Link], None], failed: Callable[[], None]) -> None:
        """Call `ready` with the link to `peer`, at once if there is one, or `failed`.

        In the order of the calls: an update must not overtake the clove that it follows.
        """
        link, waiting = self.links.get(peer), self._waiting.get(peer)
        if waiting is None and link is not None:
            ready(link)
        elif self._nursery is None or sum(map(len, self._waiting.values())) >= MAX_WAITING_FOR_LINKS:
            failed()
        elif waiting is not None:
            waiting.append((ready, failed))
        else:
            self._waiting[peer] = [(ready, failed)]
            self._nursery.start_soon(self._dial, peer)

    async def _dial(self, peer: NodeId) -> None:
        try:
            link = await self.link_to(peer)
        except UnreachableError:
            self.counters["dials_failed"] += 1
            for _, failed in self._waiting.pop(peer):
                failed()
        else:
            for ready, _ in self._waiting.pop(peer):
                ready(link)

    # --- control messages -------------------------------------------------------------------------------

    def message_received(self, link: Link, message: ControlMessage) -> None:
        """`LinkHandler`: one control message. Errors out of here close the link."""
        match message:
            case CloveDelivered(reply_token, sealed):
                if self.model is None:
                    self._send_message(link.peer, AnswerRefused(reply_token))
                else:
                    self.model.clove_delivered(link.peer, reply_token, sealed)
            case AnswerRefused(reply_token):
                self._receive_refusal(link.peer, reply_token)
            case AnswerCellSent(reply_token, data):
                self._receive_answer(link.peer, reply_token, data)
            case DirectoryDigest() | DirectoryIndex() | DescriptorsWanted() | DescriptorsGiven():
                now, unix_time = trio.current_time(), self._unix_time()
                self._perform_membership(self._membership.receive_message(link.peer, message, now, unix_time))
            case GroupVector() | GroupNews():
                self._receive_group_message(link.peer, message)
            case WaitAsked() | WaitTold() | PromptPart() | EventsPart() | HandEnded():
                self._receive_group_message(link.peer, message)
            case Hello() | Heartbeat() | LinkClosing():
                raise RemoteProtocolError("a message of the link itself came through it")
            case _:
                assert_never(message)

    def _receive_refusal(self, peer: NodeId, reply_token: bytes) -> None:
        """As a model node: no circuit is behind the token. As a proxy: the node that we delivered to serves nothing."""
        if self.model is not None:
            self.model.answer_refused(peer, reply_token)
        if self._relay is not None:
            self._perform(self._relay.clove_refused(peer, reply_token, trio.current_time()))

    def _receive_answer(self, peer: NodeId, reply_token: bytes, data: bytes) -> None:
        if self._relay is None:
            self._send_message(peer, AnswerRefused(reply_token))
        else:
            self._perform(self._relay.receive_answer(peer, reply_token, data, trio.current_time()))

    def send_answer_cell(self, proxy: NodeId, reply_token: bytes, data: bytes) -> bool:
        """As a model node: queue an answer cell on the link to a proxy; False if it can't be had now."""
        return self._send_message(proxy, AnswerCellSent(reply_token, data))

    def _receive_group_message(self, peer: NodeId, message: GroupMessage | HandMessage) -> None:
        if self.groups is None:
            self.counters["group_messages_ignored"] += 1
        else:
            self.groups.group_message(peer, message)

    def send_group_message(self, peer: NodeId, message: GroupMessage | HandMessage) -> bool:
        """As a member of a group: queue a message on the link to another; False if it can't be had now."""
        return self._send_message(peer, message)

    def _send_message(self, peer: NodeId, message: ControlMessage) -> bool:
        link = self.links.get(peer)
        sent = link is not None and link.send_message(message)
        if not sent:
            self.counters["messages_dropped"] += 1
        return sent

    # --- membership -------------------------------------------------------------------------------------

    def publish(self, record: bytes) -> None:
        """Take our own new descriptor into the directory; neighbours hear of it at once."""
        now, unix_time = trio.current_time(), self._unix_time()
        self._perform_membership(self._membership.publish(record, now, unix_time))

    def learn(self, records: Iterable[bytes]) -> None:
        """Take descriptors that came by another way (the last run, the DHT); false and old ones are dropped."""
        now, unix_time = trio.current_time(), self._unix_time()
        self._perform_membership(self._membership.add(records, now, unix_time))

    def records(self) -> list[tuple[Descriptor, bytes]]:
        """Every descriptor held, with its signed bytes, to be kept for the next run."""
        held = [(node, self._membership.blob_of(node.node_id)) for node in self._directory]
        return [(node, blob) for node, blob in held if blob is not None]

    def _wake_membership(self, now: float) -> None:
        self._perform_membership(self._membership.handle_deadline(now, self._unix_time()))

    def _perform_membership(self, outputs: Iterable[MembershipOutput]) -> None:
        for output in outputs:
            match output:
                case SendDirectoryMessage(peer, message):
                    self._send_message(peer, message)
                case CloseLink(peer, reason):
                    self._close_link(peer, reason)
                case DirectoryChanged():
                    self._directory = Directory(self._membership.descriptors)
                    self._directory_changed(self._directory)
                case _:
                    assert_never(output)
        self.deadlines.touched(self._membership)

    def _close_link(self, peer: NodeId, reason: str) -> None:
        if (link := self.links.get(peer)) is not None:
            link.close(reason)
