"""One relay among neighbours who do anything at all, in any order: what it does must always add up.

The model is what a neighbour can see. A circuit id is alive from the BUILD that went over it to the first
DESTROY, either way. The relay may send on living ids only, says DESTROY once, and never holds more than it
shows.
"""

import hashlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from crypto.identity import IdentityKey, NodeId
from crypto.onion import BuildTerms, Hop, PendingCircuit, start_build
from overlay.errors import RemoteProtocolError
from overlay.protocol.effects import DeliverClove, Effect, OpenLink, RefuseAnswer, SendCell
from overlay.protocol.relay import RelayMachine
from overlay.protocol.relay_circuit import RelayState
from overlay.wire.cells import Cell, CircuitId, Command, choose_circuit_id
from overlay.wire.contents import CloveFragment, Dummy, Ping, SendMe, encode_outbound
from overlay.wire.limits import FIRST_FRAGMENT_BYTES, MAX_PARTIAL_BYTES
from tests.support.entropy import fixed_entropy
from tests.support.stapled import EPOCH, MODEL, UNIX_START, onion_key

NAMES = ("ann", "ben", "cid")
NODES = {name: IdentityKey.from_seed(hashlib.sha256(name.encode()).digest()).node_id for name in NAMES}
RELAY_ID = IdentityKey.from_seed(hashlib.sha256(b"relay").digest()).node_id

names = st.sampled_from(NAMES)
picks = st.integers(0, 10_000)
Side = tuple[NodeId, CircuitId]


class RelayAmongNeighbours(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed):
        self.now = 100.0
        self.entropy = fixed_entropy(f"states {seed}")
        self.relay = RelayMachine(
            RELAY_ID,
            entropy=self.entropy,
            may_extend_to=lambda node_id: node_id in NODES.values(),
            may_deliver_to=lambda destination: destination == MODEL,
        )
        self.relay.set_keys([(EPOCH, onion_key("relay"))])
        self.hops = {name: Hop(NODES[name], onion_key(name).public, EPOCH) for name in NAMES}
        self.alive: set[Side] = set()
        self.links_wanted: list[NodeId] = []
        self.tokens: list[bytes] = []
        self.layers: dict[Side, object] = {}

    def check(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendCell(peer, cell):
                    self.check_sent((peer, cell.circ_id), cell.command)
                    if cell.command is Command.BUILT and isinstance(
                        pending := self.layers.get((peer, cell.circ_id)), PendingCircuit
                    ):
                        self.layers[peer, cell.circ_id] = pending.finish(cell.body)
                case OpenLink(peer):
                    self.links_wanted.append(peer)
                case DeliverClove(destination, token, _):
                    assert destination == MODEL
                    self.tokens.append(token)
                case RefuseAnswer():
                    pass
                case _:
                    raise AssertionError(effect)

    def check_sent(self, side: Side, command: Command) -> None:
        if command is Command.BUILD:
            assert side not in self.alive
            self.alive.add(side)
        else:
            assert side in self.alive, f"{command.name} on a circuit that is gone"
        if command is Command.DESTROY:
            self.forget(side)

    def forget(self, side: Side) -> None:
        self.alive.discard(side)
        self.layers.pop(side, None)

    def receive(self, peer: NodeId, cell: Cell) -> None:
        side = (peer, cell.circ_id)
        if cell.command is Command.DESTROY:
            self.forget(side)
        self.check(self.relay.receive_cell(peer, cell, self.now, UNIX_START + self.now))

    def any_side(self, pick: int) -> Side | None:
        sides = sorted(self.alive)
        return sides[pick % len(sides)] if sides else None

    @rule(client=names, onward=st.none() | names, good=st.integers(0, 3))
    def build(self, client, onward, good):
        peer = NODES[client]
        hops = [Hop(RELAY_ID, onion_key("relay").public, EPOCH), *([self.hops[onward]] if onward else [])]
        terms = BuildTerms(lifetime_s=600, quota=1, unix_minute=int((UNIX_START + self.now) // 60))
        pending, body = start_build(hops, terms, entropy=self.entropy)
        taken = {circ_id for other, circ_id in self.alive if other == peer}
        circ_id = choose_circuit_id(peer, RELAY_ID, taken=taken.__contains__, entropy=self.entropy)
        self.alive.add((peer, circ_id))
        if onward is None:
            self.layers[peer, circ_id] = pending
        self.receive(peer, Cell(circ_id, Command.BUILD, body if good else bytes(1016)))

    @rule(client=names, onward=names)
    def open_through(self, client, onward):
        """The whole of a build through this relay, as a next hop that plays along answers it."""
        if client == onward:
            return
        self.build(client, onward, 1)
        self.check(self.relay.link_ready(NODES[onward], self.now))
        for circuit in list(self.relay._table):
            if circuit.state is RelayState.AWAITING_BUILT and circuit.next == NODES[onward]:
                self.receive(circuit.next, Cell(circuit.outbound_id, Command.BUILT, bytes(1016)))

    @rule(pick=picks, command=st.sampled_from([Command.BWD, Command.DESTROY]))
    def send_from_the_far_side(self, pick, command):
        far = sorted((each.next, each.outbound_id) for each in self.relay._table if each.outbound_id)
        if far:
            peer, circ_id = far[pick % len(far)]
            self.receive(peer, Cell(circ_id, command, bytes(1016)))

    @rule(client=names, count=st.integers(1, 250))
    def ask_and_answer(self, client, count):
        self.build(client, None, 1)
        self.send_content(-1, CloveFragment(b"question", 0, 1, b"whole", MODEL))
        for _ in range(count):
            self.answer(-1, MODEL)

    @rule(pick=picks)
    def build_twice(self, pick):
        side = self.any_side(pick)
        if side is None:
            return
        try:
            self.relay.receive_cell(side[0], Cell(side[1], Command.BUILD, bytes(1016)), self.now, UNIX_START)
        except RemoteProtocolError:
            return
        raise AssertionError("a BUILD under an id in use went through")

    @rule(pick=picks, command=st.sampled_from([Command.BUILT, Command.FWD, Command.BWD, Command.DESTROY]))
    def send_noise(self, pick, command):
        if (side := self.any_side(pick)) is not None:
            self.receive(side[0], Cell(side[1], command, self.entropy(1016)))

    @rule(client=names, circ_id=st.integers(1, 2**32 - 1), command=st.sampled_from(Command))
    def send_on_unknown_circuit(self, client, circ_id, command):
        if command is not Command.BUILD and (NODES[client], circ_id) not in self.alive:
            self.receive(NODES[client], Cell(CircuitId(circ_id), command, bytes(1016)))

    @rule(
        pick=picks,
        content=st.sampled_from(
            [
                CloveFragment(b"message1", 0, 1, b"whole", MODEL),
                CloveFragment(b"message2", 0, 2, bytes(FIRST_FRAGMENT_BYTES), MODEL),
                CloveFragment(b"message2", 1, 2, b"rest"),
                CloveFragment(b"message3", 0, 1, b"stray", NODES["ann"]),
                Ping(b"pingping"),
                Dummy(),
                SendMe(),
            ]
        ),
    )
    def send_content(self, pick, content):
        sides = sorted(side for side, layers in self.layers.items() if not isinstance(layers, PendingCircuit))
        if sides:
            side = sides[pick % len(sides)]
            body = self.layers[side].wrap(encode_outbound(content))
            self.receive(side[0], Cell(side[1], Command.FWD, body))

    @precondition(lambda self: self.links_wanted)
    @rule(reached=st.booleans())
    def settle_link(self, reached):
        peer = self.links_wanted.pop(0)
        settle = self.relay.link_ready if reached else self.relay.link_failed
        self.check(settle(peer, self.now))

    @rule(client=names)
    def close_link(self, client):
        for side in [side for side in self.alive if side[0] == NODES[client]]:
            self.forget(side)
        self.check(self.relay.link_closed(NODES[client], self.now))

    @rule(pick=picks)
    def overflow(self, pick):
        if (side := self.any_side(pick)) is not None:
            self.check(self.relay.send_failed(*side, self.now))

    @rule(pick=picks, model=st.sampled_from([MODEL, NODES["ben"]]), fails=st.booleans())
    def answer(self, pick, model, fails=False):
        token = self.tokens[pick % len(self.tokens)] if self.tokens else bytes(16)
        if fails:
            self.check(self.relay.delivery_failed(token, self.now))
        else:
            self.check(self.relay.receive_answer(model, token, bytes(984), self.now))

    @rule(seconds=st.sampled_from([0.01, 1.0, 11.0, 31.0, 121.0, 700.0]))
    def wait(self, seconds):
        self.now += seconds
        self.check(self.relay.handle_deadline(self.now))
        deadline = self.relay.next_deadline()
        assert deadline is None or deadline > self.now

    @rule()
    def leave(self):
        self.check(self.relay.close_all(self.now))
        assert self.relay.circuit_count == 0

    @invariant()
    def table_adds_up(self):
        table = self.relay._table
        circuits = list(table)
        assert len(table) == len(circuits) == self.relay.circuit_count
        sides = {(circuit.previous, circuit.inbound_id) for circuit in circuits}
        sides |= {(each.next, each.outbound_id) for each in circuits if each.outbound_id is not None}
        assert sides == self.alive
        assert {(peer, circ_id) for peer, link in table._links.items() for circ_id in link} == sides

    @invariant()
    def every_deadline_is_kept(self):
        deadline = self.relay.next_deadline()
        for circuit in self.relay._table:
            assert deadline is not None
            assert deadline <= circuit.next_deadline()

    @invariant()
    def nothing_outlives_its_circuit(self):
        circuits = set(self.relay._table)
        proxies = {circuit.proxy for circuit in circuits if circuit.proxy is not None}
        assert {reply.proxy for reply in self.relay._replies.values()} <= proxies
        waiting = {each for group in self.relay._awaiting_link.values() for each in group}
        assert waiting == {each for each in circuits if each.state is RelayState.OPENING_LINK}
        held = sum(
            partial.size_bytes for proxy in proxies for partial in proxy._reassembly._partials.values()
        )
        assert self.relay._budget.left_bytes == MAX_PARTIAL_BYTES - held


TestRelayAmongNeighbours = RelayAmongNeighbours.TestCase
TestRelayAmongNeighbours.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
