"""The relay machine on the main road, told as stories: alice asks over r1, r2, r3."""

import pytest

from overlay.protocol.circuit import (
    CircuitClosed,
    CloseCause,
    ResponseReceived,
)
from overlay.protocol.effects import OpenLink
from overlay.wire.cells import (
    decode_cell,
    encode_cell,
    pad_cell,
)
from overlay.wire.contents import CloveFragment, encode_outbound
from overlay.wire.limits import (
    ANSWER_CELL_BYTES,
    CELL_BYTES,
    FIRST_FRAGMENT_BYTES,
    MAX_PARTIAL_BYTES,
    RELAY_BUILD_TIMEOUT_S,
    RELAY_IDLE_TIMEOUT_S,
)
from tests.support.entropy import fixed_entropy
from tests.support.handmade import is_refusal, offer_build, receive
from tests.support.stapled import ALL_HOPS, MODEL, OTHER_MODEL, Network, closed_for, inject, is_open

ANSWER = bytes(range(246)) * 4


@pytest.fixture
def network():
    return Network("alice", "bob", *ALL_HOPS)


@pytest.mark.parametrize("hops", [ALL_HOPS[:1], ALL_HOPS[:2], ALL_HOPS])
def test_clove_goes_out_and_answer_comes_back_over_one_to_three_hops(network, hops):
    circuit = network.open_circuit("alice", *hops)
    sealed = bytes(range(250)) * 40
    message = network.send_clove("alice", circuit, sealed)
    network.run()
    delivered = network[hops[-1]].delivered
    assert [(clove.destination, clove.sealed) for clove in delivered] == [(MODEL, sealed)]
    assert delivered[0].reply_token == circuit.machine.reply_token(message)

    network.answer(hops[-1], delivered[0].reply_token, ANSWER)
    network.run()
    assert circuit.happened(ResponseReceived) == [ResponseReceived(message, ANSWER)]


def test_every_cell_has_one_size_and_nothing_of_it_recurs_on_the_next_hop(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    message = network.send_clove("alice", circuit, b"the same bytes " * 3000)
    network.run()
    for _ in range(30):
        network.answer("r3", circuit.machine.reply_token(message), bytes(ANSWER_CELL_BYTES))
    network.run()
    network.do("alice", circuit, circuit.machine.close(network.now))
    network.run()
    assert {len(cell) for _, _, cell in network.tapped} == {CELL_BYTES}
    seen: dict[bytes, int] = {}
    for number, (_, _, cell) in enumerate(network.tapped):
        for start in range(CELL_BYTES - 15):
            assert seen.setdefault(cell[start : start + 16], number) == number


def test_circuits_of_two_clients_do_not_disturb_each_other(network):
    circuits = {client: network.open_circuit(client, *ALL_HOPS) for client in ("alice", "bob")}
    for client, circuit in circuits.items():
        network.send_clove(client, circuit, client.encode() * 400)
    network.run()
    assert {clove.sealed for clove in network["r3"].delivered} == {b"alice" * 400, b"bob" * 400}
    assert network["r2"].relay.circuit_count == 2


def test_message_of_a_clove_may_be_used_again_for_another_model_node(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    message = network.send_clove("alice", circuit, b"first")
    network.send_clove("alice", circuit, b"again", message=message, destination=OTHER_MODEL)
    network.run()
    token = circuit.machine.reply_token(message)
    for model in (MODEL, OTHER_MODEL):
        network.answer("r3", token, ANSWER, model=model)
    network.run()
    assert len(circuit.happened(ResponseReceived)) == 2


def test_answer_may_overtake_the_rest_of_the_clove(network):
    circuit = network.open_circuit("alice", "r1")
    inject(
        network,
        "alice",
        circuit,
        encode_outbound(CloveFragment(b"message8", 0, 2, bytes(FIRST_FRAGMENT_BYTES), MODEL)),
    )
    network.answer("r1", circuit.machine.reply_token(b"message8"), ANSWER)
    network.run()
    assert circuit.happened(ResponseReceived)


def test_padding_is_dropped(network):
    assert receive(network, "alice", "r1", pad_cell(fixed_entropy("pad"))) == []
    assert network["r1"].relay.counters.pads_received == 1


def test_relay_drops_an_idle_circuit(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    circuit.machine.next_deadline = lambda: None  # a client that never pings
    circuit.machine.handle_deadline = lambda _now: []
    network.advance(RELAY_IDLE_TIMEOUT_S - 1)
    assert is_open(circuit)
    network.advance(1)
    assert network.circuit_count() == 0
    assert circuit.happened(CircuitClosed)


def test_used_circuit_is_not_idle(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    for _ in range(4):
        network.advance(RELAY_IDLE_TIMEOUT_S - 30)
        network.send_clove("alice", circuit, b"still here")
        network.run()
    assert is_open(circuit)


def test_relay_gives_up_a_build_that_stays_unanswered(network):
    effects, cell = offer_build(network, "alice", "r1", network["r1"].hop, network["r2"].hop)
    assert effects == [OpenLink(network["r2"].node_id)]
    relay = network["r1"].relay
    assert relay.next_deadline() == network.now + RELAY_BUILD_TIMEOUT_S
    assert is_refusal(relay.handle_deadline(network.now + RELAY_BUILD_TIMEOUT_S), cell)
    assert relay.circuit_count == 0
    assert relay.next_deadline() is None
    assert relay._awaiting_link == {}


def test_leaving_proxy_says_goodbye_and_nobody_is_blamed(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    node = network["r3"]
    network.perform(node, node.relay.close_all(network.now))
    network.run()
    assert circuit.happened(CircuitClosed) == [CircuitClosed(CloseCause.PROXY_LEFT, ())]
    assert network.circuit_count() == 0


def test_onion_keys_rotate_and_the_old_one_still_opens(network):
    relay = network["r1"].relay
    key = relay._admission.keys[0]
    new = Network("other")["other"].relay._admission.keys[0][1]
    relay.set_keys([(8, new), key])
    assert is_open(network.open_circuit("alice", "r1"))
    relay.set_keys([(8, new)])
    assert closed_for(network.open_circuit("alice", "r1")) == [CloseCause.BUILD_REFUSED]


def test_counters_have_names_for_metrics(network):
    network.open_circuit("alice", "r1")
    counters = network["r1"].relay.counters.as_dict()
    assert counters["builds_accepted"] == counters["circuits_opened"] == 1
    assert all(isinstance(value, int) for value in counters.values())


def test_relay_keeps_nothing_of_a_closed_circuit(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    network.send_clove("alice", circuit, b"x" * 5000)
    for _ in range(4):
        network.step()
    network.do("alice", circuit, circuit.machine.close(network.now))
    network.run()
    for name in ALL_HOPS:
        relay = network[name].relay
        assert relay.circuit_count == 0
        assert relay.next_deadline() is None
        assert relay._table._links == {}
        assert relay._replies == {}
        assert relay._budget.left_bytes == MAX_PARTIAL_BYTES


def test_cells_are_encoded_as_they_were_decoded(network):
    network.open_circuit("alice", "r1")
    for _, _, cell in network.tapped:
        assert encode_cell(decode_cell(cell)) == cell
