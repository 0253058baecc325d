"""Client circuits over three real relays, while cells are lost and changed, links cut and time passes.

Whatever happens: what a proxy delivers and what the client receives are prefixes of what was sent, in order;
a circuit closes once, with blame on its own relays only, and is silent afterwards; nobody holds it for ever.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from overlay.protocol.circuit import CircuitBuilt, CircuitClosed, CircuitState, CloseCause, ResponseReceived
from overlay.wire.cells import Command, decode_cell
from tests.support.stapled import ALL_HOPS, MODEL, Network, StapledCircuit

picks = st.integers(0, 10_000)
PATHS = [("r1", "r2", "r3"), ("r2", "r3"), ("r3", "r1", "r2")]

FOUL = {CloseCause.TAMPERED, CloseCause.VIOLATED, CloseCause.BUILD_UNCONFIRMED, CloseCause.OVERFLOWED}


class CircuitsOverThreeRelays(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.network = Network("alice", *ALL_HOPS)
        self.network.meddle = self.meddle
        self.harm: str | None = None
        self.is_harmed = False
        self.sent: dict[StapledCircuit, list[bytes]] = {}
        self.answered: dict[StapledCircuit, list[bytes]] = {}
        self.count = 0
        for path in PATHS:
            self.open(path)
        self.network.run()

    def meddle(self, _source, _target, cell):
        # A lost DESTROY would be a lost link: links keep order and lose nothing but by closing.
        if self.harm is None or decode_cell(cell).command is Command.DESTROY:
            return [cell]
        harm, self.harm = self.harm, None
        self.is_harmed = True
        match harm:
            case "lose":
                return []
            case "repeat" if decode_cell(cell).command is not Command.BUILD:
                return [cell, cell]
            case "change":
                return [cell[:500] + bytes([cell[500] ^ 4]) + cell[501:]]
        return [cell]

    def pick(self, number: int) -> StapledCircuit | None:
        circuits = [each for each in self.sent if each.machine.state is CircuitState.OPEN]
        return circuits[number % len(circuits)] if circuits else None

    @rule(path=st.sampled_from(PATHS))
    def open(self, path):
        self.network.now += 0.001
        circuit = self.network.start_circuit("alice", *path)
        self.sent[circuit], self.answered[circuit] = [], []

    @rule(steps=st.integers(1, 40))
    def deliver(self, steps):
        for _ in range(steps):
            if not self.network.is_quiet:
                self.network.step()

    @rule(number=picks, size=st.sampled_from([1, 919, 921, 5000, 150_000]))
    def send(self, number, size):
        circuit = self.pick(number)
        if circuit is None:
            return
        self.count += 1
        sealed = self.count.to_bytes(4, "big") + bytes(size)
        self.sent[circuit].append(sealed)
        self.network.send_clove("alice", circuit, sealed)

    @rule(number=picks, count=st.sampled_from([1, 7, 130, 220]))
    def answer(self, number, count):
        circuit = self.pick(number)
        if circuit is None:
            return
        token = circuit.machine.reply_token(b"question")
        self.network.send_clove("alice", circuit, b"?", message=b"question")
        self.sent[circuit].append(b"?")
        self.network.run()
        proxy = self.network.nodes[circuit.machine.proxy]
        if any(clove.reply_token == token for clove in proxy.delivered):
            for _ in range(count):
                self.count += 1
                data = self.count.to_bytes(4, "big") * 246
                self.answered[circuit].append(data)
                self.network.answer(proxy.name, token, data)

    @rule()
    def settle(self):
        """Where nobody interferes, everything arrives."""
        self.network.run()
        for circuit, answers in self.answered.items():
            if circuit.machine.state is CircuitState.OPEN and not self.is_harmed:
                assert circuit.machine.waiting_fragments == 0
                assert len(circuit.happened(ResponseReceived)) == len(answers)

    @rule(number=picks)
    def ping(self, number):
        if (circuit := self.pick(number)) is not None:
            self.network.do("alice", circuit, circuit.machine.ping(self.network.now))

    @rule(number=picks)
    def close(self, number):
        if (circuit := self.pick(number)) is not None:
            self.network.do("alice", circuit, circuit.machine.close(self.network.now))

    @rule(ends=st.sampled_from([("alice", "r1"), ("r1", "r2"), ("r2", "r3"), ("alice", "r2")]))
    def cut(self, ends):
        self.network.cut(*ends)

    @rule(harm=st.sampled_from(["lose", "repeat", "change"]))
    def interfere(self, harm):
        self.harm = harm

    @rule(seconds=st.sampled_from([0.1, 5.0, 35.0]))
    def wait(self, seconds):
        self.network.advance(seconds)

    @invariant()
    def streams_are_prefixes(self):
        for circuit, answers in self.answered.items():
            received = [event.data for event in circuit.happened(ResponseReceived)]
            assert received == answers[: len(received)]
        sent = [sealed for cloves in self.sent.values() for sealed in cloves]
        for name in ALL_HOPS:
            for clove in self.network[name].delivered:
                assert clove.destination == MODEL
                assert clove.sealed in sent

    @invariant()
    def circuits_end_once(self):
        for circuit in self.sent:
            closed = circuit.happened(CircuitClosed)
            assert len(circuit.happened(CircuitBuilt)) <= 1
            assert len(closed) <= 1
            assert bool(closed) == (circuit.machine.state is CircuitState.CLOSED)
            if closed:
                assert circuit.events[-1] is closed[0]
                assert set(closed[0].blamed) <= set(circuit.machine.relays)
                assert self.is_harmed or closed[0].cause not in FOUL

    def teardown(self):
        if not hasattr(self, "network"):
            return
        self.network.advance(900.0)
        self.network.run()
        assert self.network.circuit_count() == 0
        assert all(circuit.machine.state is CircuitState.CLOSED for circuit in self.sent)


TestCircuitsOverThreeRelays = CircuitsOverThreeRelays.TestCase
TestCircuitsOverThreeRelays.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
