"""Cells that break a circuit, and only that circuit: what mallory gets for interfering."""

import pytest

from overlay.protocol.circuit import (
    CloseCause,
)
from overlay.protocol.effects import OpenLink
from overlay.wire.cells import (
    Cell,
    CircuitId,
    Command,
    decode_cell,
)
from overlay.wire.contents import SendMe, encode_outbound
from tests.support.handmade import is_refusal, offer_build, receive
from tests.support.stapled import (
    ALL_HOPS,
    Network,
    closed_for,
    inject,
    is_open,
)

ANSWER = bytes(range(246)) * 4


@pytest.fixture
def network():
    return Network("alice", "bob", *ALL_HOPS)


def test_unknown_circuit_is_a_counted_drop(network):
    cell = Cell(CircuitId(5), Command.FWD, bytes(1016))
    assert receive(network, "alice", "r1", cell) == []
    assert network["r1"].relay.counters.cells_unknown_circuit == 1


def tampered(cell):
    return cell[:-1] + bytes([cell[-1] ^ 1])


@pytest.mark.parametrize("hop", ALL_HOPS)
@pytest.mark.parametrize(
    "deed",
    [
        pytest.param(lambda cells: [tampered(cells[0]), cells[1]], id="tampered"),
        pytest.param(lambda cells: [cells[0], cells[0], cells[1]], id="replayed"),
        pytest.param(lambda cells: [cells[1], cells[0]], id="reordered"),
        pytest.param(lambda cells: [cells[1]], id="dropped"),
    ],
)
def test_interference_ends_in_destroy_of_that_circuit_and_nothing_else(network, hop, deed):
    victim = network.open_circuit("alice", *ALL_HOPS)
    neighbour = network.open_circuit("alice", *ALL_HOPS)
    held = []

    def meddle(_source, target, cell):
        if target != network[hop].node_id or decode_cell(cell).command is not Command.FWD:
            return [cell]
        held.append(cell)
        return deed(held) if len(held) == 2 else []

    network.meddle = meddle
    network.send_clove("alice", victim, b"x" * 1500)
    network.run()
    network.meddle = lambda _source, _target, cell: [cell]
    assert closed_for(victim) == [CloseCause.DESTROYED]
    assert network["r3"].delivered == []
    assert is_open(neighbour)
    assert [network[name].relay.circuit_count for name in ALL_HOPS] == [1, 1, 1]


@pytest.mark.parametrize("command", [Command.BUILT, Command.BWD])
def test_inbound_command_from_the_client_side_breaks_the_circuit(network, command):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    cell = Cell(circuit.machine.circ_id, command, bytes(1016))
    network.perform(network["r1"], receive(network, "alice", "r1", cell))
    network.run()
    assert closed_for(circuit) == [CloseCause.DESTROYED]
    assert network.circuit_count() == 0


def outbound_id(network, relay):
    return next(iter(network[relay].relay._table)).outbound_id


@pytest.mark.parametrize("command", [Command.FWD, Command.BUILT])
def test_outbound_command_or_second_built_from_the_far_side_breaks_the_circuit(network, command):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    cell = Cell(outbound_id(network, "r1"), command, bytes(1016))
    network.perform(network["r1"], receive(network, "r2", "r1", cell))
    network.run()
    assert closed_for(circuit) == [CloseCause.DESTROYED]
    assert network.circuit_count() == 0


def test_fwd_before_built_breaks_the_circuit(network):
    effects, cell = offer_build(network, "alice", "r1", network["r1"].hop, network["r2"].hop)
    assert effects == [OpenLink(network["r2"].node_id)]
    early = Cell(cell.circ_id, Command.FWD, bytes(1016))
    assert is_refusal(receive(network, "alice", "r1", early), cell)
    assert network["r1"].relay.link_ready(network["r2"].node_id, network.now) == []


def test_garbage_inside_the_last_layer_breaks_the_circuit(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    inject(network, "alice", circuit, b"\xff" * 968)
    assert closed_for(circuit) == [CloseCause.DESTROYED]
    assert network.circuit_count() == 0


def test_unearned_sendme_breaks_the_circuit(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    inject(network, "alice", circuit, encode_outbound(SendMe()))
    assert closed_for(circuit) == [CloseCause.DESTROYED]


def test_lost_link_destroys_its_circuits_on_both_sides_of_it(network):
    lost = network.open_circuit("alice", *ALL_HOPS)
    kept = network.open_circuit("bob", "r1", "r3")
    network.cut("r2", "r3")
    network.run()
    assert closed_for(lost) == [CloseCause.DESTROYED]
    assert is_open(kept)
    assert [network[name].relay.circuit_count for name in ALL_HOPS] == [1, 0, 1]


def test_full_queue_destroys_the_circuit_on_both_sides(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    relay = network["r1"].relay
    next_id = network["r2"].node_id
    network.perform(network["r1"], relay.send_failed(next_id, outbound_id(network, "r1"), network.now))
    network.run()
    assert closed_for(circuit) == [CloseCause.DESTROYED]
    assert network.circuit_count() == 0
    assert relay.send_failed(next_id, CircuitId(5), network.now) == []


def test_destroy_carries_no_reason(network):
    """Whatever the cause, the cell that the client sees is noise under a command."""
    network.open_circuit("alice", *ALL_HOPS)
    network.cut("r2", "r3")
    network.run()
    bodies = {cell[8:] for _, _, cell in network.tapped if decode_cell(cell).command is Command.DESTROY}
    assert len(bodies) == 2
    assert all(body.count(0) < 100 for body in bodies)
