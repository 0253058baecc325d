"""Handed prompts and the messages they travel in: nothing is lost on the way, and hostile bytes are a DecodeError."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import DecodeError
from crypto.identity import NodeId
from overlay.errors import LocalProtocolError
from overlay.wire.group import GroupId
from overlay.wire.group_codec import LOAD_BYTES
from overlay.wire.handover import (
    HAND_ID_BYTES,
    MAX_HOPS,
    MAX_WAIT_S,
    EventsPart,
    HandedPrompt,
    HandEnded,
    PromptPart,
    WaitAsked,
    WaitTold,
    decode_handed,
    encode_handed,
)
from overlay.wire.limits import MAX_ASKED_BLOCKS, MAX_HAND_BYTES, MAX_HAND_OTHERS, MAX_HAND_PART_BYTES
from overlay.wire.messages import FRAME_HEADER_BYTES, decode_message, encode_message
from overlay.wire.records import pack_record, unpack_record
from tests.fuzz import fuzz_handover
from tests.fuzz.fuzz_handover import HANDED
from tests.support.answers import prompt_messages

member_ids = st.binary(min_size=32, max_size=32).map(NodeId)
waits = st.floats(0, MAX_WAIT_S).map(abs)
others = st.lists(st.tuples(member_ids, waits), max_size=MAX_HAND_OTHERS).map(tuple)
given_ids = st.lists(st.integers(0, 2**32 - 1), max_size=20).map(tuple)


@st.composite
def handed_prompts(draw):
    task = dataclasses.replace(draw(prompt_messages()).task, given=draw(given_ids))
    return HandedPrompt(task, draw(st.integers(0, MAX_HOPS)), draw(others))


groups = st.binary(min_size=16, max_size=16).map(GroupId)
hands = st.binary(min_size=HAND_ID_BYTES, max_size=HAND_ID_BYTES)
blocks = st.binary(min_size=8, max_size=8)
parts = st.binary(max_size=200)
messages = st.one_of(
    st.builds(WaitAsked, groups, hands, st.lists(blocks, max_size=20).map(tuple)),
    st.builds(
        WaitTold,
        groups,
        hands,
        st.binary(min_size=LOAD_BYTES, max_size=LOAD_BYTES),
        st.integers(0, MAX_ASKED_BLOCKS),
    ),
    st.builds(PromptPart, groups, hands, st.booleans(), st.binary(min_size=1, max_size=200)),
    st.builds(EventsPart, hands, st.booleans(), parts),
    st.builds(HandEnded, hands),
)
GROUP, HAND = GroupId(b"a group of nodes"), b"the hand"
LARGEST = [
    WaitAsked(GROUP, HAND, (b"a block!",) * MAX_ASKED_BLOCKS),
    WaitTold(GROUP, HAND, bytes(LOAD_BYTES), MAX_ASKED_BLOCKS),
    PromptPart(GROUP, HAND, is_last=True, data=bytes(MAX_HAND_PART_BYTES)),
    EventsPart(HAND, is_last=True, data=bytes(MAX_HAND_PART_BYTES)),
]


def body_of(message):
    return encode_message(message)[FRAME_HEADER_BYTES:]


def repack(body, **changes):
    """The body of a message with some fields changed, by their places."""
    fields = unpack_record(body)
    for place, value in changes.items():
        fields[int(place[1:])] = value
    return pack_record(tuple(fields))


@given(handed_prompts())
def test_a_handed_prompt_survives_the_codec(handed):
    assert decode_handed(encode_handed(handed)) == handed


@given(messages)
def test_messages_survive_their_frames(message):
    assert decode_message(body_of(message)) == message


@pytest.mark.parametrize("message", LARGEST, ids=lambda message: type(message).__name__)
def test_the_largest_messages_survive_and_larger_ones_are_malformed(message):
    body = body_of(message)
    assert decode_message(body) == message
    *_, last = unpack_record(body)
    larger = last + bytes(8) if isinstance(last, bytes) else last + 1
    with pytest.raises(DecodeError):
        decode_message(pack_record((*unpack_record(body)[:-1], larger)))


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        (WaitAsked(GROUP, HAND, (b"a block!",)), {"_1": GROUP[1:]}),
        (WaitAsked(GROUP, HAND, (b"a block!",)), {"_2": HAND + b"x"}),
        (WaitAsked(GROUP, HAND, (b"a block!",)), {"_3": b"no whole blocks"}),
        (WaitAsked(GROUP, HAND, (b"a block!",)), {"_3": "a text"}),
        (LARGEST[1], {"_3": bytes(LOAD_BYTES + 1)}),
        (LARGEST[1], {"_3": b""}),
        (LARGEST[1], {"_4": -1}),
        (LARGEST[1], {"_4": True}),
        (LARGEST[2], {"_3": 2}),
        (LARGEST[3], {"_2": None}),
        (HandEnded(HAND), {"_1": b""}),
    ],
)
def test_a_message_of_another_shape_is_malformed(message, changes):
    with pytest.raises(DecodeError):
        decode_message(repack(body_of(message), **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"_0": 1},
        {"_0": 3},
        {"_0": None},
        {"_1": MAX_HOPS + 1},
        {"_1": -1},
        {"_1": True},
        {"_2": None},
        {"_2": ((bytes(32), 0.0),) * (MAX_HAND_OTHERS + 1)},
        {"_2": ((bytes(31), 0.0),)},
        {"_2": ((bytes(32), 1),)},
        {"_2": ((bytes(32), -0.0),)},
        {"_2": ((bytes(32), float("inf")),)},
        {"_2": ((bytes(32), float("nan")),)},
        {"_2": ((bytes(32), MAX_WAIT_S * 2),)},
        {"_2": ((bytes(32), 0.0, 0),)},
        {"_2": ((bytes(32),),)},
        {"_8": bytes(31)},
        {"_9": "everybody"},
        {"_11": b"abc"},
    ],
)
def test_a_handed_prompt_of_another_shape_is_malformed(changes):
    with pytest.raises(DecodeError):
        decode_handed(repack(encode_handed(HANDED), **changes))


@pytest.mark.parametrize("length", [*range(12), 13, 16, 17])
def test_a_handed_prompt_has_its_number_of_fields(length):
    fields = [*unpack_record(encode_handed(HANDED)), *[None] * 9]
    with pytest.raises(DecodeError):
        decode_handed(pack_record(tuple(fields[:length])))


def test_a_handed_prompt_that_is_too_long_is_neither_sent_nor_read():
    prompt = dataclasses.replace(HANDED.task.prompt, text="x" * MAX_HAND_BYTES)
    with pytest.raises(LocalProtocolError, match="can't be handed over"):
        encode_handed(dataclasses.replace(HANDED, task=dataclasses.replace(HANDED.task, prompt=prompt)))
    with pytest.raises(DecodeError, match="too long"):
        decode_handed(bytes(MAX_HAND_BYTES + 1))


def test_more_others_than_may_be_told_and_longer_waits_are_cut():
    told = decode_handed(
        encode_handed(dataclasses.replace(HANDED, others=((HANDED.others[0][0], 1e9),) * 20))
    )
    assert told.others == ((HANDED.others[0][0], MAX_WAIT_S),) * MAX_HAND_OTHERS


SEEDS = [encode_handed(HANDED), *(body_of(message) for message in LARGEST[1:2]), body_of(HandEnded(HAND))]
SEEDS.append(body_of(WaitAsked(GROUP, HAND, (b"a block!",) * 3)))
SEEDS.append(body_of(PromptPart(GROUP, HAND, is_last=True, data=b"data")))


@st.composite
def damaged(draw):
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


records = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 40)
    | st.binary(max_size=33)
    | st.text(max_size=9)
    | st.floats(),
    st.lists,
)


@pytest.mark.parametrize(
    "target",
    [
        fuzz_handover.fuzz_handed_prompt,
        fuzz_handover.fuzz_handed_prompt_changed,
        fuzz_handover.fuzz_hand_message,
    ],
)
@given(data=st.one_of(st.binary(max_size=2000), damaged(), records.map(lambda value: pack_record((value,)))))
def test_targets_raise_nothing(target, data):
    target(data)
