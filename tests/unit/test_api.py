"""The local API over real HTTP: OpenAI's shapes, who may ask, and what a client is told when it fails."""

import hashlib
import json
from functools import partial

import httpx
import openai
import pytest
import trio

from node.api.ports import KeptAnswer, Readiness
from overlay.errors import AnswerError, NoRouteError
from overlay.wire.answer import (
    AnswerAccepted,
    AnswerFailed,
    AnswerFinished,
    RankedToken,
    TokenLogprobs,
    TokensGenerated,
)
from tests.support.api import ADMIN, served, test_config
from tests.support.service import ACCOUNT, MODEL, FakeService, script

CHAT = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Say hello"}]}
TEXT = {"model": "smollm2-135m", "prompt": "Say hello"}


async def post(service, path, body, headers=None, config=None):
    async with served(service, config) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:
        if isinstance(body, bytes):
            headers = {"Content-Type": "application/json", **(headers or {})}
            return await client.post(path, content=body, headers=headers)
        return await client.post(path, json=body, headers=headers)


async def get(service, path, headers=None, config=None):
    async with served(service, config) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:
        return await client.get(path, headers=headers)


def error(reply):
    return reply.json()["error"]


async def with_openai(service, call):
    """Run `call(client)` with the official client, unmodified, in a thread of its own."""
    async with served(service) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=20)
        try:
            return await trio.to_thread.run_sync(call, client)
        finally:
            client.close()


# --- the official client ----------------------------------------------------------------------------


async def test_openai_client_gets_a_whole_chat_answer():
    service = FakeService()
    answer = await with_openai(
        service,
        lambda c: c.chat.completions.create(
            **CHAT, seed=7, temperature=0.5, top_p=0.9, max_tokens=5, stop="x"
        ),
    )
    assert answer.choices[0].message.content == "Hello!"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        7,
        3,
        10,
    )
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    (prompt,) = service.prompts
    assert prompt.messages[0].content == "Say hello"
    sampler = prompt.sampler
    assert (sampler.temperature, sampler.top_p, sampler.max_tokens, sampler.stop) == (0.5, 0.9, 5, ("x",))


async def test_openai_client_streams_a_chat_answer_with_usage():
    def call(client):
        stream = client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
        return list(stream)

    chunks = await with_openai(FakeService(), call)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello!"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == 3
    assert len({c.id for c in chunks}) == 1


async def test_openai_client_streams_no_usage_unasked():
    chunks = await with_openai(FakeService(), lambda c: list(c.chat.completions.create(**CHAT, stream=True)))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


async def test_openai_client_completes_a_plain_text():
    service = FakeService(script("a", "b", reason="length"))
    answer = await with_openai(service, lambda c: c.completions.create(**TEXT))
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("ab", "length")
    assert service.prompts[0].text == "Say hello"
    chunks = await with_openai(service, lambda c: list(c.completions.create(**TEXT, stream=True)))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "ab"


async def test_openai_client_lists_models():
    models = await with_openai(FakeService(), lambda c: c.models.list())
    assert [model.id for model in models] == ["smollm2-135m"]
    model = await with_openai(FakeService(), lambda c: c.models.retrieve("smollm2-135m"))
    assert model.owned_by == "clovenet"


async def test_openai_client_raises_its_own_errors():
    def call(client):
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="gpt-9", messages=CHAT["messages"])
        return caught.value

    raised = await with_openai(FakeService(), call)
    assert raised.code == "model_not_found"
    assert "smollm2-135m" in str(raised)


async def test_openai_client_raises_when_a_stream_fails_midway():
    def call(client):
        texts = []
        chunks = client.chat.completions.create(**CHAT, stream=True)
        with pytest.raises(openai.APIError, match="the node died"):
            texts.extend(chunk.choices[0].delta.content for chunk in chunks)
        return "".join(texts)

    events = [AnswerAccepted(), TokensGenerated("Hel", 1), AnswerError("node_lost", "the node died")]
    assert await with_openai(FakeService(events), call) == "Hel"


def told(token, logprob, *likeliest):
    ranked = [RankedToken(*each) for each in ((token, logprob), *likeliest)]
    return TokenLogprobs(ranked[0], tuple(ranked[1:]))


# An answer whose second character takes two tokens, with an end token that shows no text.
TOLD = [
    AnswerAccepted(),
    TokensGenerated("a", 1, (told(b"a", -0.5, (b"a", -0.5), (b" b", -1.5)),)),
    TokensGenerated("", 1, (told(b"\xc3", -1.0, (b"\xc3", -1.0)),)),
    TokensGenerated("\u00e9", 1, (told(b"\xa9", 0.0),)),
    TokensGenerated("", 1, (told(b"<|end|>", -2.0),)),
    AnswerFinished("stop", 7, 4, 0),
]


async def test_openai_client_gets_log_probabilities_of_a_chat_whole_and_streamed():
    asked = CHAT | {"logprobs": True, "top_logprobs": 2}
    service = FakeService(TOLD)
    answer = await with_openai(service, lambda c: c.chat.completions.create(**asked))
    assert service.prompts[0].sampler.logprobs == 2
    assert answer.choices[0].message.content == "a\u00e9"
    entries = answer.choices[0].logprobs.content
    assert [bytes(entry.bytes) for entry in entries] == [b"a", b"\xc3", b"\xa9", b"<|end|>"]
    assert [entry.logprob for entry in entries] == [-0.5, -1.0, 0.0, -2.0]
    assert [(each.token, each.logprob) for each in entries[0].top_logprobs] == [("a", -0.5), (" b", -1.5)]
    chunks = await with_openai(service, lambda c: list(c.chat.completions.create(**asked, stream=True)))
    parts = [part.logprobs for chunk in chunks for part in chunk.choices if part.logprobs is not None]
    assert [entry for part in parts for entry in part.content] == entries
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "a\u00e9"


async def test_openai_client_gets_log_probabilities_of_a_plain_text_whole_and_streamed():
    asked = TEXT | {"logprobs": 2}
    answer = await with_openai(FakeService(TOLD), lambda c: c.completions.create(**asked))
    found = answer.choices[0].logprobs
    assert found.tokens == ["a", "bytes:\\xc3", "bytes:\\xa9", "<|end|>"]
    assert found.token_logprobs == [-0.5, -1.0, 0.0, -2.0]
    assert found.top_logprobs == [{"a": -0.5, " b": -1.5}, {"bytes:\\xc3": -1.0}, {}, {}]
    assert found.text_offset == [0, 1, 1, 2]
    chunks = await with_openai(FakeService(TOLD), lambda c: list(c.completions.create(**asked, stream=True)))
    parts = [part.logprobs for chunk in chunks for part in chunk.choices if part.logprobs is not None]
    assert [offset for part in parts for offset in part.text_offset] == found.text_offset
    assert [token for part in parts for token in part.tokens] == found.tokens


async def test_log_probabilities_that_nobody_asked_for_are_not_passed_on():
    answer = await with_openai(FakeService(TOLD), lambda c: c.chat.completions.create(**CHAT))
    assert answer.choices[0].logprobs is None
    chunks = await with_openai(
        FakeService(TOLD), lambda c: list(c.chat.completions.create(**CHAT, stream=True))
    )
    assert all(chunk.choices[0].logprobs is None for chunk in chunks)


# --- what a prompt becomes --------------------------------------------------------------------------


async def test_seed_keys_the_nonce_and_no_seed_is_fresh():
    service = FakeService()
    for extra in ({"seed": 42}, {"seed": 42}, {}, {}):
        await post(service, "/v1/chat/completions", CHAT | extra)
    seeded, again, fresh, other = (prompt.nonce for prompt in service.prompts)
    assert seeded == again == hashlib.blake2b(b"clove-seed/1" + b"42", digest_size=32).digest()
    assert fresh != other
    assert len(fresh) == 32


async def test_defaults_where_the_request_says_nothing():
    service = FakeService()
    await post(service, "/v1/chat/completions", CHAT)
    sampler = service.prompts[0].sampler
    assert (sampler.temperature, sampler.top_p, sampler.top_k, sampler.max_tokens) == (0.8, 1.0, 64, 256)


async def test_penalties_and_biases_are_passed_on_in_one_form():
    service = FakeService()
    asked = {
        "min_tokens": 3,
        "repetition_penalty": 1.2,
        "presence_penalty": -0.0,
        "frequency_penalty": 1,
        "temperature": -0.0,
        "logit_bias": {"50256": -100, "7": 0.5, "0": -0.0},
    }
    assert (await post(service, "/v1/chat/completions", CHAT | asked)).status_code == 200
    sampler = service.prompts[0].sampler
    assert sampler.logit_bias == ((0, 0.0), (7, 0.5), (50256, -100.0))
    assert (sampler.min_tokens, sampler.repetition_penalty, sampler.logprobs) == (3, 1.2, None)
    numbers = (
        sampler.temperature,
        sampler.presence_penalty,
        sampler.frequency_penalty,
        sampler.logit_bias[0][1],
    )
    assert [str(number) for number in numbers] == ["0.0", "0.0", "1.0", "0.0"]


async def test_parts_developer_role_and_newer_token_limit_are_understood():
    service = FakeService()
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Say "}, {"type": "text", "text": "hello"}]},
    ]
    body = {"model": MODEL.model_id, "messages": turns, "max_completion_tokens": 9, "top_k": 8, "user": "me"}
    assert (await post(service, "/v1/chat/completions", body)).status_code == 200
    (prompt,) = service.prompts
    assert [(m.role, m.content) for m in prompt.messages] == [("system", "Be brief."), ("user", "Say hello")]
    assert (prompt.sampler.max_tokens, prompt.sampler.top_k) == (9, 8)


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": 1}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 20, "max_tokens": 10_000}, "logprobs"),
        ({"top_logprobs": 2}, None),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 10, "max_tokens": 9}, "min_tokens"),
        ({"logit_bias": [5, 1]}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"5": "much"}}, "logit_bias.5"),
        ({"logit_bias": {"05": 1}}, "logit_bias.05.[key]"),
        ({"logit_bias": {"4294967296": 1}}, "logit_bias.4294967296.[key]"),
        ({"logit_bias": {str(token): 1 for token in range(65)}}, "logit_bias"),
        ({"temprature": 1}, "temprature"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": 65}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 2**70}, "seed"),
        ({"stop": ["a"] * 9}, "stop"),
        ({"stop": [""]}, "stop.0"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "  "}]}, None),
        ({"model": ""}, "model"),
    ],
)
async def test_what_cant_be_done_is_refused_by_name(extra, param):
    service = FakeService()
    reply = await post(service, "/v1/chat/completions", CHAT | extra)
    assert reply.status_code == 400
    assert error(reply)["type"] == "invalid_request_error"
    assert error(reply)["param"] == param
    assert not service.prompts


async def test_neutral_values_of_unsupported_fields_pass():
    body = CHAT | {
        "n": 1,
        "logprobs": False,
        "top_logprobs": None,
        "presence_penalty": 0,
        "logit_bias": {},
        "tools": None,
        "response_format": {"type": "text"},
    }
    assert (await post(FakeService(), "/v1/chat/completions", body)).status_code == 200
    for nothing in (None, False):
        assert (await post(FakeService(), "/v1/completions", TEXT | {"logprobs": nothing})).status_code == 200


@pytest.mark.parametrize(
    "extra",
    [
        {"prompt": ""},
        {"prompt": [1, 2]},
        {"prompt": ["a", "b"]},
        {"echo": True},
        {"logprobs": 21},
        {"logprobs": True},
        {"top_logprobs": 1},
    ],
)
async def test_plain_completion_refuses_what_it_cant_do(extra):
    assert (await post(FakeService(), "/v1/completions", TEXT | extra)).status_code == 400


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"a": NaN}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"seed": ' + b"9" * 10_000 + b"}",
        b'{"model": "\\ud800"}',
        b'{"temperature": 1e999}',
    ],
)
async def test_malformed_json_is_a_400_in_openais_shape(raw):
    reply = await post(FakeService(), "/v1/chat/completions", raw)
    assert reply.status_code == 400
    assert error(reply)["code"] == "invalid_json"


async def test_body_over_the_limit_is_refused():
    config = test_config(api__max_body_bytes=2048)
    reply = await post(FakeService(), "/v1/chat/completions", b" " * 5000, config=config)
    assert (reply.status_code, error(reply)["code"]) == (413, "body_too_large")


async def test_form_post_is_refused():
    reply = await post(FakeService(), "/v1/chat/completions", b"{}", {"Content-Type": "text/plain"})
    assert reply.status_code == 415


# --- failures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (NoRouteError("12 relays are needed, 3 are known"), 503, "no_route"),
        (AnswerError("busy", "the queue is full", 7.2), 429, "busy"),
        (AnswerError("node_lost", "gone"), 502, "node_lost"),
        (AnswerError("context_length_exceeded", "9000 tokens, 8192 fit"), 400, "context_length_exceeded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_refused_prompt_is_an_http_error_streaming_or_not(refusal, status, code, stream):
    reply = await post(FakeService(refusal=refusal), "/v1/chat/completions", CHAT | {"stream": stream})
    assert (reply.status_code, error(reply)["code"]) == (status, code)
    assert error(reply)["message"] == str(refusal)
    if code == "busy":
        assert reply.headers["Retry-After"] == "8"


async def test_failure_before_the_first_event_is_an_http_error():
    service = FakeService([AnswerFailed("busy", "the queue is full", 2.0)])
    reply = await post(service, "/v1/chat/completions", CHAT | {"stream": True})
    assert (reply.status_code, reply.headers["Retry-After"]) == (429, "2")


@pytest.mark.parametrize("failure", [AnswerFailed, AnswerError])
async def test_a_prompt_that_was_delivered_and_then_refused_is_an_http_error_when_streaming_too(failure):
    service = FakeService([AnswerAccepted(), failure("busy", "a first token would take 90 s", 60.2)])
    reply = await post(service, "/v1/chat/completions", CHAT | {"stream": True})
    assert (reply.status_code, reply.headers["Retry-After"]) == (429, "61")


async def test_failure_mid_stream_is_an_error_event_and_no_done():
    service = FakeService(
        [AnswerAccepted(), TokensGenerated("Hel", 1), AnswerFailed("engine_failed", "it died")]
    )
    reply = await post(service, "/v1/chat/completions", CHAT | {"stream": True})
    events = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
    assert json.loads(events[-1])["error"]["code"] == "engine_failed"
    assert "[DONE]" not in reply.text


async def test_answer_that_stops_short_is_said():
    reply = await post(
        FakeService([AnswerAccepted(), TokensGenerated("Hel", 1)]), "/v1/chat/completions", CHAT
    )
    assert (reply.status_code, error(reply)["code"]) == (502, "answer_incomplete")


async def test_answer_over_its_time_is_ended():
    service = FakeService([AnswerAccepted(), trio.Event()])
    config = test_config()
    limits = config.limits.model_copy(update={"answer_timeout_s": 0.05})
    config = config.model_copy(update={"limits": limits})
    reply = await post(service, "/v1/chat/completions", CHAT, config=config)
    assert (reply.status_code, error(reply)["code"]) == (504, "timeout")
    assert service.ended.is_set()


@pytest.mark.parametrize("stream", [False, True])
async def test_client_that_goes_away_ends_the_answer(stream):
    service = FakeService([AnswerAccepted(), TokensGenerated("Hel", 1), trio.Event()])
    async with served(service) as url:
        host, port = url.removeprefix("http://").split(":")
        raw = json.dumps(CHAT | {"stream": stream}).encode()
        tcp = await trio.open_tcp_stream(host, int(port))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        await tcp.send_all(head.encode() + f"Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        if stream:
            assert b"200" in await tcp.receive_some(4096)
        else:
            while not service.prompts:
                await trio.lowlevel.checkpoint()
        await tcp.aclose()
        with trio.fail_after(5):
            await service.ended.wait()


async def test_answers_over_the_bound_are_refused_with_retry_after():
    gate = trio.Event()
    service = FakeService([AnswerAccepted(), gate, *script("ok")[1:]])
    config = test_config(limits__concurrent_requests=1)
    async with served(service, config) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:
        replies = []

        async def ask():
            replies.append(await client.post("/v1/chat/completions", json=CHAT))
            gate.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
    assert sorted(reply.status_code for reply in replies) == [200, 429]


async def test_no_model_nodes_is_a_503_with_the_reason():
    service = FakeService(
        known=(), readiness=Readiness(ready=False, reasons=("2 relays are known, 12 are needed",))
    )
    reply = await post(service, "/v1/chat/completions", CHAT)
    assert reply.status_code == 503
    assert "12 are needed" in error(reply)["message"]


# --- who may ask ------------------------------------------------------------------------------------


async def test_foreign_host_is_refused():
    reply = await get(FakeService(), "/v1/models", {"Host": "evil.example"})
    assert (reply.status_code, error(reply)["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000"])
async def test_foreign_origin_is_refused(origin):
    reply = await get(FakeService(), "/v1/models", {"Origin": origin})
    assert (reply.status_code, error(reply)["code"]) == (403, "origin_not_allowed")


async def test_own_origin_passes():
    async with served(FakeService()) as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/v1/models", headers={"Origin": url})).status_code == 200


@pytest.mark.parametrize("path", ["/api/v1/circuits", "/api/v1/answers/last", "/api/v1/shutdown"])
async def test_admin_paths_need_the_token_of_the_home(path):
    service = FakeService()
    for headers in ({}, {"Authorization": "Bearer " + "0" * 64}, {"Authorization": "Basic x"}):
        send = partial(post, body={}) if path.endswith("shutdown") else get
        assert (await send(service, path, headers=headers)).status_code == 401
    assert not service.stopped.is_set()


async def test_shutdown_with_the_token():
    service = FakeService()
    assert (await post(service, "/api/v1/shutdown", {}, ADMIN)).status_code == 202
    assert service.stopped.is_set()


async def test_key_is_asked_for_where_one_is_set_and_health_stays_open():
    config = test_config(api__key="k" * 20)
    service = FakeService()
    assert (await get(service, "/v1/models", config=config)).status_code == 401
    assert (await get(service, "/metrics", config=config)).status_code == 401
    assert (await get(service, "/livez", config=config)).status_code == 200
    for headers in ({"Authorization": "Bearer " + "k" * 20}, ADMIN):
        assert (await get(service, "/v1/models", headers, config)).status_code == 200


# --- reports ----------------------------------------------------------------------------------------


async def test_reports_are_right():
    service = FakeService()
    service.kept["a1"] = KeptAnswer("a1", 5.0, '{"text": "Hello!"}', ACCOUNT)
    async with served(service) as url, httpx.AsyncClient(base_url=url, headers=ADMIN) as client:
        assert (await client.get("/api/v1/status")).json()["relays_known"] == 16
        assert (await client.get("/api/v1/peers")).json()["peers"][0]["linked"] is True
        assert (await client.get("/api/v1/models")).json()["models"][0]["nodes"] == 2
        assert len((await client.get("/api/v1/circuits")).json()["circuits"][0]["relays"]) == 3
        kept = (await client.get("/api/v1/answers/a1")).json()
        assert (kept["record"]["text"], kept["account"]["k"]) == ("Hello!", 2)
        assert (await client.get("/api/v1/answers/zz")).status_code == 404
        assert (await client.get("/version")).json()["name"] == "clovenet"


async def test_readyz_is_503_with_reasons_until_ready():
    waiting = Readiness(ready=False, reasons=("the model is loading",))
    reply = await get(FakeService(readiness=waiting), "/readyz")
    assert (reply.status_code, reply.json()["reasons"]) == (503, ["the model is loading"])
    assert (await get(FakeService(), "/readyz")).status_code == 200


async def test_metrics_count_requests_by_outcome():
    async with served(FakeService()) as url, httpx.AsyncClient(base_url=url) as client:
        await client.post("/v1/chat/completions", json=CHAT)
        page = (await client.get("/metrics")).text
    assert 'clove_requests_total{outcome="ok"} 1.0' in page
    assert "clove_ttft_seconds_count 1.0" in page
    assert "clove_build_info" in page


async def test_request_id_is_kept_when_it_is_harmless_and_made_otherwise():
    assert (await get(FakeService(), "/livez", {"X-Request-Id": "abc-1"})).headers["X-Request-Id"] == "abc-1"
    made = (await get(FakeService(), "/livez", {"X-Request-Id": "a b;c"})).headers["X-Request-Id"]
    assert made.startswith("req-")


async def test_answer_id_leads_from_the_reply_to_the_kept_answer():
    reply = await post(FakeService(), "/v1/chat/completions", CHAT)
    assert reply.headers["X-Answer-Id"] == "a1"
    assert reply.json()["id"] == "chatcmpl-a1"


async def test_unknown_path_and_method_are_openai_errors():
    assert error(await get(FakeService(), "/v1/nothing"))["type"] == "invalid_request_error"
    assert (await get(FakeService(), "/v1/chat/completions")).status_code == 405
