"""What the daemon does for its owner, over a whole network."""

import pytest

from node.clock import SystemClock
from node.metrics import Metrics
from node.service import Identity, NodeService
from node.store import open_store
from overlay.wire.answer import TokensGenerated
from tests.support.network import a_prompt, answer_to, network


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
