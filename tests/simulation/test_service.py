"""What the daemon does for its owner, over a whole network."""

import httpx
import pytest

from node.clock import SystemClock
from node.metrics import Metrics
from node.service import Identity, NodeService, Recorder
from node.store import open_store
from overlay.wire.answer import TokensGenerated
from tests.support.api import served
from tests.support.descriptors import fixed_key
from tests.support.network import a_prompt, answer_to, network
from tests.support.receipts import make_receipt
from tests.support.scripted_engine import ScriptedEngine
from verify.receipt import sign_receipt


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


async def test_a_receipt_of_another_member_is_taken_only_where_the_prompt_could_be_handed_on(
    autojump_clock, store
):
    async with network(models=2) as net:
        service, asked, other = make_service(net, store), net["m0"], net["m1"]
        told = await net.ask(a_prompt())
        offer = told.answering.offer

        def who_answered(key, *, may_be_handed_on):
            recorder = Recorder(
                answer_id="a-1",
                prompt=a_prompt(),
                node_id=asked.node_id,
                offer=offer,
                started=0.0,
                clock=SystemClock(),
                events=lambda: None,
                receipt=sign_receipt(key, make_receipt()),
            )
            return service._who_answered(recorder, may_be_handed_on=may_be_handed_on)

        assert who_answered(other.key, may_be_handed_on=True) == other.node_id
        assert who_answered(other.key, may_be_handed_on=False) == asked.node_id
        assert who_answered(fixed_key("stranger"), may_be_handed_on=True) == asked.node_id
