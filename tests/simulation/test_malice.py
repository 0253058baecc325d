"""Relays and neighbours that do wrong: one circuit pays, it is replaced, and the answer is whole all the same."""

from collections import Counter

import pytest
import trio

from overlay.protocol.circuit import CloseCause
from overlay.wire.cells import Command, decode_cell
from overlay.wire.messages import AnswerCellSent, CloveDelivered
from tests.support.network import a_prompt, answer_to, network

GUARD, MIDDLE, PROXY = 0, 1, 2


def flipped(cell, bit=4000):
    data = bytearray(cell)
    data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


def command_of(cell):
    return decode_cell(cell).command


class FromRelay:
    """Meddles with cells of one command that a relay sends, from a number of tokens on."""

    def __init__(self, relay, command, change):
        self._relay, self._command, self._change = relay, command, change
        self.is_on = False

    def __call__(self, source, _target, cell):
        if self.is_on and source == self._relay and command_of(cell) is self._command:
            return self._change(cell)
        return (cell,)


async def answer_beside(net, meddle, *, tokens=100):
    """Asks with `meddle` at work from the tenth token on; gives the answer as it was told."""
    prompt = a_prompt(tokens=tokens)
    net.wire.meddle_cell = meddle

    def begin(told):
        meddle.is_on = told.tokens >= 10

    told = await net.ask(prompt, during=begin)
    assert told.text == answer_to(prompt)
    return told


@pytest.mark.parametrize("place", [GUARD, MIDDLE, PROXY])
async def test_a_corrupting_relay_is_blamed_and_its_path_replaced(autojump_clock, place):
    async with network() as net:
        circuit = (await net.circuits())[2]
        bad = circuit.path.node_ids[place]
        told = await answer_beside(net, FromRelay(bad, Command.BWD, lambda cell: [flipped(cell)]))
        assert circuit.cause == CloseCause.TAMPERED
        assert bad in circuit.blamed
        assert bad in told.answering.culprits
        assert told.answering.paths_replaced >= 1
        assert all(bad not in path[1:] for path in told.answering.paths_used[4:])


@pytest.mark.parametrize("place", [GUARD, MIDDLE, PROXY])
async def test_a_path_that_falls_silent_is_replaced(autojump_clock, place):
    async with network() as net:
        circuit = (await net.circuits())[1]
        quiet = circuit.path.node_ids[place]
        told = await answer_beside(net, FromRelay(quiet, Command.BWD, lambda _cell: []), tokens=200)
        assert circuit.closed.is_set()
        assert quiet in told.answering.culprits
        assert told.answering.paths_replaced >= 1


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda cell: [cell, cell], id="replayed"),
        pytest.param(lambda cell: [flipped(cell)], id="tampered"),
        pytest.param(lambda _cell: [], id="dropped"),
    ],
)
@pytest.mark.parametrize("command", [Command.FWD, Command.BWD], ids=["outbound", "inbound"])
@pytest.mark.parametrize("place", [GUARD, MIDDLE], ids=["guard", "middle"])
async def test_a_cell_out_of_order_ends_in_destroy_and_nothing_else(autojump_clock, change, command, place):
    async with network(relays=12) as net:
        circuit, *others = await net.circuits()
        meddle = net.wire.meddle_cell = FromRelay(circuit.path.node_ids[place], command, change)
        meddle.is_on = True
        await ping(net, circuit)
        meddle.is_on = False
        if not circuit.closed.is_set():  # only the cell after a dropped one shows that it is missing
            await ping(net, circuit)
        assert circuit.cause in {CloseCause.DESTROYED, CloseCause.TAMPERED}
        assert all(other.is_open for other in others)
        assert violations(net) == 0


async def ping(net, circuit):
    machine = circuit.own.machine
    machine._ping = None
    net["c"].switch.perform_own(circuit.own, machine.ping(trio.current_time()))
    await trio.sleep(0.1)


def violations(net):
    return sum(node.links.counters["protocol_violations"] for node in net.nodes.values())


async def test_swapped_cells_end_in_destroy_and_nothing_else(autojump_clock):
    async with network() as net:
        circuit = (await net.circuits())[0]
        held = []

        def swap(source, _target, cell):
            if source != circuit.path.guard or command_of(cell) is not Command.FWD:
                return (cell,)
            held.append(cell)
            return held[::-1] if len(held) == 2 else []

        net.wire.meddle_cell = swap
        for _ in range(2):
            net["c"].switch.perform_own(circuit.own, circuit.own.machine.send_dummy(trio.current_time()))
        await trio.sleep(0.5)
        assert circuit.cause == CloseCause.DESTROYED
        assert violations(net) == 0


async def test_a_dropped_clove_does_not_hold_up_the_prompt(autojump_clock):
    async with network() as net:
        thieves = {circuit.path.proxy for circuit in (await net.circuits())[:2]}

        def steal(source, _target, message):
            return () if isinstance(message, CloveDelivered) and source in thieves else (message,)

        net.wire.meddle_message = steal
        prompt = a_prompt()
        started = trio.current_time()
        assert (await net.ask(prompt)).text == answer_to(prompt)
        assert trio.current_time() - started < 10.0


async def test_a_spoilt_clove_does_not_hold_up_the_prompt(autojump_clock):
    async with network() as net:
        spoilers = {circuit.path.proxy for circuit in (await net.circuits())[:2]}

        def spoil(source, _target, message):
            if isinstance(message, CloveDelivered) and source in spoilers:
                return (CloveDelivered(message.reply_token, flipped(message.sealed)),)
            return (message,)

        net.wire.meddle_message = spoil
        prompt = a_prompt()
        assert (await net.ask(prompt)).text == answer_to(prompt)


async def test_a_spoilt_answer_cell_names_its_path(autojump_clock):
    async with network() as net:
        circuit = (await net.circuits())[3]

        def spoil(_source, target, message):
            if isinstance(message, AnswerCellSent) and target == circuit.path.proxy:
                return (AnswerCellSent(message.reply_token, flipped(message.data)),)
            return (message,)

        net.wire.meddle_message = spoil
        prompt = a_prompt()
        told = await net.ask(prompt)
        assert told.text == answer_to(prompt)
        assert set(circuit.path.node_ids) <= set(told.answering.culprits)
        assert told.answering.paths_replaced >= 1


async def test_a_lossy_path_is_replaced(autojump_clock):
    async with network() as net:
        circuit = (await net.circuits())[3]
        passed = Counter()

        def lose(_source, target, message):
            if isinstance(message, AnswerCellSent) and target == circuit.path.proxy:
                passed["cells"] += 1
                return () if passed["cells"] % 5 == 0 else (message,)
            return (message,)

        net.wire.meddle_message = lose
        prompt = a_prompt(tokens=300)
        told = await net.ask(prompt)
        assert told.text == answer_to(prompt)
        assert told.answering.paths_replaced >= 1


async def test_a_replayed_clove_is_not_run_twice(autojump_clock):
    async with network() as net:
        net.wire.keeps = True
        prompt = a_prompt()
        await net.ask(prompt)
        cloves = [(source, told) for source, _, told in net.wire.messages if isinstance(told, CloveDelivered)]
        assert len(cloves) >= 4
        model, engine = net["m0"].models, net["m0"].engine
        await net.kill(*(node.node_id for node in net.nodes.values() if node.name != "m0"))
        for pause_s in (0.0, 60.0, 700.0, 300.0):
            await trio.sleep(pause_s)
            for source, clove in cloves:
                model.clove_delivered(source, clove.reply_token, clove.sealed)
            await trio.sleep(1.0)
        assert len(engine.started) == 1
        assert engine.generating == 0


async def test_a_clove_for_its_own_proxy_is_undelivered(autojump_clock):
    """A relay that serves models too may be named as the destination of a circuit that ends at it."""
    async with network() as net:
        both = await net.add("both", relays=True, engine=net["m0"].engine)
        await net.until_known()
        hops = [net["r0"], net["r1"], both]
        pool = net.client.pool
        heard = []

        class Listener:
            def circuit_event(self, event):
                heard.append(event)

        await net["c"].switch.link_to(net["r0"].node_id)
        found = [net["c"].switch.directory.find(hop.node_id) for hop in hops]
        circuit = net["c"].switch.open_circuit([pool._hop(hop) for hop in found], pool._terms(), Listener())
        await trio.sleep(1.0)
        circuit.send_clove(both.node_id, b"message.", bytes(500))
        await trio.sleep(1.0)
        assert [type(event).__name__ for event in heard] == ["CircuitBuilt", "CloveUndelivered"]
        assert not both.ended.is_set()


async def test_garbage_on_a_link_closes_that_link_alone(autojump_clock):
    async with network() as net:
        circuits = await net.circuits()
        victim, bad = circuits[0].path.node_ids[:2]
        link = net.named(bad).links.get(victim)
        link.send_cell(b"\xff" * 1024, 1)
        await trio.sleep(0.2)
        assert net.named(victim).links.counters["protocol_violations"] == 1
        assert circuits[0].closed.is_set()
        assert not any(circuit.closed.is_set() for circuit in circuits[1:])
