"""Cells: fixed size, one error type, and circuit ids that the two ends of a link can't both draw."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto import onion
from crypto.errors import DecodeError
from crypto.identity import NodeId
from overlay.wire import limits
from overlay.wire.cells import (
    Cell,
    CircuitId,
    Command,
    choose_circuit_id,
    decode_cell,
    destroy_cell,
    encode_cell,
    is_allocated_by,
    pad_cell,
)
from tests.support.entropy import fixed_entropy

ALICE, BOB = NodeId(b"\x01" * 32), NodeId(b"\x02" * 32)
BODY = bytes(range(254)) * 4

circuit_ids = st.integers(1, 2**32 - 1).map(CircuitId)


@given(circuit_ids, st.sampled_from(Command), st.binary(max_size=32))
def test_cell_survives_a_round_trip(circ_id, command, start):
    cell = Cell(circ_id, command, start.ljust(limits.CELL_BODY_BYTES, b"."))
    encoded = encode_cell(cell)
    assert len(encoded) == limits.CELL_BYTES
    assert decode_cell(encoded) == cell


@given(st.binary(max_size=2048) | st.binary(min_size=1024, max_size=1024))
def test_decoder_raises_decode_error_and_nothing_else(data):
    try:
        cell = decode_cell(data)
    except DecodeError:
        return
    assert encode_cell(cell) == data


def test_layout_is_the_documented_one():
    encoded = encode_cell(Cell(CircuitId(0x01020304), Command.FWD, BODY))
    assert encoded[:8] == bytes([1, 2, 3, 4, 3, 0, 0, 0])
    assert encoded[8:] == BODY


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(bytes([0, 0, 0, 1, 6, 0, 0, 0]), id="unknown command"),
        pytest.param(bytes([0, 0, 0, 1, 3, 0, 0, 1]), id="reserved byte set"),
        pytest.param(bytes([0, 0, 0, 0, 3, 0, 0, 0]), id="circuit id 0"),
    ],
)
def test_bad_header_is_malformed(header):
    with pytest.raises(DecodeError):
        decode_cell(header + BODY)


def test_body_of_another_size_is_not_encoded():
    with pytest.raises(ValueError, match="1016"):
        encode_cell(Cell(CircuitId(1), Command.FWD, b"short"))


def test_destroy_and_pad_cells_are_noise():
    entropy = fixed_entropy("noise")
    bodies = {destroy_cell(CircuitId(1), entropy).body for _ in range(3)} | {pad_cell(entropy).body}
    assert len(bodies) == 4
    assert decode_cell(encode_cell(pad_cell(entropy))).command is Command.PAD


@given(st.integers(0, 2**32))
def test_two_ends_of_a_link_draw_from_different_halves(seed):
    entropy = fixed_entropy(str(seed))
    by_alice = choose_circuit_id(ALICE, BOB, taken=lambda _: False, entropy=entropy)
    by_bob = choose_circuit_id(BOB, ALICE, taken=lambda _: False, entropy=entropy)
    assert is_allocated_by(ALICE, BOB, by_alice)
    assert is_allocated_by(BOB, ALICE, by_bob)
    assert not is_allocated_by(ALICE, BOB, by_bob)
    assert not is_allocated_by(BOB, ALICE, by_alice)


def test_ids_in_use_and_zero_are_not_drawn():
    draws = iter([bytes(4), bytes([0, 0, 0, 5]), bytes([0, 0, 0, 6])])
    drawn = choose_circuit_id(ALICE, BOB, taken=lambda circ_id: circ_id == 5, entropy=lambda _: next(draws))
    assert drawn == 6


def test_sizes_agree_with_the_onion():
    assert limits.CELL_BODY_BYTES == onion.CELL_BODY_BYTES
    assert limits.OUTBOUND_CONTENT_BYTES == onion.CONTENT_BYTES
    assert limits.INBOUND_CONTENT_BYTES == onion.INBOUND_CONTENT_BYTES
    assert limits.MESSAGE_BYTES == onion.MESSAGE_ID_BYTES
