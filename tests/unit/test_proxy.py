"""The last hop as an end point: cloves in pieces, answers within the window."""

import pytest

from overlay.errors import RemoteProtocolError
from overlay.protocol.circuit import (
    CloseCause,
    CloveUndelivered,
    ResponseReceived,
)
from overlay.protocol.effects import RefuseAnswer
from overlay.wire.cells import (
    Command,
    decode_cell,
)
from overlay.wire.contents import CloveFragment, encode_outbound
from overlay.wire.limits import (
    FIRST_FRAGMENT_BYTES,
    MAX_DESTINATIONS_PER_REPLY,
    MAX_PARTIAL_BYTES,
    MAX_PARTIAL_CLOVES,
    MAX_REPLIES_PER_CIRCUIT,
    MAX_WAITING_ANSWERS,
    PARTIAL_CLOVE_TIMEOUT_S,
    WINDOW_CELLS,
)
from tests.support.stapled import (
    ALL_HOPS,
    MODEL,
    OTHER_MODEL,
    Network,
    closed_for,
    inject,
    is_open,
)

ANSWER = bytes(range(246)) * 4


@pytest.fixture
def network():
    return Network("alice", "bob", *ALL_HOPS)


def first_piece(message, count=2):
    return encode_outbound(CloveFragment(message, 0, count, bytes(FIRST_FRAGMENT_BYTES), MODEL))


def test_too_many_unfinished_cloves_break_the_circuit(network):
    circuit = network.open_circuit("alice", "r1")
    for number in range(MAX_PARTIAL_CLOVES):
        inject(network, "alice", circuit, first_piece(number.to_bytes(8, "big")))
    assert is_open(circuit)
    inject(network, "alice", circuit, first_piece(b"toomuch!"))
    assert closed_for(circuit) == [CloseCause.DESTROYED]
    assert network["r1"].relay._budget.left_bytes == MAX_PARTIAL_BYTES


def test_skipped_fragment_breaks_the_circuit(network):
    circuit = network.open_circuit("alice", "r1")
    inject(network, "alice", circuit, first_piece(b"message8", count=3))
    inject(network, "alice", circuit, encode_outbound(CloveFragment(b"message8", 2, 3, b"x")))
    assert closed_for(circuit) == [CloseCause.DESTROYED]


def test_unfinished_clove_is_given_up_and_its_client_told(network):
    circuit = network.open_circuit("alice", "r1")
    inject(network, "alice", circuit, first_piece(b"message8"))
    network.advance(PARTIAL_CLOVE_TIMEOUT_S - 1)
    assert circuit.happened(CloveUndelivered) == []
    network.advance(1)
    assert circuit.happened(CloveUndelivered) == [CloveUndelivered(b"message8")]
    assert network["r1"].relay._budget.left_bytes == MAX_PARTIAL_BYTES
    inject(network, "alice", circuit, encode_outbound(CloveFragment(b"message8", 1, 2, b"late")))
    assert is_open(circuit)
    assert network["r1"].delivered == []


def test_clove_that_no_memory_is_left_for_is_dropped_and_its_client_told(network):
    circuit = network.open_circuit("alice", "r1")
    network["r1"].relay._budget.take(MAX_PARTIAL_BYTES)
    inject(network, "alice", circuit, first_piece(b"message8"))
    assert circuit.happened(CloveUndelivered) == [CloveUndelivered(b"message8")]
    assert is_open(circuit)


def test_clove_for_a_node_outside_the_directory_is_not_delivered(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    message = network.send_clove("alice", circuit, b"clove", destination=network["bob"].node_id)
    network.run()
    assert network["r3"].delivered == []
    assert circuit.happened(CloveUndelivered) == [CloveUndelivered(message)]


def test_client_learns_that_a_delivery_failed(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    message = network.send_clove("alice", circuit, b"clove")
    network.run()
    node = network["r3"]
    network.perform(node, node.relay.delivery_failed(node.delivered[0].reply_token, network.now))
    network.run()
    assert circuit.happened(CloveUndelivered) == [CloveUndelivered(message)]
    assert node.relay.delivery_failed(bytes(16), network.now) == []


def test_answer_from_a_node_that_got_no_clove_is_refused(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    message = network.send_clove("alice", circuit, b"clove")
    network.run()
    token = circuit.machine.reply_token(message)
    network.answer("r3", token, ANSWER, model=OTHER_MODEL)
    network.answer("r3", bytes(16), ANSWER)
    network.run()
    assert network["r3"].refused == [RefuseAnswer(OTHER_MODEL, token), RefuseAnswer(MODEL, bytes(16))]
    assert circuit.happened(ResponseReceived) == []


def test_answer_of_the_wrong_size_closes_the_model_nodes_link(network):
    with pytest.raises(RemoteProtocolError):
        network["r3"].relay.receive_answer(MODEL, bytes(16), b"short", network.now)


def test_answers_are_refused_once_the_circuit_is_gone(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    message = network.send_clove("alice", circuit, b"clove")
    network.run()
    token = circuit.machine.reply_token(message)
    network.do("alice", circuit, circuit.machine.close(network.now))
    network.run()
    network.answer("r3", token, ANSWER)
    assert network["r3"].refused == [RefuseAnswer(MODEL, token)]
    assert network["r3"].relay._replies == {}


def test_oldest_message_is_forgotten_when_a_circuit_has_too_many(network):
    circuit = network.open_circuit("alice", "r1")
    messages = [
        network.send_clove("alice", circuit, bytes([number])) for number in range(MAX_REPLIES_PER_CIRCUIT)
    ]
    network.run()
    messages.append(network.send_clove("alice", circuit, b"one more"))
    network.run()
    for message in (messages[0], messages[1], messages[-1]):
        network.answer("r1", circuit.machine.reply_token(message), ANSWER)
    network.run()
    assert [event.message for event in circuit.happened(ResponseReceived)] == [messages[1], messages[-1]]


def test_message_with_too_many_destinations_breaks_the_circuit(network):
    circuit = network.open_circuit("alice", "r1")
    for number in range(MAX_DESTINATIONS_PER_REPLY + 1):
        network.send_clove("alice", circuit, b"x", message=b"message8", destination=bytes([number]) * 32)
    network.run()
    assert closed_for(circuit) == [CloseCause.DESTROYED]


def test_answers_beyond_the_window_wait_and_too_many_destroy_the_circuit(network):
    circuit = network.open_circuit("alice", "r1")
    message = network.send_clove("alice", circuit, b"clove")
    network.run()
    token = circuit.machine.reply_token(message)
    for _ in range(WINDOW_CELLS + MAX_WAITING_ANSWERS):
        network.answer("r1", token, ANSWER)
    sent = [cell for source, _, cell in network.tapped if decode_cell(cell).command is Command.BWD]
    assert len(sent) == WINDOW_CELLS
    network.answer("r1", token, ANSWER)
    assert network["r1"].refused == [RefuseAnswer(MODEL, token)]
    assert network["r1"].relay.circuit_count == 0


def test_answers_flow_on_as_the_client_takes_them(network):
    circuit = network.open_circuit("alice", *ALL_HOPS)
    message = network.send_clove("alice", circuit, b"clove")
    network.run()
    answers = [number.to_bytes(4, "big") * 246 for number in range(WINDOW_CELLS + MAX_WAITING_ANSWERS)]
    for answer in answers:
        network.answer("r3", circuit.machine.reply_token(message), answer)
    network.run()
    assert [event.data for event in circuit.happened(ResponseReceived)] == answers
