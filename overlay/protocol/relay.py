"""The relay: every circuit that leads through this node, or ends at it.

Theory of operation. A circuit has a side towards its client (`previous`, inbound) and, unless it ends here, a
side away from it (`next`, outbound), each with a link-local id. Its states:

    BUILD accepted, not last --> OPENING_LINK --link_ready--> AWAITING_BUILT --BUILT--> OPEN
    BUILD accepted, last     ---------------------------------------------------------> OPEN, with a Proxy

and from any state it is destroyed: forgotten here, and DESTROY, without a reason, sent to each side that does
not know yet.

Invariants: a circuit is in the table under both sides or under none; ids towards `next` are drawn from our
half of the space; reply tokens and partial cloves die with their circuit.

What a peer may do wrong. A BUILD under an id of ours or under one in use can only be the neighbour's own
doing: RemoteProtocolError, and the driver closes the link. All else may be the work of somebody behind the
neighbour and costs one circuit: a cell that fails to authenticate, a command from the wrong side or in the
wrong state, a bad content, a breach of a bound. A cell of an unknown circuit is counted and dropped, since
DESTROYs cross on the way.
"""

from collections.abc import Callable, Sequence
from typing import assert_never

from crypto.entropy import Entropy
from crypto.errors import CryptoError
from crypto.identity import NodeId
from crypto.onion import AcceptedBuild, OnionKey
from overlay.errors import RemoteProtocolError
from overlay.protocol.admission import Admission
from overlay.protocol.deadlines import Deadlines
from overlay.protocol.effects import DeliverClove, Effect, OpenLink, RefuseAnswer, SendCell
from overlay.protocol.proxy import Proxy, Reply
from overlay.protocol.reassembly import ByteBudget
from overlay.protocol.relay_circuit import CircuitTable, RelayCircuit, RelayState
from overlay.protocol.relay_counters import RelayCounters
from overlay.protocol.violation import CircuitViolationError
from overlay.wire.cells import Cell, CircuitId, Command, choose_circuit_id, destroy_cell, is_allocated_by
from overlay.wire.contents import CloseReason
from overlay.wire.limits import (
    ANSWER_CELL_BYTES,
    LIFETIME_GRACE_S,
    MAX_CIRCUITS,
    MAX_CIRCUITS_PER_NEIGHBOUR,
    MAX_PARTIAL_BYTES,
    RELAY_BUILD_TIMEOUT_S,
)

ANSWERING_S = 5.0
"""An answer whose last cell is older has ended, and nobody waits for more of it."""


class RelayMachine:
    """All circuits through one node. Pure: every input returns what the driver must do, in order.

    may_extend_to, may_deliver_to: whether a node is a relay, or a model node, of our directory. is_reserved:
    whether an id on a link is in use by this node's own client circuits.
    """

    def __init__(
        self,
        node_id: NodeId,
        *,
        entropy: Entropy,
        may_extend_to: Callable[[NodeId], bool],
        may_deliver_to: Callable[[NodeId], bool],
        is_reserved: Callable[[NodeId, CircuitId], bool] = lambda _peer, _circ_id: False,
        max_circuits: int = MAX_CIRCUITS,
        max_circuits_per_neighbour: int = MAX_CIRCUITS_PER_NEIGHBOUR,
    ) -> None:
        self.node_id = node_id
        self.counters = RelayCounters()
        self._entropy = entropy
        self._may_deliver_to = may_deliver_to
        self._is_reserved = is_reserved
        self._max_circuits = max_circuits
        self._max_circuits_per_neighbour = max_circuits_per_neighbour
        self._table = CircuitTable()
        self._awaiting_link: dict[NodeId, dict[RelayCircuit, None]] = {}
        self._deadlines: Deadlines[RelayCircuit] = Deadlines()
        self._admission = Admission(
            node_id, entropy=entropy, may_extend_to=may_extend_to, counters=self.counters
        )
        self._replies: dict[bytes, Reply] = {}
        self._budget = ByteBudget(MAX_PARTIAL_BYTES)

    # --- what the driver may ask and set ---------------------------------------------------------------

    @property
    def circuit_count(self) -> int:
        """How many circuits lead through this node now."""
        return len(self._table)

    @property
    def load(self) -> float:
        """Circuits as a share of the most there may be."""
        return len(self._table) / self._max_circuits

    def knows(self, peer: NodeId, circ_id: CircuitId) -> bool:
        """Say whether `circ_id` on the link to `peer` is a circuit of this machine."""
        return self._table.find(peer, circ_id) is not None

    def set_keys(self, keys: Sequence[tuple[int, OnionKey]]) -> None:
        """Accept builds for these (epoch, key) pairs from now on: the current and the previous one."""
        self._admission.keys = tuple(keys)

    def set_difficulty(self, bits: int) -> None:
        """Ask for a puzzle of so many bits in every build from now on."""
        self._admission.difficulty = bits

    # --- cells ------------------------------------------------------------------------------------------

    def receive_cell(self, peer: NodeId, cell: Cell, now: float, unix_time: float) -> list[Effect]:
        """Take a cell in. RemoteProtocolError: close the link to `peer`, then call `link_closed`."""
        self.counters.cells_received += 1
        if cell.command is Command.PAD:
            self.counters.pads_received += 1
            return []
        circuit = self._table.find(peer, cell.circ_id)
        if cell.command is Command.BUILD:
            if circuit is not None or not is_allocated_by(peer, self.node_id, cell.circ_id):
                raise RemoteProtocolError("BUILD under a circuit id that was not free for it")
            return self._receive_build(peer, cell, now, unix_time)
        if circuit is None:
            self.counters.cells_unknown_circuit += 1
            return []
        try:
            return self._receive_on_circuit(circuit, peer, cell, now)
        except (CryptoError, CircuitViolationError):
            self.counters.circuits_violated += 1
            return self._destroy(circuit)

    def _receive_on_circuit(
        self, circuit: RelayCircuit, peer: NodeId, cell: Cell, now: float
    ) -> list[Effect]:
        match cell.command:
            case Command.FWD:
                effects = self._receive_outbound(circuit, peer, cell.body, now)
            case Command.BWD:
                effects = self._receive_inbound(circuit, peer, cell.body)
            case Command.BUILT:
                effects = self._receive_built(circuit, peer, cell.body)
            case Command.DESTROY:
                return self._destroy(circuit, told_by=peer)
            case Command.PAD | Command.BUILD:
                raise CircuitViolationError("not a command for a circuit that exists")
            case _:
                assert_never(cell.command)
        circuit.touched_at = now
        return effects

    def _receive_outbound(self, circuit: RelayCircuit, peer: NodeId, body: bytes, now: float) -> list[Effect]:
        if circuit.state is not RelayState.OPEN or peer != circuit.previous:
            raise CircuitViolationError("FWD in the wrong state or from the wrong side")
        peeled = circuit.layer.peel(body)
        if circuit.proxy is not None:
            effects = circuit.proxy.receive_content(peeled, now)
            self._deadlines.schedule(circuit, circuit.next_deadline())
            self._count_deliveries(effects)
            return effects
        self.counters.cells_forwarded_outbound += 1
        return [_send_next(circuit, Command.FWD, peeled)]

    def _count_deliveries(self, effects: Sequence[Effect]) -> None:
        self.counters.cloves_delivered += sum(isinstance(effect, DeliverClove) for effect in effects)

    def _receive_inbound(self, circuit: RelayCircuit, peer: NodeId, body: bytes) -> list[Effect]:
        if circuit.state is not RelayState.OPEN or peer != circuit.next:
            raise CircuitViolationError("BWD in the wrong state or from the wrong side")
        self.counters.cells_forwarded_inbound += 1
        return [_send_previous(circuit, Command.BWD, circuit.layer.wrap(body))]

    def _receive_built(self, circuit: RelayCircuit, peer: NodeId, body: bytes) -> list[Effect]:
        if circuit.state is not RelayState.AWAITING_BUILT or peer != circuit.next:
            raise CircuitViolationError("BUILT in the wrong state or from the wrong side")
        circuit.state = RelayState.OPEN
        self.counters.circuits_opened += 1
        return [_send_previous(circuit, Command.BUILT, circuit.layer.wrap_built(body))]

    # --- building ---------------------------------------------------------------------------------------

    def _receive_build(self, peer: NodeId, cell: Cell, now: float, unix_time: float) -> list[Effect]:
        is_full = (
            len(self._table) >= self._max_circuits
            or self._table.count_from(peer) >= self._max_circuits_per_neighbour
        )
        build = self._admission.admit(peer, cell.body, is_full=is_full, now=now, unix_time=unix_time)
        if build is None:
            return [SendCell(peer, destroy_cell(cell.circ_id, self._entropy))]
        return self._add_circuit(peer, cell.circ_id, build, now)

    def _add_circuit(
        self, peer: NodeId, circ_id: CircuitId, build: AcceptedBuild, now: float
    ) -> list[Effect]:
        is_last = build.next_id is None
        circuit = RelayCircuit(
            previous=peer,
            inbound_id=circ_id,
            layer=build.layer,
            state=RelayState.OPEN if is_last else RelayState.OPENING_LINK,
            touched_at=now,
            build_deadline=now + RELAY_BUILD_TIMEOUT_S,
            expires_at=now + build.lifetime_s + LIFETIME_GRACE_S,
        )
        self._table.add(circuit)
        effect: Effect
        if build.next_id is None:
            circuit.proxy = self._make_proxy(circuit)
            self.counters.circuits_opened += 1
            effect = _send_previous(circuit, Command.BUILT, build.body)
        else:
            circuit.next, circuit.build_body = build.next_id, build.body
            self._awaiting_link.setdefault(build.next_id, {})[circuit] = None
            effect = OpenLink(build.next_id)
        self._deadlines.schedule(circuit, circuit.next_deadline())
        return [effect]

    def _make_proxy(self, circuit: RelayCircuit) -> Proxy:
        return Proxy(
            circuit.previous,
            circuit.inbound_id,
            circuit.layer,
            replies=self._replies,
            budget=self._budget,
            may_deliver_to=self._may_deliver_to,
        )

    # --- links ------------------------------------------------------------------------------------------

    def link_ready(self, peer: NodeId, now: float) -> list[Effect]:
        """There is a link to `peer`: send on the builds that waited for it."""
        effects: list[Effect] = []
        for circuit in self._awaiting_link.pop(peer, {}):
            body = circuit.build_body
            if body is None:
                continue
            circ_id = choose_circuit_id(self.node_id, peer, taken=self._taken_on(peer), entropy=self._entropy)
            self._table.extend(circuit, circ_id)
            circuit.state, circuit.build_body, circuit.touched_at = RelayState.AWAITING_BUILT, None, now
            effects.append(_send_next(circuit, Command.BUILD, body))
        return effects

    def _taken_on(self, peer: NodeId) -> Callable[[CircuitId], bool]:
        return lambda circ_id: self.knows(peer, circ_id) or self._is_reserved(peer, circ_id)

    def link_failed(self, peer: NodeId, now: float) -> list[Effect]:
        """No link to `peer` can be had: the builds that waited for it fail."""
        waiting = list(self._awaiting_link.get(peer, {}))
        self.counters.builds_failed_link += len(waiting)
        return [effect for circuit in waiting for effect in self._destroy(circuit)]

    def link_closed(self, peer: NodeId, now: float) -> list[Effect]:
        """The link to `peer` is gone, and every circuit on it.

        Who is getting an answer from there hears of it at once, and need not wait for a silence to be long enough.
        """
        lost = [
            reply
            for reply in self._replies.values()
            if reply.answered_at > now - ANSWERING_S and peer in reply.destinations
        ]
        effects = [effect for reply in lost for effect in reply.proxy.report_undelivered(reply.message)]
        for circuit in self._table.on_link(peer):
            effects += self._destroy(circuit, told_by=peer)
        return effects

    def send_failed(self, peer: NodeId, circ_id: CircuitId, now: float) -> list[Effect]:
        """A circuit's queue to `peer` is full. A dropped cell would break the layers, so destroy it."""
        circuit = self._table.find(peer, circ_id)
        if circuit is None:
            return []
        self.counters.circuits_overflowed += 1
        return self._destroy(circuit)

    # --- answers ----------------------------------------------------------------------------------------

    def receive_answer(self, peer: NodeId, reply_token: bytes, data: bytes, now: float) -> list[Effect]:
        """Pass an answer cell of a model node to the client; RemoteProtocolError if it has the wrong size."""
        if len(data) != ANSWER_CELL_BYTES:
            raise RemoteProtocolError(f"an answer cell has {ANSWER_CELL_BYTES} bytes, not {len(data)}")
        reply = self._replies.get(reply_token)
        circuit = None if reply is None else self._table.find(reply.proxy.peer, reply.proxy.circ_id)
        if reply is None or circuit is None or peer not in reply.destinations:
            self.counters.answers_refused += 1
            return [RefuseAnswer(peer, reply_token)]
        try:
            effects = reply.proxy.send_answer(reply.message, data)
        except CircuitViolationError:
            self.counters.circuits_overflowed += 1
            return [*self._destroy(circuit), RefuseAnswer(peer, reply_token)]
        reply.answered_at = now
        self.counters.answers_passed += 1
        circuit.touched_at = now
        return effects

    def delivery_failed(self, reply_token: bytes, now: float) -> list[Effect]:
        """The driver could not carry out a DeliverClove: tell the client."""
        reply = self._replies.get(reply_token)
        if reply is None:
            return []
        self.counters.cloves_undelivered += 1
        return reply.proxy.report_undelivered(reply.message)

    def clove_refused(self, peer: NodeId, reply_token: bytes, now: float) -> list[Effect]:
        """A node that we delivered to takes no cloves: tell the client. From any other node it means nothing."""
        reply = self._replies.get(reply_token)
        if reply is None or peer not in reply.destinations:
            return []
        return self.delivery_failed(reply_token, now)

    # --- time and the end -------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Return when `handle_deadline` wants to be called next."""
        return self._deadlines.next_deadline()

    def handle_deadline(self, now: float) -> list[Effect]:
        """End what is idle, overdue or over its lifetime."""
        effects: list[Effect] = []
        for circuit in self._deadlines.pop_due(now):
            if circuit.close_deadline() <= now:
                self.counters.circuits_expired += 1
                effects += self._retire(circuit, CloseReason.FINISHED)
                continue
            if circuit.proxy is not None:
                effects += circuit.proxy.handle_deadline(now)
            self._deadlines.schedule(circuit, circuit.next_deadline())
        return effects

    def close_all(self, now: float) -> list[Effect]:
        """This node is leaving: end every circuit, in good order where it ends here."""
        return [
            effect for circuit in list(self._table) for effect in self._retire(circuit, CloseReason.DRAINING)
        ]

    def _retire(self, circuit: RelayCircuit, reason: CloseReason) -> list[Effect]:
        farewell = circuit.proxy.close(reason) if circuit.proxy is not None else []
        return [*farewell, *self._destroy(circuit)]

    def _destroy(self, circuit: RelayCircuit, *, told_by: NodeId | None = None) -> list[Effect]:
        """Forget a circuit and tell its sides, except the one that told us."""
        self.counters.circuits_closed += 1
        self._table.remove(circuit)
        self._deadlines.cancel(circuit)
        self._stop_awaiting(circuit)
        if circuit.proxy is not None:
            circuit.proxy.discard()
        sides = [(circuit.previous, circuit.inbound_id), (circuit.next, circuit.outbound_id)]
        return [
            SendCell(peer, destroy_cell(circ_id, self._entropy))
            for peer, circ_id in sides
            if peer is not None and circ_id is not None and peer != told_by
        ]

    def _stop_awaiting(self, circuit: RelayCircuit) -> None:
        if circuit.state is not RelayState.OPENING_LINK or circuit.next is None:
            return
        waiting = self._awaiting_link.get(circuit.next, {})
        waiting.pop(circuit, None)
        if not waiting:
            self._awaiting_link.pop(circuit.next, None)


def _send_next(circuit: RelayCircuit, command: Command, body: bytes) -> SendCell:
    if circuit.next is None or circuit.outbound_id is None:
        raise AssertionError("the last hop has no next one")
    return SendCell(circuit.next, Cell(circuit.outbound_id, command, body))


def _send_previous(circuit: RelayCircuit, command: Command, body: bytes) -> SendCell:
    return SendCell(circuit.previous, Cell(circuit.inbound_id, command, body))
