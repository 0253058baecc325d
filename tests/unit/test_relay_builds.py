"""Which builds a relay takes on, and which it refuses."""

import pytest

from crypto.onion import Hop
from overlay.errors import RemoteProtocolError
from overlay.protocol.circuit import (
    CloseCause,
)
from overlay.protocol.effects import OpenLink
from overlay.wire.cells import (
    Cell,
    CircuitId,
    Command,
)
from overlay.wire.limits import (
    BUILD_BURST,
    MAX_CIRCUITS_PER_NEIGHBOUR,
)
from tests.support.handmade import free_id, is_refusal, offer_build, receive
from tests.support.stapled import (
    ALL_HOPS,
    Network,
    closed_for,
    is_open,
)

ANSWER = bytes(range(246)) * 4


@pytest.fixture
def network():
    return Network("alice", "bob", *ALL_HOPS)


def test_relay_refuses_a_replayed_build(network):
    effects, cell = offer_build(network, "alice", "r1", network["r1"].hop)
    assert effects[0].cell.command is Command.BUILT
    replayed = Cell(free_id(network, "bob", "r1"), Command.BUILD, cell.body)
    assert is_refusal(receive(network, "bob", "r1", replayed), replayed)
    assert network["r1"].relay.counters.builds_refused_invalid == 1


def test_replay_is_refused_for_as_long_as_its_minute_would_be_accepted(network):
    _, cell = offer_build(network, "alice", "r1", network["r1"].hop)
    for _ in range(12):
        network.advance(60)
        replayed = Cell(CircuitId(cell.circ_id ^ 1), Command.BUILD, cell.body)
        assert is_refusal(receive(network, "alice", "r1", replayed), replayed)


def test_relay_extends_neither_to_itself_nor_back_nor_to_strangers(network):
    stranger = Network("mallory")["mallory"].hop
    for label, hops in {
        "back": (network["r1"].hop, network["alice"].hop),
        "stranger": (network["r1"].hop, stranger),
    }.items():
        effects, cell = offer_build(network, "alice", "r1", *hops, label=label)
        assert is_refusal(effects, cell)
    assert network["r1"].relay.counters.builds_refused_terms == 2
    assert network["r1"].relay.circuit_count == 0


@pytest.mark.parametrize("lifetime_s", [0, 3601])
def test_relay_refuses_lifetimes_out_of_range(network, lifetime_s):
    effects, cell = offer_build(network, "alice", "r1", network["r1"].hop, lifetime_s=lifetime_s)
    assert is_refusal(effects, cell)


def test_relay_refuses_noise(network):
    cell = Cell(free_id(network, "alice", "r1"), Command.BUILD, bytes(1016))
    assert is_refusal(receive(network, "alice", "r1", cell), cell)


def test_loaded_relay_asks_for_a_solved_puzzle(network):
    network["r1"].relay.set_difficulty(10)
    hop = network["r1"].hop
    effects, cell = offer_build(network, "alice", "r1", hop, label="cheap")
    assert is_refusal(effects, cell)
    worked = Hop(hop.node_id, hop.onion_public, hop.onion_epoch, 10)
    effects, _ = offer_build(network, "alice", "r1", worked, label="worked")
    assert effects[0].cell.command is Command.BUILT


def test_builds_of_a_neighbour_are_limited_in_rate_and_the_rate_recovers(network):
    noise = Cell(free_id(network, "alice", "r1"), Command.BUILD, bytes(1016))
    for _ in range(BUILD_BURST + 7):
        receive(network, "alice", "r1", noise)
    counters = network["r1"].relay.counters
    assert counters.builds_refused_rate == 7
    assert is_open(network.open_circuit("bob", "r1"))
    network.now += 1.0
    assert is_open(network.open_circuit("alice", "r1"))
    assert counters.builds_refused_rate == 7


def test_circuits_of_a_neighbour_are_limited_in_number(network):
    for _ in range(MAX_CIRCUITS_PER_NEIGHBOUR):
        network.now += 0.03
        network.open_circuit("alice", "r1")
    one_too_many = network.open_circuit("alice", "r1")
    assert closed_for(one_too_many) == [CloseCause.BUILD_REFUSED]
    assert is_open(network.open_circuit("bob", "r1"))
    assert network["r1"].relay.counters.builds_refused_full == 1


def test_build_under_an_id_of_the_other_half_closes_the_link(network):
    cell = Cell(CircuitId(free_id(network, "alice", "r1") ^ (1 << 31)), Command.BUILD, bytes(1016))
    with pytest.raises(RemoteProtocolError):
        receive(network, "alice", "r1", cell)


def test_build_under_an_id_in_use_closes_the_link(network):
    _, cell = offer_build(network, "alice", "r1", network["r1"].hop)
    with pytest.raises(RemoteProtocolError):
        receive(network, "alice", "r1", cell)
    assert network["r1"].relay.circuit_count == 1


def test_build_fails_where_the_next_hop_cannot_be_reached(network):
    network.unreachable.add(network["r2"].node_id)
    circuit = network.open_circuit("alice", *ALL_HOPS)
    assert closed_for(circuit) == [CloseCause.BUILD_REFUSED]
    assert network.circuit_count() == 0
    assert network["r1"].relay.counters.builds_failed_link == 1


def test_several_builds_wait_for_one_link(network):
    hops = (network["r1"].hop, network["r2"].hop)
    for label in ("one", "two"):
        effects, _ = offer_build(network, "alice", "r1", *hops, label=label)
        assert effects == [OpenLink(network["r2"].node_id)]
    relay = network["r1"].relay
    assert relay.circuit_count == 2
    sent = relay.link_ready(network["r2"].node_id, network.now)
    assert [effect.cell.command for effect in sent] == [Command.BUILD] * 2
    assert sent[0].cell.circ_id != sent[1].cell.circ_id
    assert relay.link_ready(network["r2"].node_id, network.now) == []


def test_relay_draws_no_circuit_id_that_its_own_client_uses(network):
    reserved = []

    def is_reserved(_peer, circ_id):
        reserved.append(circ_id)
        return len(reserved) < 3

    network["r1"].relay._is_reserved = is_reserved
    assert is_open(network.open_circuit("alice", "r1", "r2"))
    assert len(reserved) == 3
