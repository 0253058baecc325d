"""A node over an engine that somebody else runs: a real server, a real network, and the server's death mid-answer."""

import json
import time
from contextlib import asynccontextmanager

import httpx
import pytest
import trio

from node.engine.events import GenerationFinished
from node.engine.settings import UpstreamModel, UpstreamSettings
from node.engine.upstream import UpstreamEngine
from overlay.wire.prompt import ChatMessage, Prompt, SamplerSpec
from tests.support.looking import look_until
from tests.support.real_upstream import ALIAS, NAME, real_upstream
from tests.support.testbed import running_network

pytestmark = [pytest.mark.integration, pytest.mark.upstream, pytest.mark.slow]

QUESTION = "Tell me a short story about a lighthouse keeper."
SOON_S = 15
BACK_S = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with real_upstream(tmp_path_factory.mktemp("upstream")) as running:
        yield running


@asynccontextmanager
async def engine_over(server):
    engine = UpstreamEngine(
        UpstreamSettings(url=server.url, models=(UpstreamModel(ALIAS, NAME),), context_tokens=2048)
    )
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.serve)
            yield engine
            nursery.cancel_scope.cancel()


async def answer(engine, prompt):
    async with engine.generate(prompt) as events:
        *texts, end = [event async for event in events]
    assert isinstance(end, GenerationFinished)
    return "".join(event.text for event in texts), end


def greedy(max_tokens=6, **fields):
    sampler = SamplerSpec(temperature=0.0, max_tokens=max_tokens, stop=fields.pop("stop", ()))
    return Prompt(model=ALIAS, sampler=sampler, nonce=bytes(32), **fields)


async def test_a_conversation_and_a_text_are_answered_with_the_servers_counts(server):
    async with engine_over(server) as engine:
        assert [card.alias for card in engine.cards] == [ALIAS]
        said, end = await answer(engine, greedy(messages=(ChatMessage("user", QUESTION),)))
        assert said
        assert (end.reason, end.completion_tokens) == ("length", 6)
        assert end.prompt_tokens > 12
        said, end = await answer(engine, greedy(text="The capital of France is"))
        assert "Paris" in said
        assert end.prompt_tokens == 5


async def test_a_stop_string_is_never_shown(server):
    async with engine_over(server) as engine:
        whole, _ = await answer(engine, greedy(text="One, two, three, four,"))
        stop = whole[3:6]
        said, end = await answer(engine, greedy(text="One, two, three, four,", stop=(stop,)))
    assert said == whole[: whole.index(stop)]
    assert end.reason == "stop"


# --- a whole network ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(server, tmp_path_factory):
    settings = {
        "engine.kind": "openai",
        "engine.upstream_url": server.url,
        "engine.upstream_models": f"{ALIAS}={NAME}",
        "engine.upstream_context_tokens": "2048",
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    with running_network(tmp_path_factory.mktemp("network"), nodes=14, models=1, more=words) as running:
        yield running


def stream(network, on_first):
    """Ask by SSE and call `on_first` when the first text has come; the text, and the last event."""
    body = {
        "model": ALIAS,
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": True,
        "max_tokens": 400,
    }
    text, last = "", None
    url = f"{network.client['api_url']}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=120, trust_env=False) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: "):
                last = line.removeprefix("data: ")
                choices = [] if last == "[DONE]" else json.loads(last).get("choices", [])
                piece = choices[0]["delta"].get("content") or "" if choices else ""
                if piece and not text:
                    on_first()
                text += piece
    return text, last


def is_offered(network):
    models = network.api(network.client, "/api/v1/models").json()["models"]
    return [(model["alias"], model["numerics_class"]) for model in models] == [(ALIAS, "upstream")]


def test_an_answer_comes_through_circuits_and_is_signed_but_unproven(network):
    answer = network.json("ask", "--model", ALIAS, "--max-tokens", "12", QUESTION)
    account = answer["account"]
    relays = [relay for path in account["circuits"] for relay in path]
    assert answer["text"]
    assert account["node"] == network.node("model-01")["node_id"]
    assert len(relays) == len(set(relays)) == 12
    assert (account["completion_tokens"], account["prompt_tokens"] > 12) == (12, True)

    told = network.clove("verify", check=False)
    assert told.returncode == 4, told.stderr
    assert told.stdout.startswith("unproven: ")
    verdict = json.loads(network.clove("verify", "--json", check=False).stdout)
    assert (verdict["accepted"], verdict["outcome"], verdict["reasons"]) == (False, "unproven", [])


def test_a_text_that_the_node_did_not_say_is_rejected(network, tmp_path):
    file = tmp_path / "answer.json"
    network.clove("ask", "--model", ALIAS, "--max-tokens", "8", "--save", str(file), QUESTION)
    kept = json.loads(file.read_text())
    kept["record"]["text"] += " Not."
    file.write_text(json.dumps(kept))
    told = network.clove("verify", str(file), check=False)
    assert (told.returncode, told.stdout.startswith("rejected: text")) == (1, True)


def test_a_server_that_dies_ends_the_answer_and_the_offer_until_it_is_back(network, server):
    died_at = []

    def kill():
        server.kill()
        died_at.append(time.monotonic())  # noqa: TID251 -- other processes' time

    text, last = stream(network, kill)
    waited_s = time.monotonic() - died_at[0]  # noqa: TID251
    assert text
    assert json.loads(last)["error"]["code"] == "engine_down"
    assert waited_s < SOON_S
    look_until(lambda: not is_offered(network), SOON_S)
    ready = network.api(network.node("model-01"), "/readyz")
    assert ready.status_code == 503
    assert "nothing answers at" in str(ready.json()["reasons"])
    refused = network.clove("ask", "--model", ALIAS, "Still there?", check=False)
    assert refused.returncode != 0
    assert "no node that serves a model is known" in refused.stderr

    server.start()
    look_until(lambda: is_offered(network), BACK_S)
    assert network.api(network.node("model-01"), "/readyz").status_code == 200
    assert network.json("ask", "--model", ALIAS, "--max-tokens", "8", QUESTION)["text"]
