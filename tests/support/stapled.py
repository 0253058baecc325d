"""Nodes stapled together in memory: real machines, real cryptography, no network and no clock.

Cells travel as bytes through one queue, so the order on each link is kept. A test may listen (`tapped`),
interfere (`meddle`), cut links, move time, and look at what came out at either end.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from crypto.identity import IdentityKey, NodeId
from crypto.onion import BuildTerms, Hop, OnionKey
from overlay.protocol.circuit import CircuitMachine, CircuitTimeouts
from overlay.protocol.circuit_events import CircuitBuilt, CircuitClosed, CircuitEvent, CircuitOutput
from overlay.protocol.effects import CloseLink, DeliverClove, Effect, OpenLink, RefuseAnswer, SendCell
from overlay.protocol.relay import RelayMachine
from overlay.wire.cells import Cell, CircuitId, Command, choose_circuit_id, decode_cell, encode_cell
from tests.support.entropy import fixed_entropy

UNIX_START = 1_800_000_000.0
EPOCH = 7
MODEL = NodeId(b"\xaa" * 32)
ALL_HOPS = ("r1", "r2", "r3")
OTHER_MODEL = NodeId(b"\xbb" * 32)

Meddler = Callable[[NodeId, NodeId, bytes], Sequence[bytes]]


def onion_key(name: str) -> OnionKey:
    return OnionKey.generate(fixed_entropy(f"onion {name}"))


@dataclass(eq=False)
class StapledCircuit:
    """A client's circuit and what happened to it."""

    machine: CircuitMachine
    events: list[CircuitEvent] = field(default_factory=list)

    def happened(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]


@dataclass(eq=False)
class Node:
    name: str
    node_id: NodeId
    relay: RelayMachine
    hop: Hop
    circuits: dict[tuple[NodeId, CircuitId], StapledCircuit] = field(default_factory=dict)
    delivered: list[DeliverClove] = field(default_factory=list)
    refused: list[RefuseAnswer] = field(default_factory=list)


class Network:
    """Nodes by name, and the links between them."""

    def __init__(self, *names: str) -> None:
        self.now = 1000.0
        self.nodes: dict[NodeId, Node] = {}
        self.tapped: list[tuple[NodeId, NodeId, bytes]] = []
        self.meddle: Meddler = lambda _source, _target, cell: [cell]
        self.unreachable: set[NodeId] = set()
        self._queue: deque[tuple[NodeId, NodeId, bytes | None]] = deque()
        self._by_name = {name: self._add(name) for name in names}

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    @property
    def unix_time(self) -> float:
        return UNIX_START + self.now

    def _add(self, name: str) -> Node:
        node_id = IdentityKey.from_seed(hashlib.sha256(name.encode()).digest()).node_id
        key = onion_key(name)
        relay = RelayMachine(
            node_id,
            entropy=fixed_entropy(f"relay {name}"),
            may_extend_to=lambda other: other in self.nodes,
            may_deliver_to=lambda destination: destination in (MODEL, OTHER_MODEL),
        )
        relay.set_keys([(EPOCH, key)])
        node = self.nodes[node_id] = Node(name, node_id, relay, Hop(node_id, key.public, EPOCH, 0))
        return node

    def terms(self, lifetime_s: int = 600) -> BuildTerms:
        return BuildTerms(lifetime_s=lifetime_s, quota=100, unix_minute=int(self.unix_time // 60))

    def start_circuit(
        self,
        client: str,
        *relays: str,
        lifetime_s: int = 600,
        timeouts: CircuitTimeouts | None = None,
    ) -> StapledCircuit:
        node = self[client]
        hops = [self[name].hop for name in relays]
        entropy = fixed_entropy(f"circuit {client} {relays} {len(node.circuits)} {self.now}")
        peer = hops[0].node_id
        circ_id = choose_circuit_id(
            node.node_id, peer, taken=lambda drawn: (peer, drawn) in node.circuits, entropy=entropy
        )
        machine = CircuitMachine(
            hops, circ_id=circ_id, terms=self.terms(lifetime_s), entropy=entropy, timeouts=timeouts
        )
        circuit = node.circuits[peer, circ_id] = StapledCircuit(machine)
        self.do(client, circuit, machine.start(self.now))
        return circuit

    def open_circuit(self, client: str, *relays: str, **options) -> StapledCircuit:
        circuit = self.start_circuit(client, *relays, **options)
        self.run()
        return circuit

    def do(self, client: str, circuit: StapledCircuit, outputs: Sequence[CircuitOutput]) -> None:
        """Carry out what a client's circuit asked for."""
        for output in outputs:
            if isinstance(output, SendCell):
                self._send(self[client].node_id, output)
            else:
                circuit.events.append(output)

    def perform(self, node: Node, effects: Sequence[Effect]) -> None:
        """Carry out what a relay asked for."""
        for effect in effects:
            match effect:
                case SendCell():
                    self._send(node.node_id, effect)
                case OpenLink(peer):
                    self._queue.append((node.node_id, peer, None))
                case DeliverClove():
                    node.delivered.append(effect)
                case RefuseAnswer():
                    node.refused.append(effect)
                case CloseLink():
                    raise AssertionError("a relay machine raises instead")

    def _send(self, source: NodeId, effect: SendCell) -> None:
        data = encode_cell(effect.cell)
        for cell in self.meddle(source, effect.peer, data):
            self.tapped.append((source, effect.peer, cell))
            self._queue.append((source, effect.peer, cell))

    def run(self) -> None:
        """Let everything under way arrive."""
        while self._queue:
            self.step()

    @property
    def is_quiet(self) -> bool:
        return not self._queue

    def step(self) -> None:
        source, target, data = self._queue.popleft()
        if data is None:
            relay = self.nodes[source].relay
            reached = target in self.nodes and target not in self.unreachable
            happened = relay.link_ready if reached else relay.link_failed
            self.perform(self.nodes[source], happened(target, self.now))
        else:
            self._arrive(self.nodes[target], source, data)

    def _arrive(self, node: Node, source: NodeId, data: bytes) -> None:
        cell = decode_cell(data)
        circuit = node.circuits.get((source, cell.circ_id))
        if circuit is not None:
            self.do(node.name, circuit, circuit.machine.receive_cell(cell, self.now))
        else:
            self.perform(node, node.relay.receive_cell(source, cell, self.now, self.unix_time))

    def cut(self, left: str, right: str) -> None:
        """Close the link between two nodes; what was under way on it is lost."""
        ends = (self[left], self[right])
        pair = {end.node_id for end in ends}
        self._queue = deque(entry for entry in self._queue if {entry[0], entry[1]} != pair)
        for node, other in (ends, ends[::-1]):
            for (peer, _), circuit in node.circuits.items():
                if peer == other.node_id:
                    self.do(node.name, circuit, circuit.machine.link_closed(self.now))
            self.perform(node, node.relay.link_closed(other.node_id, self.now))

    def advance(self, seconds: float) -> None:
        """Let time pass, acting on each deadline when it is due."""
        end = self.now + seconds
        while (due := self._next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            for node in self.nodes.values():
                self.perform(node, node.relay.handle_deadline(self.now))
                for circuit in node.circuits.values():
                    self.do(node.name, circuit, circuit.machine.handle_deadline(self.now))
            self.run()
        self.now = end

    def _next_deadline(self) -> float | None:
        deadlines = [node.relay.next_deadline() for node in self.nodes.values()]
        deadlines += [
            circuit.machine.next_deadline()
            for node in self.nodes.values()
            for circuit in node.circuits.values()
        ]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def send_clove(self, client: str, circuit: StapledCircuit, sealed: bytes, **options) -> bytes:
        """Send a clove; returns its message id."""
        message = (
            options.get("message") or hashlib.sha256(sealed[:64] + bytes([len(sealed) % 251])).digest()[:8]
        )
        destination = options.get("destination", MODEL)
        self.do(client, circuit, circuit.machine.send_clove(destination, message, sealed, self.now))
        return message

    def answer(self, proxy: str, token: bytes, data: bytes, *, model: NodeId = MODEL) -> None:
        """Let a model node send an answer cell to a proxy."""
        node = self[proxy]
        self.perform(node, node.relay.receive_answer(model, token, data, self.now))

    def circuit_count(self) -> int:
        return sum(node.relay.circuit_count for node in self.nodes.values())


def is_open(circuit):
    return bool(circuit.happened(CircuitBuilt)) and not circuit.happened(CircuitClosed)


def closed_for(circuit):
    return [event.cause for event in circuit.happened(CircuitClosed)]


def inject(network, client, circuit, content):
    """Send any content whatever through a client's layers."""
    body = circuit.machine._layers.wrap(content)
    network.do(
        client, circuit, [SendCell(circuit.machine.guard, Cell(circuit.machine.circ_id, Command.FWD, body))]
    )
    network.run()
