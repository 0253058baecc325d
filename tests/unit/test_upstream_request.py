"""A prompt as an OpenAI-compatible server gets it, and what its refusals mean."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.errors import EngineBusyError, EngineError, PromptRefusedError
from node.engine.upstream_request import read_retry_after, refusal_of, request_of, seed_of
from overlay.wire.prompt import ChatMessage, Prompt, SamplerSpec

CHAT = Prompt(
    model="llama-8b",
    messages=(ChatMessage("system", "Be brief."), ChatMessage("user", "why?")),
    sampler=SamplerSpec(temperature=0.7, top_p=0.9, max_tokens=30),
    nonce=b"\x05" * 32,
)


def body_of(prompt, context_tokens=2048):
    return request_of(prompt, "meta/llama", context_tokens)[1]


def with_sampler(**changes):
    return replace(CHAT, sampler=replace(CHAT.sampler, **changes))


def test_a_conversation_goes_to_chat_completions():
    assert request_of(CHAT, "meta/llama", 2048) == (
        "chat/completions",
        {
            "model": "meta/llama",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "why?"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.7,
            "top_p": 0.9,
            "max_tokens": 30,
            "seed": seed_of(CHAT.nonce),
        },
    )


def test_a_text_goes_to_completions_as_it_is():
    path, body = request_of(replace(CHAT, messages=(), text="Once upon"), "meta/llama", 2048)
    assert (path, body["prompt"], "messages" in body) == ("completions", "Once upon", False)


def test_top_k_and_stop_are_sent_only_where_they_restrict():
    assert body_of(with_sampler(top_k=40, stop=("\n",)))["top_k"] == 40
    assert body_of(with_sampler(top_k=40, stop=("\n",)))["stop"] == ["\n"]
    assert not {"top_k", "stop"} & body_of(CHAT).keys()


@pytest.mark.parametrize("greedy", [{"temperature": 0.0}, {"top_p": 0.0}])
def test_a_greedy_sampler_is_temperature_0_and_nothing_else(greedy):
    body = body_of(with_sampler(top_k=4, **greedy))
    assert (body["temperature"], body["top_p"], "top_k" in body) == (0.0, 1.0, False)


def test_no_more_tokens_are_asked_for_than_the_context_holds():
    assert body_of(with_sampler(max_tokens=4096), context_tokens=1024)["max_tokens"] == 1024


def test_penalties_and_biases_are_sent_only_where_they_change_something():
    asked = {"presence_penalty": 0.5, "frequency_penalty": -1.0, "repetition_penalty": 1.2, "min_tokens": 3}
    body = body_of(with_sampler(**asked, logit_bias=((17, -2.5),)))
    assert {name: body[name] for name in asked} == asked
    assert body["logit_bias"] == {"17": -2.5}
    assert not {*asked, "logit_bias"} & body_of(CHAT).keys()


def test_log_probabilities_are_refused_rather_than_left_out():
    with pytest.raises(PromptRefusedError, match="log-probabilities"):
        body_of(with_sampler(logprobs=0))


@given(st.binary(min_size=32, max_size=32))
def test_the_seed_is_fixed_by_the_nonce_and_fits_every_server(nonce):
    assert seed_of(nonce) == seed_of(nonce)
    assert 0 <= seed_of(nonce) < 1 << 31


@given(st.none() | st.text(max_size=8) | st.floats().map(str) | st.integers().map(str))
def test_a_time_to_come_again_is_within_reason(value):
    assert 1.0 <= read_retry_after(value, 10.0) <= 3600.0
    assert math.isfinite(read_retry_after(value, 10.0))


@given(st.integers(100, 599), st.binary(max_size=60))
def test_every_status_has_one_error_and_none_tells_the_key(status, body):
    error = refusal_of(status, body + b"sk-1", alias="a", retry_after=None, guess_s=3.0, secret="sk-1")
    assert isinstance(error, EngineError)
    assert "sk-1" not in str(error)


@pytest.mark.parametrize(
    ("value", "wanted"), [("17", 17), ("0", 1), ("9e9", 3600), ("nan", 4), (None, 4), ("soon", 4)]
)
def test_retry_after_is_honoured(value, wanted):
    error = refusal_of(429, b"", alias="a", retry_after=value, guess_s=4.0, secret=None)
    assert isinstance(error, EngineBusyError)
    assert error.retry_after_s == wanted
