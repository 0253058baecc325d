"""The client's circuit: what it sends, what it reports, and whom it blames."""

import pytest

from overlay.errors import LocalProtocolError
from overlay.protocol.circuit import (
    CircuitBuilt,
    CircuitClosed,
    CircuitMachine,
    CircuitState,
    CircuitTimeouts,
    CloseCause,
    PongReceived,
)
from overlay.protocol.effects import SendCell
from overlay.wire.cells import Cell, CircuitId, Command, decode_cell
from overlay.wire.contents import CloveFragment, Dummy, Ping, SendMe, encode_inbound
from overlay.wire.limits import MAX_WAITING_FRAGMENTS, NEXT_FRAGMENT_BYTES, WINDOW_CELLS
from tests.support.entropy import fixed_entropy
from tests.support.stapled import ALL_HOPS, MODEL, Network, closed_for, is_open

NEVER_IDLE = CircuitTimeouts(idle_s=None)


@pytest.fixture
def network():
    return Network("alice", *ALL_HOPS)


def unstarted(network):
    hops = [network[name].hop for name in ALL_HOPS]
    return CircuitMachine(
        hops, circ_id=CircuitId(9), terms=network.terms(), entropy=fixed_entropy("unstarted")
    )


def node_ids(network, *names):
    return tuple(network[name].node_id for name in names)


def say_as_proxy(network, circuit, content):
    """Let the last hop send any content whatever to the client."""
    node = network[ALL_HOPS[-1]]
    proxy = next(iter(node.relay._table)).proxy
    body = proxy._layer.seal(content)
    network.perform(node, [SendCell(proxy.peer, Cell(proxy.circ_id, Command.BWD, body))])
    network.run()


# --- building -----------------------------------------------------------------------------------------


def test_build_is_reported_with_its_time(network):
    circuit = network.start_circuit("alice", *ALL_HOPS)
    network.now += 0.25
    network.run()
    assert circuit.events == [CircuitBuilt(0.25)]
    assert circuit.machine.state is CircuitState.OPEN
    assert circuit.machine.guard == network["r1"].node_id
    assert circuit.machine.proxy == network["r3"].node_id


def test_unanswered_build_times_out_and_blames_the_whole_path(network):
    network.meddle = lambda _source, _target, _cell: []
    circuit = network.start_circuit("alice", *ALL_HOPS)
    network.advance(7.9)
    assert circuit.events == []
    network.advance(0.1)
    assert circuit.events == [CircuitClosed(CloseCause.BUILD_TIMEOUT, node_ids(network, *ALL_HOPS))]


def test_refused_build_blames_the_whole_path(network):
    network["r3"].relay.set_keys([])
    circuit = network.open_circuit("alice", *ALL_HOPS)
    assert circuit.events == [CircuitClosed(CloseCause.BUILD_REFUSED, node_ids(network, *ALL_HOPS))]


@pytest.mark.parametrize("hop", ALL_HOPS)
def test_changed_confirmation_blames_the_whole_path(network, hop):
    def meddle(source, _target, cell):
        is_built = decode_cell(cell).command is Command.BUILT
        if is_built and source == network[hop].node_id:
            return [cell[:8] + bytes(byte ^ 1 for byte in cell[8:])]
        return [cell]

    network.meddle = meddle
    circuit = network.open_circuit("alice", *ALL_HOPS)
    assert circuit.events == [CircuitClosed(CloseCause.BUILD_UNCONFIRMED, node_ids(network, *ALL_HOPS))]
    assert network.circuit_count() == 0


def test_circuit_starts_once(network):
    machine = unstarted(network)
    machine.start(network.now)
    with pytest.raises(LocalProtocolError):
        machine.start(network.now)


def test_circuit_carries_nothing_before_it_is_open(network):
    machine = unstarted(network)
    for attempt in (
        lambda: machine.send_clove(MODEL, b"message8", b"clove", network.now),
        lambda: machine.ping(network.now),
        lambda: machine.send_dummy(network.now),
        lambda: machine.reply_token(b"message8"),
    ):
        with pytest.raises(LocalProtocolError):
            attempt()


def test_closing_before_the_start_tells_nobody(network):
    assert unstarted(network).close(network.now) == [CircuitClosed(CloseCause.CLOSED_HERE, ())]


# --- an end of every kind -----------------------------------------------------------------------------


def test_close_reaches_every_hop_and_blames_nobody(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    network.do("alice", circuit, circuit.machine.close(network.now))
    network.run()
    assert circuit.happened(CircuitClosed) == [CircuitClosed(CloseCause.CLOSED_HERE, ())]
    assert network.circuit_count() == 0


def test_destroy_blames_the_whole_path(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    network.cut("r2", "r3")
    network.run()
    assert circuit.happened(CircuitClosed) == [
        CircuitClosed(CloseCause.DESTROYED, node_ids(network, *ALL_HOPS))
    ]


def test_lost_link_blames_the_guard_alone(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    network.cut("alice", "r1")
    network.run()
    assert circuit.happened(CircuitClosed) == [CircuitClosed(CloseCause.LINK_LOST, node_ids(network, "r1"))]
    assert network.circuit_count() == 0


def test_changed_answer_blames_the_whole_path(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    network.meddle = lambda _source, _target, cell: [cell[:-1] + bytes([cell[-1] ^ 1])]
    say_as_proxy(network, circuit, encode_inbound(Dummy()))
    assert circuit.happened(CircuitClosed) == [
        CircuitClosed(CloseCause.TAMPERED, node_ids(network, *ALL_HOPS))
    ]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xff" * 1000, id="garbage"),
        pytest.param(encode_inbound(SendMe()), id="unearned sendme"),
        pytest.param(encode_inbound(Ping(b"no ping!")), id="echo of nothing"),
        pytest.param(encode_inbound(CloveFragment(b"message8", 0, 1, b"x", MODEL)), id="wrong direction"),
    ],
)
def test_what_only_the_proxy_can_have_sealed_blames_the_proxy_alone(network, content):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    say_as_proxy(network, circuit, content)
    assert circuit.happened(CircuitClosed) == [CircuitClosed(CloseCause.VIOLATED, node_ids(network, "r3"))]
    assert network.circuit_count() == 0


@pytest.mark.parametrize("command", [Command.FWD, Command.BUILT, Command.BUILD, Command.PAD])
def test_command_that_never_comes_inbound_closes_the_circuit(network, command):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    cell = Cell(circuit.machine.circ_id, command, bytes(1016))
    network.do("alice", circuit, circuit.machine.receive_cell(cell, network.now))
    assert closed_for(circuit) == [CloseCause.VIOLATED]


def test_overflow_on_our_own_link_blames_nobody(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    network.do("alice", circuit, circuit.machine.send_failed(network.now))
    network.run()
    assert circuit.happened(CircuitClosed) == [CircuitClosed(CloseCause.OVERFLOWED, ())]
    assert network.circuit_count() == 0


def test_circuit_closes_once_and_is_deaf_afterwards(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    machine = circuit.machine
    network.do("alice", circuit, machine.close(network.now))
    cell = Cell(machine.circ_id, Command.DESTROY, bytes(1016))
    assert machine.receive_cell(cell, network.now) == []
    assert (
        machine.close(network.now)
        == machine.link_closed(network.now)
        == machine.send_failed(network.now)
        == []
    )
    assert machine.next_deadline() is None
    assert machine.handle_deadline(network.now + 1e6) == []


# --- time ---------------------------------------------------------------------------------------------


def test_ping_is_echoed_with_its_round_trip_time(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    network.do("alice", circuit, circuit.machine.ping(network.now))
    assert circuit.machine.ping(network.now) == []
    network.now += 0.125
    network.run()
    assert circuit.happened(PongReceived) == [PongReceived(0.125)]


def test_silent_circuit_is_pinged(network):
    circuit = network.open_circuit("alice", *ALL_HOPS, timeouts=NEVER_IDLE)
    network.advance(95)
    assert len(circuit.happened(PongReceived)) == 3
    assert is_open(circuit)


def test_unanswered_ping_closes_the_circuit_and_blames_the_whole_path(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    network.meddle = lambda _source, _target, _cell: []
    network.advance(40)
    assert circuit.happened(CircuitClosed) == [
        CircuitClosed(CloseCause.PING_TIMEOUT, node_ids(network, *ALL_HOPS))
    ]


def test_unused_circuit_is_closed_after_its_idle_time(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    network.advance(119)
    assert is_open(circuit)
    network.advance(1)
    assert circuit.happened(CircuitClosed) == [CircuitClosed(CloseCause.IDLE, ())]


def test_circuit_ends_with_its_lifetime_before_the_relays_end_it(network):
    circuit = network.open_circuit("alice", *ALL_HOPS, lifetime_s=600, timeouts=NEVER_IDLE)
    network.advance(599)
    assert is_open(circuit)
    network.advance(1)
    assert circuit.happened(CircuitClosed) == [CircuitClosed(CloseCause.EXPIRED, ())]
    assert network.circuit_count() == 0


def test_relays_end_a_circuit_whose_client_forgot_it(network):
    circuit = network.open_circuit("alice", *ALL_HOPS, lifetime_s=60, timeouts=NEVER_IDLE)
    circuit.machine.next_deadline = lambda: None
    circuit.machine.handle_deadline = lambda _now: []
    network.advance(66)
    assert network.circuit_count() == 0


def test_dummy_means_nothing_to_anybody(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    network.do("alice", circuit, circuit.machine.send_dummy(network.now))
    network.run()
    say_as_proxy(network, circuit, encode_inbound(Dummy()))
    assert is_open(circuit)
    assert network["r3"].delivered == []


# --- the window ---------------------------------------------------------------------------------------


def test_cells_beyond_the_window_wait_for_the_proxy(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    sealed = bytes(NEXT_FRAGMENT_BYTES) * 250
    outputs = circuit.machine.send_clove(MODEL, b"message8", sealed, network.now)
    assert len(outputs) == WINDOW_CELLS
    assert circuit.machine.waiting_fragments == 151
    network.do("alice", circuit, outputs)
    network.run()
    assert circuit.machine.waiting_fragments == 0
    assert [clove.sealed for clove in network["r3"].delivered] == [sealed]


def test_too_many_waiting_cells_are_refused_and_nothing_is_sent(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    machine = circuit.machine
    sealed = bytes(NEXT_FRAGMENT_BYTES) * 600
    for message in (b"message1", b"message2"):
        machine.send_clove(MODEL, message, sealed, network.now)
    waiting = machine.waiting_fragments
    with pytest.raises(LocalProtocolError):
        machine.send_clove(MODEL, b"message3", sealed, network.now)
    assert machine.waiting_fragments == waiting <= MAX_WAITING_FRAGMENTS


def test_reply_tokens_differ_between_messages_and_circuits(network):
    circuits = [network.open_circuit("alice", *ALL_HOPS) for _ in range(2)]
    tokens = {
        each.machine.reply_token(message) for each in circuits for message in (b"message1", b"message2")
    }
    assert len(tokens) == 4
