"""The engine over a server that fails in every way: each has one clear error, bounded, and soon."""

from contextlib import asynccontextmanager

import pytest
import trio

from node.engine.errors import (
    EngineBusyError,
    EngineError,
    PromptRefusedError,
    UnknownModelError,
    UpstreamDeniedError,
    UpstreamDownError,
    UpstreamMalformedError,
)
from node.engine.events import GenerationFinished, ModelCard, TextDecoded
from node.engine.settings import UpstreamModel
from node.engine.sse import MAX_LINE_BYTES
from node.engine.upstream import UpstreamEngine, look_once
from overlay.wire.prompt import ChatMessage, Prompt, SamplerSpec
from tests.support.upstream_server import (
    DONE,
    MODELS,
    STREAMING,
    answering,
    ended,
    event,
    fake_upstream,
    models,
    reply,
    said,
    then_silence,
    writing,
)
from verify.stated import upstream_model_id

pytestmark = pytest.mark.integration

KEY = "sk-0123456789"
PROMPT = Prompt(
    model="alias",
    messages=(ChatMessage("user", "why?"),),
    sampler=SamplerSpec(max_tokens=20),
    nonce=bytes(32),
)


@asynccontextmanager
async def running(server, **settings):
    engine = UpstreamEngine(server.settings(**settings))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.serve)
            yield engine
            nursery.cancel_scope.cancel()


async def ask(engine, prompt=PROMPT):
    async with engine.generate(prompt) as events:
        return [event async for event in events]


async def failure(answer, **settings):
    """What becomes of a prompt that is answered like this."""
    async with fake_upstream(answer=answer) as server, running(server, **settings) as engine:
        with pytest.raises(EngineError) as caught:
            await ask(engine)
        assert engine.active_requests == 0
        return caught.value


# --- what goes well -----------------------------------------------------------------------------------


async def test_an_answer_is_its_texts_and_the_counts_of_the_server():
    told = answering(said(""), said("Hel"), said("lo"), ended(prompt_tokens=9, completion_tokens=3), DONE)
    async with fake_upstream(answer=told) as server, running(server, key=KEY) as engine:
        assert engine.cards == (ModelCard(upstream_model_id("alias"), "alias", "upstream", 2048),)
        *texts, end = await ask(engine)
        path, headers, body = server.asked[0]
    assert "".join(event.text for event in texts) == "Hello"
    assert isinstance(end, GenerationFinished)
    assert (end.reason, end.prompt_tokens, end.completion_tokens) == ("stop", 9, 3)
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert body["model"] == "served"
    assert body["messages"] == [{"role": "user", "content": "why?"}]


async def test_bytes_may_be_cut_anywhere():
    whole = said("Grüße 🧄") + ended() + DONE
    pieces = [whole[at : at + 1] for at in range(len(whole))]
    async with fake_upstream(answer=answering(*pieces)) as server, running(server) as engine:
        *texts, end = await ask(engine)
    assert "".join(event.text for event in texts) == "Grüße 🧄"
    assert end.reason == "stop"


async def test_leaving_an_answer_closes_the_request():
    async with fake_upstream(answer=then_silence(STREAMING, said("a"))) as server, running(server) as engine:
        async with engine.generate(PROMPT) as events:
            assert (await anext(events)).text == "a"
        assert engine.active_requests == 0
        with trio.fail_after(5):
            while not server.left:
                await trio.lowlevel.checkpoint()


async def test_cancelling_a_prompt_that_waits_closes_the_request():
    async with fake_upstream(answer=then_silence()) as server, running(server) as engine:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, engine)
            while not server.asked:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            while not server.left:
                await trio.lowlevel.checkpoint()


async def test_over_all_places_prompts_are_refused_with_the_time_to_come_again():
    settings = {"max_batch": 1, "max_queue": 1}
    async with (
        fake_upstream(answer=then_silence()) as server,
        running(server, **settings) as engine,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(ask, engine)
        nursery.start_soon(ask, engine)
        while engine.active_requests < 2 or not server.asked:
            await trio.lowlevel.checkpoint()
        with pytest.raises(EngineBusyError) as caught:
            await ask(engine)
        assert len(server.asked) == 1  # the other waits here, not there
        nursery.cancel_scope.cancel()
    assert caught.value.retry_after_s >= 1


# --- what the server says by its status ---------------------------------------------------------------


async def test_a_busy_server_is_busy_for_as_long_as_it_says():
    error = await failure(writing(reply("429 Too Many Requests", Retry_After=17)))
    assert isinstance(error, EngineBusyError)
    assert error.retry_after_s == 17
    error = await failure(writing(reply("503 Unavailable", Retry_After="Tue, 24 Nov 2026 18:00:00 GMT")))
    assert isinstance(error, EngineBusyError)
    assert error.retry_after_s >= 1


async def test_a_refused_key_names_the_setting_and_not_the_key():
    error = await failure(
        writing(reply("401 Unauthorized", {"error": {"message": f"bad key {KEY}"}})), key=KEY
    )
    assert isinstance(error, UpstreamDeniedError)
    assert "engine.upstream_key" in str(error)
    assert KEY not in str(error)


async def test_a_refused_prompt_is_told_why_in_few_words_and_without_the_key():
    body = {"error": {"message": f"too long {KEY}\n" + "x" * 9000}}
    error = await failure(writing(reply("400 Bad Request", body)), key=KEY)
    assert isinstance(error, PromptRefusedError)
    assert "too long [redacted] " in str(error)
    assert len(str(error)) < 400


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (writing(reply("404 Not Found", {"error": "no such model"})), UnknownModelError),
        (writing(reply("500 Oops", b"secret trace")), UpstreamDownError),
        (writing(reply("302 Found", Location="http://elsewhere.test/")), UpstreamMalformedError),
        (writing(reply("400 Bad Request", b"x" * 20_000)), UpstreamMalformedError),
        (writing(reply("200 OK", {"choices": []}, Content_Type="application/json")), UpstreamMalformedError),
        (writing(b"SSH-2.0-OpenSSH_9.2\r\n"), UpstreamDownError),
        (writing(), UpstreamDownError),
    ],
)
async def test_every_other_reply_is_a_fault_of_the_server(answer, kind):
    error = await failure(answer)
    assert type(error) is kind
    assert "secret" not in str(error)


# --- what goes wrong within an answer -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ([said("a")], UpstreamDownError),
        ([said("a"), DONE], UpstreamDownError),
        ([said("a"), ended("content_filter")], UpstreamDownError),
        ([said("a"), event({"error": {"message": "out of memory"}})], UpstreamDownError),
        ([said("a"), event(b"{nonsense")], UpstreamMalformedError),
        ([said("a"), event({"choices": [{}, {}]})], UpstreamMalformedError),
        ([said("a"), event(b'{"choices": [{"delta": {"content": "\\ud800"}}]}')], UpstreamMalformedError),
        ([said("a"), b"data: " + b"x" * (MAX_LINE_BYTES + 1)], UpstreamMalformedError),
        ([said("a"), b": ping\n" * 40_000], UpstreamMalformedError),
        ([said("a"), b"data: \xff\n\n"], UpstreamMalformedError),
        ([said("a"), ended(completion_tokens=-1)], UpstreamMalformedError),
    ],
)
async def test_an_answer_that_breaks_ends_with_one_clear_error(events, kind):
    assert type(await failure(answering(*events))) is kind


async def test_a_connection_that_breaks_mid_answer_is_told_after_the_text_that_came():
    headers = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    piece = said("a")
    chunk = f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    async with (
        fake_upstream(answer=writing(headers, chunk)) as server,
        running(server) as engine,
        engine.generate(PROMPT) as events,
    ):
        assert await anext(events) == TextDecoded("a", 1)
        with pytest.raises(UpstreamDownError):
            await anext(events)


async def test_silence_ends_an_answer():
    for answer in (then_silence(), then_silence(STREAMING), then_silence(STREAMING, said("a"))):
        error = await failure(answer, first_text_timeout_s=0.2, pause_timeout_s=0.2)
        assert "silent" in str(error)


async def test_compression_that_was_not_asked_for_is_refused():
    headers = STREAMING.replace(b"Connection", b"Content-Encoding: gzip\r\nConnection")
    assert isinstance(await failure(writing(headers, b"\x1f\x8b")), UpstreamMalformedError)


# --- the server's health ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listing", "told"),
    [
        (models({"data": []}), "does not serve 'served'"),
        (models({"data": [{"id": "served"}]}), "engine.upstream_context_tokens"),
        (models({"models": []}), "does not list its models"),
        (writing(reply("404 Not Found")), "ends in /v1"),
        (writing(reply("401 Unauthorized")), "engine.upstream_key"),
        (writing(reply("200 OK", b"[" * 100_000)), "does not list its models"),
        (writing(reply("200 OK", b" " * 2_000_000)), "more than it should"),
        (writing(), "nothing answers"),
        (then_silence(), "no answer in"),
    ],
)
async def test_a_server_that_does_not_serve_the_model_is_said_with_the_remedy(listing, told):
    async with fake_upstream(listing=listing) as server, running(server, look_timeout_s=0.3) as engine:
        assert engine.cards == ()
        assert told in engine.trouble
        with pytest.raises(UpstreamDownError):
            await ask(engine)
        with pytest.raises(UnknownModelError):
            await ask(engine, Prompt(model="other", text="", sampler=SamplerSpec(), nonce=bytes(32)))


async def test_a_url_at_which_nobody_speaks_so_is_said():
    async with fake_upstream() as server:
        tls = server.settings().url.replace("http:", "https:")
        for url in (tls, "http://127.0.0.1:1/v1", "http://nowhere.invalid/v1"):
            async with running(server, url=url, connect_timeout_s=0.3) as engine:
                assert engine.trouble.startswith((f"nothing answers at {url}", f"{url} gave no answer"))


async def test_a_look_for_doctor_says_what_is_served_and_what_is_not():
    two = (UpstreamModel("alias", "served"), UpstreamModel("b", "b"))
    async with fake_upstream() as server:
        cards, trouble = await look_once(server.settings(models=two))
    assert [(card.alias, card.context_tokens) for card in cards] == [("alias", 2048)]
    assert "'b'" in trouble


async def test_one_model_of_two_is_served_and_the_other_is_said():
    two = (UpstreamModel("alias", "served"), UpstreamModel("b", "b"))
    async with fake_upstream() as server, running(server, models=two) as engine:
        assert [card.alias for card in engine.cards] == ["alias"]
        assert "'b'" in engine.trouble


async def test_context_tokens_of_the_operator_win():
    async with fake_upstream() as server, running(server, context_tokens=512) as engine:
        assert engine.cards[0].context_tokens == 512


async def test_a_failed_answer_has_the_server_looked_at_at_once_and_again_until_it_is_back():
    async with fake_upstream(answer=answering(said("a"))) as server, running(server, look_s=0.05) as engine:
        assert engine.trouble is None
        server.listing, changed = writing(), engine.changed
        with pytest.raises(UpstreamDownError):
            await ask(engine)
        await changed.wait()
        assert (engine.cards, engine.trouble is None) == ((), False)
        server.listing, changed = models(MODELS), engine.changed
        await changed.wait()
        assert engine.trouble is None
        assert len(engine.cards) == 1


async def slowly(stream):
    """An answer without an end, a word at a time."""
    await stream.send_all(STREAMING)
    while True:
        await stream.send_all(said("a"))
        await trio.sleep(0.05)


async def test_a_server_is_left_in_peace_while_it_answers():
    looks, looked = [], trio.Event()

    async def listing(stream):
        looks.append(trio.current_time())
        looked.set()
        await models()(stream)

    async with (
        fake_upstream(listing=listing, answer=slowly) as server,
        running(server, look_s=0.05) as engine,
    ):
        async with engine.generate(PROMPT) as events:
            began = trio.current_time()
            assert len([told async for told in events if isinstance(told, TextDecoded)]) > 1
            assert not [at for at in looks if at > began + 0.05]
            looked = trio.Event()
        await looked.wait()


async def test_a_server_that_lists_nothing_while_it_computes_is_not_down():
    async def first_slowly_then_badly(stream):
        await (slowly if len(server.asked) == 1 else answering(said("a")))(stream)

    settings = {"look_timeout_s": 0.3}
    async with (
        fake_upstream(answer=first_slowly_then_badly) as server,
        running(server, **settings) as engine,
        engine.generate(PROMPT) as events,
    ):
        await anext(events)
        server.listing = then_silence()
        with pytest.raises(UpstreamDownError):
            await ask(engine)
        async for _ in events:
            assert engine.trouble is None


async def test_a_server_that_still_loads_is_waited_for():
    listing = writing(reply("503 Service Unavailable", {"error": "loading model"}))
    async with fake_upstream(listing=listing) as server, running(server, look_s=0.05) as engine:
        assert "answers 503" in engine.trouble
        server.listing, changed = models(), engine.changed
        await changed.wait()
        assert engine.trouble is None
