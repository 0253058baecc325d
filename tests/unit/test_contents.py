"""Contents: one value, one encoding, each in its own direction only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import DecodeError
from crypto.identity import NodeId
from overlay.wire.contents import (
    Close,
    CloseReason,
    CloveFragment,
    Dummy,
    Ping,
    Response,
    SendMe,
    Undelivered,
    decode_inbound,
    decode_outbound,
    encode_inbound,
    encode_outbound,
    split_clove,
)
from overlay.wire.limits import (
    ANSWER_CELL_BYTES,
    FIRST_FRAGMENT_BYTES,
    INBOUND_CONTENT_BYTES,
    MAX_CLOVE_BYTES,
    MAX_CLOVE_FRAGMENTS,
    NEXT_FRAGMENT_BYTES,
    OUTBOUND_CONTENT_BYTES,
)

DESTINATION = NodeId(b"\x07" * 32)
MESSAGE = b"message8"

eight = st.binary(min_size=8, max_size=8)
both_ways = st.one_of(st.builds(SendMe), st.builds(Ping, eight), st.builds(Dummy))
inbound = both_ways | st.builds(Undelivered, eight) | st.builds(Close, st.sampled_from(CloseReason))


def noise(length: int) -> bytes:
    return bytes(index * 7 % 251 + 1 for index in range(length))


@given(both_ways)
def test_outbound_content_survives_a_round_trip(content):
    encoded = encode_outbound(content)
    assert len(encoded) == OUTBOUND_CONTENT_BYTES
    assert decode_outbound(encoded) == content


@given(inbound)
def test_inbound_content_survives_a_round_trip(content):
    encoded = encode_inbound(content)
    assert len(encoded) == INBOUND_CONTENT_BYTES
    assert decode_inbound(encoded) == content


def test_response_survives_a_round_trip():
    response = Response(MESSAGE, noise(ANSWER_CELL_BYTES))
    assert decode_inbound(encode_inbound(response)) == response


@given(
    st.integers(1, 40_000)
    | st.sampled_from([FIRST_FRAGMENT_BYTES, FIRST_FRAGMENT_BYTES + 1, MAX_CLOVE_BYTES])
)
def test_clove_fragments_put_together_are_the_clove(length):
    sealed = noise(length)
    decoded = [decode_outbound(encode_outbound(each)) for each in split_clove(DESTINATION, MESSAGE, sealed)]
    assert b"".join(each.data for each in decoded) == sealed
    assert [each.index for each in decoded] == list(range(decoded[0].count))
    assert decoded[0].destination == DESTINATION
    assert all(each.destination is None for each in decoded[1:])


@pytest.mark.parametrize("length", [0, MAX_CLOVE_BYTES + 1])
def test_clove_of_impossible_length_is_not_split(length):
    with pytest.raises(ValueError, match="sealed clove"):
        split_clove(DESTINATION, MESSAGE, bytes(length))


@given(
    st.binary(max_size=1100)
    | st.binary(min_size=OUTBOUND_CONTENT_BYTES, max_size=OUTBOUND_CONTENT_BYTES)
    | st.binary(min_size=INBOUND_CONTENT_BYTES, max_size=INBOUND_CONTENT_BYTES)
)
def test_decoders_raise_decode_error_and_nothing_else(data):
    for decode, encode in ((decode_outbound, encode_outbound), (decode_inbound, encode_inbound)):
        try:
            content = decode(data)
        except DecodeError:
            continue
        assert encode(content) == data


@given(both_ways, st.integers(0, OUTBOUND_CONTENT_BYTES - 1), st.integers(1, 255))
def test_every_encoding_is_the_only_one(content, position, change):
    damaged = bytearray(encode_outbound(content))
    damaged[position] ^= change
    try:
        decoded = decode_outbound(bytes(damaged))
    except DecodeError:
        return
    assert decoded != content
    assert encode_outbound(decoded) == damaged


def test_contents_of_the_other_direction_are_malformed():
    response = encode_inbound(Response(MESSAGE, noise(ANSWER_CELL_BYTES)))
    fragment = encode_outbound(CloveFragment(MESSAGE, 0, 1, b"x", DESTINATION))
    undelivered = encode_inbound(Undelivered(MESSAGE))
    with pytest.raises(DecodeError):
        decode_inbound(fragment.ljust(INBOUND_CONTENT_BYTES, b"\0"))
    with pytest.raises(DecodeError):
        decode_outbound(undelivered[:OUTBOUND_CONTENT_BYTES])
    with pytest.raises(DecodeError):
        decode_outbound(response[:OUTBOUND_CONTENT_BYTES])


@pytest.mark.parametrize(
    "fragment",
    [
        pytest.param(CloveFragment(MESSAGE, 1, 1, b"x"), id="index beyond count"),
        pytest.param(
            CloveFragment(MESSAGE, 1, MAX_CLOVE_FRAGMENTS + 1, noise(NEXT_FRAGMENT_BYTES)), id="count"
        ),
        pytest.param(
            CloveFragment(MESSAGE, 1, 3, noise(NEXT_FRAGMENT_BYTES - 1)), id="short before the last"
        ),
        pytest.param(CloveFragment(MESSAGE, 0, 2, b"x", DESTINATION), id="first short"),
        pytest.param(CloveFragment(MESSAGE, 2, 3, b""), id="empty"),
        pytest.param(CloveFragment(MESSAGE, 0, 1, b"", DESTINATION), id="empty and only"),
        pytest.param(CloveFragment(MESSAGE[:3], 0, 1, b"", None), id="cut short"),
    ],
)
def test_impossible_fragment_is_malformed(fragment):
    with pytest.raises(DecodeError):
        decode_outbound(encode_outbound(fragment))
