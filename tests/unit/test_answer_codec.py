import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import DecodeError
from overlay.errors import LocalProtocolError
from overlay.wire.answer import (
    AnswerFailed,
    AnswerFinished,
    RankedToken,
    ReceiptIssued,
    TokenLogprobs,
    TokensGenerated,
)
from overlay.wire.answer_codec import EventReader, decode_event, encode_event, frame_event
from overlay.wire.limits import MAX_EVENT_BYTES
from overlay.wire.records import pack_record
from tests.support.answers import answer_events


@given(answer_events)
def test_an_event_survives_the_codec(event):
    assert decode_event(encode_event(event)) == event


@given(st.binary(max_size=300))
def test_decoder_raises_only_decode_error_on_noise(data):
    try:
        event = decode_event(data)
    except DecodeError:
        return
    assert decode_event(encode_event(event)) == event


@given(
    st.lists(st.none() | st.booleans() | st.integers(-1, 6) | st.floats() | st.text(max_size=5), max_size=6)
)
def test_decoder_raises_only_decode_error_on_other_records(fields):
    try:
        event = decode_event(pack_record(tuple(fields)))
    except DecodeError:
        return
    assert encode_event(event)


@given(st.lists(answer_events, max_size=8), st.data())
def test_events_come_out_whole_however_the_stream_is_cut(events, data):
    stream = b"".join(frame_event(event) for event in events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader = EventReader()
    got = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += reader.feed(stream[start:end])
    assert got == events
    assert reader.is_between_events


def test_a_frame_that_claims_too_much_is_refused_before_it_is_held():
    with pytest.raises(DecodeError, match="length"):
        EventReader().feed((MAX_EVENT_BYTES + 1).to_bytes(4, "big"))


@pytest.mark.parametrize(
    "fields", [(), (0,), (6,), (True,), (1, 1), (2, "x"), (2, "x", -1), (3, "tired", 1, 1, 1), (4, b"")]
)
def test_a_record_of_no_event_is_refused(fields):
    with pytest.raises(DecodeError):
        decode_event(pack_record(fields))


@pytest.mark.parametrize(
    "event",
    [
        TokensGenerated("x" * 70_000, 1),
        TokensGenerated("x", -1),
        TokensGenerated("xy", 2, (TokenLogprobs(RankedToken(b"x", -1.0)),)),
        TokensGenerated("x", 1, (TokenLogprobs(RankedToken(b"x", 0.5)),)),
        TokensGenerated("x", 1, (TokenLogprobs(RankedToken(b"x" * 1025, -0.5)),)),
        TokensGenerated("x", 1, (TokenLogprobs(RankedToken(b"x", float("-inf"))),)),
        AnswerFinished("tired", 1, 1, 0),
        ReceiptIssued(b""),
        ReceiptIssued(bytes(MAX_EVENT_BYTES)),
        AnswerFailed("busy", "later", float("inf")),
        AnswerFailed("", "no code"),
    ],
)
def test_an_event_out_of_bounds_is_never_sent(event):
    with pytest.raises(LocalProtocolError):
        encode_event(event)
