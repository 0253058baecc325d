"""Whatever a client posts, the API answers with a prompt that can be sent or with a 400, and with nothing else."""

import dataclasses
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from node.api.body import parse_json_untrusted
from node.api.openai_requests import parse_chat, parse_text
from node.api.problem import Problem
from overlay.wire.prompt_codec import decode_prompt_message, encode_prompt_message
from tests.support.answers import a_request

NAMES = (  # noqa: SIM905 -- reads better
    "model messages prompt temperature top_p top_k max_tokens max_completion_tokens seed stop stream stream_options"
    " n logprobs top_logprobs tools tool_choice response_format logit_bias presence_penalty"
    " frequency_penalty repetition_penalty min_tokens echo suffix user zzz"
).split()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant", "developer", "tool"]) | VALUES},
        optional={"content": st.text() | VALUES, "name": VALUES, "tool_calls": VALUES},
    ),
    max_size=4,
)
BODIES = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6)
LIKELY = st.fixed_dictionaries(
    {"model": st.just("m")},
    optional={
        "messages": TURNS,
        "prompt": st.text(max_size=30) | VALUES,
        "temperature": st.floats() | st.integers(),
        "seed": st.integers(),
        "min_tokens": st.integers(),
        "repetition_penalty": st.floats() | VALUES,
        "frequency_penalty": st.floats(-3, 3),
        "logit_bias": st.dictionaries(
            st.integers(-9, 10**10).map(str) | st.text(max_size=5), st.floats() | VALUES
        ),
        "logprobs": st.booleans() | st.integers(-1, 30),
        "top_logprobs": st.integers(-1, 30),
        "stop": st.text(max_size=5) | st.lists(st.text(max_size=5), max_size=10) | VALUES,
    },
)


def parsed_or_refused(parse, raw):
    try:
        return parse(parse_json_untrusted(raw))
    except Problem as problem:
        return problem


def message_of(prompt):
    return dataclasses.replace(a_request().message, prompt=prompt)


def refused_or_sound(raw: bytes) -> None:
    for parse in (parse_chat, parse_text):
        asked = parsed_or_refused(parse, raw)
        if isinstance(asked, Problem):
            assert asked.status == 400
            json.dumps(asked.body()).encode()
            continue
        prompt = asked.prompt
        assert len(prompt.nonce) == 32
        assert bool(prompt.messages) != (prompt.text is not None)
        for text in (
            prompt.model,
            prompt.text or "",
            *prompt.sampler.stop,
            *(m.content for m in prompt.messages),
        ):
            text.encode("utf-8")
        assert 0 <= prompt.sampler.temperature <= 2
        assert 0 < prompt.sampler.top_p <= 1
        assert decode_prompt_message(encode_prompt_message(message_of(prompt))).prompt == prompt


@given(st.binary(max_size=300))
@example(b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}')
@example(b'{"model": "m", "prompt": "x", "seed": 1e400}')
def test_any_bytes(raw):
    refused_or_sound(raw)


@given(BODIES | LIKELY)
def test_any_json_in_roughly_the_right_shape(body):
    refused_or_sound(json.dumps(body).encode())


@pytest.mark.parametrize("text", ['{"a":' * 5000, "[" * 90_000, '{"a":1}' * 2, '"' + "a" * 10])
def test_depth_and_trailing_rubbish(text):
    refused_or_sound(text.encode())
