from contextlib import suppress

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import DecodeError
from overlay.wire import limits
from overlay.wire.group import Known
from overlay.wire.group_messages import NOTHING_WANTED, ROW_BYTES, GroupNews, GroupVector
from overlay.wire.messages import (
    FRAME_HEADER_BYTES,
    AnswerCellSent,
    AnswerRefused,
    CloveDelivered,
    ControlMessage,
    DescriptorsGiven,
    DescriptorsWanted,
    DirectoryDigest,
    DirectoryIndex,
    Heartbeat,
    Hello,
    LinkClosing,
    MessageReader,
    decode_message,
    encode_message,
)

tokens = st.binary(min_size=16, max_size=16)
ids = st.binary(min_size=32, max_size=32)
u64 = st.integers(0, 2**64 - 1)
vectors = st.dictionaries(
    st.binary(min_size=8, max_size=8) | st.just(b"a member"),
    st.builds(Known, st.integers(0, 2**48 - 1), st.integers(0, 2**32 - 2)),
    max_size=5,
)
messages: st.SearchStrategy[ControlMessage] = st.one_of(
    st.builds(
        Hello,
        st.integers(0, 2**16 - 1),
        st.binary(min_size=1, max_size=32),
        st.integers(0, 64),
        u64,
        st.binary(min_size=8, max_size=8),
    ),
    st.just(Heartbeat()),
    st.builds(LinkClosing, st.text(max_size=40)),
    st.builds(DirectoryDigest, st.integers(0, 2**32 - 1), ids),
    st.builds(DirectoryIndex, st.lists(st.tuples(ids, u64), max_size=5).map(tuple)),
    st.builds(DescriptorsWanted, st.lists(ids, max_size=5).map(tuple)),
    st.builds(DescriptorsGiven, st.lists(st.binary(min_size=1, max_size=50), max_size=5).map(tuple)),
    st.builds(CloveDelivered, tokens, st.binary(min_size=1, max_size=500)),
    st.builds(AnswerCellSent, tokens, st.binary(min_size=984, max_size=984)),
    st.builds(AnswerRefused, tokens),
    st.builds(GroupVector, tokens, vectors, vectors, st.booleans()),
    st.builds(
        GroupNews,
        tokens,
        st.lists(st.binary(min_size=1, max_size=200), max_size=5).map(tuple),
        st.lists(st.binary(min_size=1, max_size=139), max_size=5).map(tuple),
    ),
)


@given(messages)
def test_every_message_survives_the_wire(message):
    assert decode_message(encode_message(message)[FRAME_HEADER_BYTES:]) == message


@given(st.binary(max_size=200))
def test_decoder_raises_nothing_but_decode_error(data):
    with suppress(DecodeError):
        decode_message(data)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=40)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)


@given(st.integers(0, 60), st.lists(plain, max_size=6))
def test_decoder_raises_nothing_but_decode_error_on_wellformed_msgpack(kind, fields):
    try:
        message = decode_message(msgpack.packb([kind, *fields]))
    except DecodeError:
        return
    assert decode_message(encode_message(message)[FRAME_HEADER_BYTES:]) == message


@settings(deadline=None)  # thousands of cuts take their time on a busy machine
@given(st.lists(messages, max_size=6), st.data())
def test_reader_cuts_a_stream_into_messages_however_it_arrives(sent, data):
    stream = b"".join(map(encode_message, sent))
    reader, received = MessageReader(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        received += reader.feed(stream[:size])
        stream = stream[size:]
    assert received == sent


@pytest.mark.parametrize(
    "elements",
    [
        [99],
        [2, 1],
        [1, 1, b"net", 0, 0],
        [1, True, b"net", 0, 0, bytes(8)],
        [1, -1, b"net", 0, 0, bytes(8)],
        [1, 1, "net", 0, 0, bytes(8)],
        [1, 1, b"", 0, 0, bytes(8)],
        [33, bytes(16), bytes(983)],
        [34, bytes(15)],
        [17, bytes(41)],
        [3, "x" * 201],
        [19, [b""]],
        [19, b"blob"],
    ],
)
def test_decoder_refuses_wrong_fields(elements):
    with pytest.raises(DecodeError):
        decode_message(msgpack.packb(elements))


def test_decoder_refuses_trailing_bytes():
    with pytest.raises(DecodeError):
        decode_message(encode_message(Heartbeat())[FRAME_HEADER_BYTES:] + b"\0")


def test_decoder_refuses_deep_nesting():
    with pytest.raises(DecodeError):
        decode_message(b"\x92\x13" + b"\x91" * 1000 + b"\x90")


@pytest.mark.parametrize("kind", [1, 2, 3, 16, 33, 34])
def test_reader_refuses_a_long_frame_of_a_small_kind_before_it_has_come(kind):
    size = limits.MAX_SMALL_FRAME_BYTES + 1
    with pytest.raises(DecodeError):
        MessageReader().feed(size.to_bytes(4, "big") + bytes([0x92, kind]))


def test_reader_refuses_a_frame_longer_than_any_kind_by_its_length_alone():
    with pytest.raises(DecodeError):
        MessageReader().feed((1 << 20).to_bytes(4, "big"))


def test_longest_messages_fit_their_bounds():
    longest = [
        CloveDelivered(bytes(16), bytes(limits.MAX_SEALED_BYTES)),
        DirectoryIndex(((bytes(32), 2**64 - 1),) * limits.MAX_INDEX_ENTRIES),
        DescriptorsWanted((bytes(32),) * limits.MAX_WANTED_IDS),
        DescriptorsGiven((bytes(limits.MAX_DESCRIPTOR_BYTES),) * limits.MAX_GIVEN_DESCRIPTORS),
    ]
    for message in longest:
        assert MessageReader().feed(encode_message(message)) == [message]


def row(member=b"a member", incarnation=7, entries=1, loads=1):
    return member + incarnation.to_bytes(6, "big") + entries.to_bytes(4, "big") + loads.to_bytes(4, "big")


def vector_of(packed, is_reply=0):
    return decode_message(msgpack.packb([48, bytes(16), is_reply, packed]))


def test_a_log_and_a_load_of_one_incarnation_share_a_row():
    both = {b"a member": Known(7, 3)}
    shared = encode_message(GroupVector(bytes(16), both, both, is_reply=False))
    apart = encode_message(GroupVector(bytes(16), both, {b"a member": Known(8, 3)}, is_reply=False))
    assert len(apart) == len(shared) + ROW_BYTES


def test_what_a_vector_does_not_want_travels():
    message = vector_of(row(incarnation=NOTHING_WANTED.incarnation, entries=0, loads=2**32 - 1))
    assert (message.entries, message.loads) == ({b"a member": NOTHING_WANTED}, {})


@pytest.mark.parametrize(
    "packed",
    [
        row()[:-1],
        row() + row(),
        row(member=b"b" * 8) + row(),
        row(entries=2**32 - 1, loads=2**32 - 1),
        row(entries=1, loads=2**32 - 1) + row(incarnation=8, entries=2, loads=1),
        row() * (limits.MAX_VECTOR_ROWS + 1),
    ],
    ids=["half a row", "twice", "out of order", "says nothing", "two incarnations of a log", "too long"],
)
def test_a_vector_in_other_rows_is_malformed(packed):
    with pytest.raises(DecodeError):
        vector_of(packed)


def test_a_reply_is_said_by_one_number():
    assert vector_of(b"", 1).is_reply
    for wrong in (2, True, None):
        with pytest.raises(DecodeError):
            vector_of(b"", wrong)


@pytest.mark.parametrize(
    "fields",
    [
        [bytes(15), [], []],
        [bytes(16), [b""], []],
        [bytes(16), [b"x" * 4208], []],
        [bytes(16), [], [b"x" * 140]],
        [bytes(16), [b"x"] * (limits.MAX_NEWS_ITEMS + 1), []],
        [bytes(16), {}, []],
        [bytes(16), [b"x" * 4000] * 17, []],
    ],
)
def test_group_news_out_of_bounds_are_malformed(fields):
    with pytest.raises(DecodeError):
        decode_message(msgpack.packb([49, *fields]))
