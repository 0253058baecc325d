"""Log entries and loads of a group: one encoding each, nothing out of bounds, nobody signs for another."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import AuthenticationError, CryptoError, DecodeError
from overlay.errors import LocalProtocolError
from overlay.wire.group import GroupId, Load, LoadReport, LogEntry, Speed, group_id
from overlay.wire.group_codec import (
    LOAD_BYTES,
    LOAD_CONTEXT,
    LOG_CONTEXT,
    MAX_ENTRY_BYTES,
    MAX_INCARNATION,
    MAX_SEQ,
    decode_load,
    decode_log_entry,
    sign_load,
    sign_log_entry,
)
from overlay.wire.limits import MAX_ENTRY_BLOCKS
from tests.support.descriptors import MODEL_ID, fixed_key
from tests.support.groups import IDLE, SPEED

ALICE, MALLORY = fixed_key("alice"), fixed_key("mallory")
GROUP = GroupId(bytes(range(16)))

block_lists = st.lists(st.binary(min_size=8, max_size=8), max_size=40, unique=True)


@st.composite
def entries(draw):
    blocks, seq = draw(block_lists), draw(st.integers(0, MAX_SEQ))
    cut = draw(st.integers(0, len(blocks)))
    back = draw(st.integers(0, min(seq, 4095)))
    incarnation = draw(st.integers(0, MAX_INCARNATION))
    return LogEntry(ALICE.node_id, incarnation, seq, seq - back, tuple(blocks[:cut]), tuple(blocks[cut:]))


def seconds(low, high):
    return st.floats(low, high, width=32).map(abs)


speeds = st.builds(
    Speed,
    prefill_token_s=seconds(2.0**-30, 60),
    attended_s=seconds(0, 1),
    mixed_step_s=seconds(0, 600),
    mixed_tokens=st.integers(1, 1 << 20),
)
loads = st.builds(
    Load,
    queued_tokens=st.integers(0, 1 << 24),
    decoding=st.integers(0, 4096),
    free_slots=st.integers(0, 4096),
    answer_s=seconds(0, 86_400),
    decoding_s=seconds(0, 86_400),
)
reports = st.builds(
    LoadReport,
    st.just(ALICE.node_id),
    st.integers(0, MAX_INCARNATION),
    st.integers(0, MAX_SEQ),
    speeds,
    loads,
)


def entry(**changes):
    return replace(LogEntry(ALICE.node_id, 7, 5, 3, (b"stored 1",), (b"evicted1",)), **changes)


def report(**changes):
    return LoadReport(
        ALICE.node_id, 7, 5, replace(SPEED, **changes.pop("speed", {})), replace(IDLE, **changes)
    )


@settings(deadline=None)
@given(entries())
def test_an_entry_survives_a_round_trip(found):
    signed = decode_log_entry(sign_log_entry(ALICE.sign, GROUP, found), GROUP)
    assert signed.signer == ALICE.node_id
    assert signed.check() == found


@settings(deadline=None)
@given(reports)
def test_a_load_survives_a_round_trip(found):
    assert decode_load(sign_load(ALICE.sign, GROUP, found), GROUP).check() == found


@pytest.mark.parametrize("decode", [decode_log_entry, decode_load])
@settings(deadline=None)
@given(data=st.binary(max_size=300) | st.binary(min_size=LOAD_BYTES, max_size=LOAD_BYTES))
def test_decoders_raise_only_decode_error(decode, data):
    with pytest.raises(CryptoError):
        decode(data, GROUP).check()


@settings(deadline=None)
@given(st.data())
def test_a_changed_byte_is_malformed_or_not_signed(data):
    for sign, decode, value in (
        (sign_log_entry, decode_log_entry, entry()),
        (sign_load, decode_load, report()),
    ):
        blob = bytearray(sign(ALICE.sign, GROUP, value))
        blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
        with pytest.raises(CryptoError):
            decode(bytes(blob), GROUP).check()


def test_nobody_signs_for_another_nor_in_another_group_nor_for_another_purpose():
    other = GroupId(bytes(16))
    blob = sign_log_entry(ALICE.sign, GROUP, entry())
    forged = sign_log_entry(MALLORY.sign, GROUP, entry())
    crossed = ALICE.sign(LOAD_CONTEXT, GROUP + blob[64:]) + blob[64:]
    for data, group in ((forged, GROUP), (blob, other), (crossed, GROUP)):
        with pytest.raises(AuthenticationError):
            decode_log_entry(data, group).check()


@pytest.mark.parametrize(
    "changes",
    [
        {"incarnation": MAX_INCARNATION + 1},
        {"incarnation": -1},
        {"seq": MAX_SEQ + 1, "base": MAX_SEQ + 1},
        {"seq": 2},
        {"seq": 4096, "base": 0},
        {"base": -1, "seq": 0},
        {"stored": (b"evicted1",)},
        {"stored": (b"stored 1", b"stored 1")},
        {"stored": (b"short",)},
        {"stored": (b"4444", b"4444")},
        {"stored": tuple(number.to_bytes(8, "big") for number in range(MAX_ENTRY_BLOCKS))},
        {"origin": bytes(32)},
    ],
)
def test_an_entry_out_of_bounds_is_not_told(changes):
    with pytest.raises(LocalProtocolError):
        sign_log_entry(ALICE.sign, GROUP, entry(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"queued_tokens": (1 << 24) + 1},
        {"queued_tokens": -1},
        {"decoding": 4097},
        {"free_slots": 1 << 20},
        {"answer_s": 86_401.0},
        {"answer_s": -0.0},
        {"answer_s": float("nan")},
        {"answer_s": float("inf")},
        {"speed": {"prefill_token_s": 0.0}},
        {"speed": {"prefill_token_s": 61.0}},
        {"speed": {"prefill_token_s": 1e300}},
        {"speed": {"attended_s": -1.0}},
        {"speed": {"mixed_step_s": 601.0}},
        {"decoding_s": 86_401.0},
        {"speed": {"mixed_tokens": 0}},
        {"speed": {"mixed_tokens": (1 << 20) + 1}},
    ],
)
def test_an_absurd_speed_or_load_is_not_told(changes):
    with pytest.raises(LocalProtocolError):
        sign_load(ALICE.sign, GROUP, report(**changes))


def test_an_absurd_speed_or_load_that_is_signed_is_malformed():
    body = bytearray(sign_load(ALICE.sign, GROUP, report())[64:])
    for at, value in ((43, b"\x7f\x80\0\0"), (43, bytes(4)), (47, b"\xff\xc0\0\0"), (59, b"\x01\0\0\x01")):
        changed = bytes(body[:at] + value + body[at + 4 :])
        with pytest.raises(DecodeError):
            decode_load(ALICE.sign(LOAD_CONTEXT, GROUP + changed) + changed, GROUP)


def test_an_entry_of_another_form_is_malformed():
    body = sign_log_entry(ALICE.sign, GROUP, entry())[64:]
    for changed in (b"\2" + body[1:], body + b"\0", body[:45] + b"\0\3" + body[47:], body[:46]):
        with pytest.raises(DecodeError):
            decode_log_entry(ALICE.sign(LOG_CONTEXT, GROUP + changed) + changed, GROUP)


def test_lengths_are_those_of_the_specification():
    full = entry(stored=(), evicted=tuple(number.to_bytes(8, "big") for number in range(MAX_ENTRY_BLOCKS)))
    assert len(sign_log_entry(ALICE.sign, GROUP, full)) == MAX_ENTRY_BYTES == 111 + 8 * MAX_ENTRY_BLOCKS
    assert len(sign_load(ALICE.sign, GROUP, report())) == LOAD_BYTES == 139


def test_groups_differ_by_network_model_and_arithmetic():
    ids = {
        group_id(network, model, numerics)
        for network in (b"a", b"ab")
        for model in (MODEL_ID, "m-" + "0" * 40)
        for numerics in ("torch-fp32", "int8-fp32")
    }
    assert len(ids) == 8
    assert {len(each) for each in ids} == {16}
