"""What an upstream engine streams, as events: bytes cut anywhere, text within bounds, clear errors for nonsense."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import DecodeError
from node.engine.errors import UpstreamDownError, UpstreamMalformedError
from node.engine.openai_codec import (
    Chunk,
    Usage,
    decode_chunk,
    decode_complaint,
    decode_models,
)
from node.engine.sse import MAX_LINE_BYTES, SseReader
from node.engine.upstream_answer import UpstreamAnswer
from overlay.wire.prompt import SamplerSpec
from tests.support.upstream_server import DONE, ended, event, said

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def read(data, *, max_tokens=50, stop=(), size=7):
    """The text, how it ended, and the counts, when the bytes come in pieces of this size."""
    answer = UpstreamAnswer(SamplerSpec(max_tokens=max_tokens, stop=stop))
    told = []
    for at in range(0, len(data), size):
        if not answer.is_over:
            told += answer.feed(data[at : at + size])
    rest, reason = answer.finish()
    told += rest
    return "".join(piece.text for piece in told), reason, answer.usage, sum(piece.count for piece in told)


# --- events -------------------------------------------------------------------------------------------


@given(st.lists(texts, max_size=8), st.integers(1, 40))
def test_text_is_what_was_said_however_the_bytes_are_cut(pieces, size):
    data = b"".join(map(said, pieces)) + ended() + DONE
    text, reason, usage, count = read(data, size=size)
    assert text == "".join(pieces)
    assert (reason, usage) == ("stop", Usage(7, 3, 0))
    assert count == sum(bool(piece) for piece in pieces)


@given(st.lists(texts.filter(bool), min_size=1, max_size=8), st.integers(1, 3))
def test_no_part_of_a_stop_string_is_shown_by_a_server_that_does_not_heed_it(pieces, length):
    whole = "".join(pieces)
    stop = whole[-length:]
    text, reason, _, _ = read(b"".join(map(said, pieces)) + ended("length"), stop=(stop,))
    assert text == whole[: whole.index(stop)]
    assert reason == "stop"


def test_a_server_that_ends_after_its_reason_has_ended_well():
    for end in (ended("length"), ended("length") + DONE, event({"choices": [{"finish_reason": "length"}]})):
        assert read(said("a") + end)[:2] == ("a", "length")


def test_usage_may_follow_in_an_event_of_its_own():
    late = event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})
    data = said("a") + event({"choices": [{"delta": {}, "finish_reason": "stop"}]}) + late + DONE
    assert read(data)[2] == Usage(5, 2, 0)


def test_without_usage_pieces_are_counted():
    data = said("a") + said("b") + event({"choices": [{"finish_reason": "stop"}], "usage": None}) + DONE
    assert read(data)[2] == Usage(0, 2, 0)


def test_a_server_that_does_not_count_is_cut_off_at_the_length_asked_for():
    data = b"".join(said(f"{number} ") for number in range(9))
    text, reason, usage, _ = read(data, max_tokens=4)
    assert (text, reason, usage) == ("0 1 2 3 ", "length", Usage(0, 4, 0))


def test_thoughts_of_a_model_are_no_part_of_its_answer():
    thought = event({"choices": [{"delta": {"reasoning_content": "hm", "content": None}}]})
    assert read(thought + said("a") + ended())[0] == "a"


@pytest.mark.parametrize("end", [b"", DONE, ended("tool_calls"), ended("abort"), event({"error": "oops"})])
def test_an_answer_without_a_proper_end_was_broken_off(end):
    with pytest.raises(UpstreamDownError):
        read(said("a") + end)


@given(st.lists(st.binary(max_size=60) | json_values.map(lambda value: event(value)), max_size=6))
def test_hostile_bytes_are_an_answer_or_one_of_two_errors(parts):
    with suppress(UpstreamMalformedError, UpstreamDownError):
        text, reason, usage, _ = read(b"".join(parts))
        assert reason in ("stop", "length")
        assert usage.cached_tokens <= usage.prompt_tokens
        text.encode()


# --- the stream ---------------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.integers(1, 50))
def test_stream_reader_raises_only_decode_error_and_does_not_care_where_bytes_are_cut(data, size):
    def events(step):
        reader = SseReader(10_000)
        return [found for at in range(0, len(data), step) for found in reader.feed(data[at : at + step])]

    with suppress(DecodeError):
        assert events(size) == events(len(data) or 1)


def test_comments_other_fields_and_carriage_returns_are_passed_over():
    stream = b": ping\r\nevent: message\r\nid: 4\r\ndata: one\r\ndata:two\r\n\r\n\n\ndata\n\n"
    assert SseReader(1000).feed(stream) == ["one\ntwo"]


@pytest.mark.parametrize(
    "data",
    [
        b"x" * (MAX_LINE_BYTES + 1),
        b"data: " + b"x" * MAX_LINE_BYTES + b"\n",
        b"data: x\n" * (MAX_LINE_BYTES // 4),
        b"data: \xff\n",
        b"\n" * 200_001,
    ],
)
def test_a_stream_out_of_bounds_is_malformed(data):
    with pytest.raises(DecodeError):
        SseReader(200_000).feed(data)


# --- values -------------------------------------------------------------------------------------------


@given(json_values)
def test_decoders_raise_only_decode_error(value):
    data = json.dumps(value)
    with suppress(DecodeError):
        assert isinstance(decode_chunk(data), Chunk)
    with suppress(DecodeError):
        assert isinstance(decode_models(data.encode()), dict)
    assert decode_complaint(data.encode()) is None or isinstance(decode_complaint(data.encode()), str)


@pytest.mark.parametrize("data", ["", "{", "[" * 100_000, "1" * 5000, '{"choices": [' + '{"a":' * 100_000])
def test_hostile_json_is_a_decode_error(data):
    for decode in (decode_chunk, lambda text: decode_models(text.encode())):
        with pytest.raises(DecodeError):
            decode(data)


@pytest.mark.parametrize(
    "fields",
    [
        {"choices": {}},
        {"choices": [1]},
        {"choices": [{}, {}]},
        {"choices": [{"delta": []}]},
        {"choices": [{"delta": {"content": 4}}]},
        {"choices": [{"delta": {"content": "\ud800"}}]},
        {"choices": [{"text": ["a"]}]},
        {"choices": [{"finish_reason": ""}]},
        {"choices": [{"finish_reason": "x" * 600}]},
        {"usage": 4},
        {"usage": {}},
        {"usage": {"prompt_tokens": True, "completion_tokens": 1}},
        {"usage": {"prompt_tokens": 1, "completion_tokens": 1 << 25}},
        {
            "usage": {
                "prompt_tokens": 1,
                "completion_tokens": 1,
                "prompt_tokens_details": {"cached_tokens": "a"},
            }
        },
    ],
)
def test_a_chunk_of_another_shape_is_refused(fields):
    with pytest.raises(DecodeError):
        decode_chunk(json.dumps(fields))


def test_tokens_from_the_servers_cache_are_told():
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}}
    assert decode_chunk(json.dumps({"usage": usage})).usage == Usage(9, 1, 8)


def test_models_say_their_context_as_vllm_and_llama_cpp_do():
    listed = [
        {"id": "v", "max_model_len": 4096},
        {"id": "l", "meta": {"n_ctx": 2048, "n_ctx_train": 8192}},
        {"id": "t", "meta": {"n_ctx_train": 8192}},
        {"id": "o", "max_model_len": None, "meta": None},
        {"id": "bad", "max_model_len": -1},
    ]
    served = decode_models(json.dumps({"data": listed}).encode())
    assert served == {"v": 4096, "l": 2048, "t": 8192, "o": None, "bad": None}


@pytest.mark.parametrize(
    ("body", "said_"),
    [
        (b'{"error": {"message": "why"}}', "why"),
        (b'{"error": "why"}', "why"),
        (b'{"detail": "why"}', "why"),
        (b'{"message": "why"}', "why"),
        (b'{"detail": [{"msg": "why"}]}', None),
        (b"<html>", None),
    ],
)
def test_a_complaint_is_found_where_servers_put_it(body, said_):
    assert decode_complaint(body) == said_
