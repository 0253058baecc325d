"""What the daemon does for its owner, over a whole network."""

import httpx
import pytest

from node.clock import SystemClock
from node.metrics import Metrics
from node.service import Identity, NodeService
from node.store import open_store
from overlay.wire.answer import TokensGenerated
from tests.support.api import served
from tests.support.network import a_prompt, answer_to, network
from tests.support.scripted_engine import ScriptedEngine


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path / "state.sqlite")
    yield store
    store.close()


def make_service(net, store) -> NodeService:
    client = net["c"]
    return NodeService(
        Identity(client.node_id, "0", "test", "test", ("client",)),
        client.switch,
        client.client,
        store,
        SystemClock(),
        anonymity=str,
        relayed_circuits=int,
        addresses=tuple,
        begin_shutdown=lambda: None,
        metrics=Metrics(version="0", profile="test"),
    )


async def test_an_answer_that_can_not_be_kept_is_whole_all_the_same(autojump_clock, store):
    async with network() as net:
        service, prompt = make_service(net, store), a_prompt()
        store.close()  # every write fails from here on, as on a full disk
        async with service.complete(prompt) as answer:
            text = "".join([event.text async for event in answer if isinstance(event, TokensGenerated)])
        assert text == answer_to(prompt)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_node_that_is_busy_is_a_429_with_its_time_at_the_client_s_api(store, stream):
    body = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    # On the real clock, since HTTP goes through sockets.
    async with (
        network(engines=[ScriptedEngine(slots=0, retry_after_s=6.4)]) as net,
        served(make_service(net, store)) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as client,
    ):
        reply = await client.post("/v1/chat/completions", json=body)
    assert (reply.status_code, reply.headers["Retry-After"]) == (429, "7")
    assert reply.json()["error"]["code"] == "busy"
