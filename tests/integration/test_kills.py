"""Processes killed with -9 while they are needed: the answer is whole all the same, or ends with an error, soon."""

import base64
import contextlib
import json
import random  # noqa: TID251 -- the same moments in every run
import signal

import httpx
import pytest
import trio

from node.engine.models import ModelStore
from node.engine.settings import EngineSettings
from node.engine.supervisor import Engine
from node.home import Home
from node.local_audit import LocalScorer
from node.testbed import require_record, send_signal, serving_node
from tests.support.looking import look_until
from tests.support.testbed import MODELS, running_network
from verify.answer import check_answer
from verify.receipt import decode_receipt
from verify.record_codec import decode_record

pytestmark = [pytest.mark.integration, pytest.mark.slow]

HOPS = ("guard", "middle", "proxy")
QUESTION = "Tell me a short story about a lighthouse keeper."
SETTINGS = ("--seed", "11", "--max-tokens", "40")
READY_S = 60


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    with running_network(tmp_path_factory.mktemp("kills") / "home") as running:
        yield running
        running.clove("testbed", "kill", "relay-03", "--signal", "STOP")  # who hangs is ended, too


def await_ready(network, relays):
    """Until the client has all circuits and knows so many relays."""

    def status():
        return network.api(network.client, "/api/v1/status").json()

    def is_ready():
        found = status()
        return (
            found["readiness"]["ready"]
            and (circuits := len(network.relays_in_use()))
            and circuits % 4 == 0  # a whole set for each model node that was asked lately
            and found["relays_known"] >= relays
        )

    look_until(is_ready, READY_S, lambda: f"not ready again: {status()}")


def stream(network, on_piece, *, at_piece=0, **changes):
    """Ask by SSE and call `on_piece` when so much text has come, by its pieces; the text, and the last event."""
    body = {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": True,
        "seed": 11,
        "max_tokens": 40,
        **changes,
    }
    text, last, pieces = "", None, 0
    url = f"{network.client['api_url']}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=120, trust_env=False) as reply:
        for line in reply.iter_lines():
            if not line.startswith("data: "):
                continue
            last = line.removeprefix("data: ")
            with contextlib.suppress(ValueError, KeyError, IndexError):
                piece = json.loads(last)["choices"][0]["delta"].get("content") or ""
                if piece and pieces == at_piece:
                    on_piece()
                pieces += bool(piece)
                text += piece
    return text, last


@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_every_answer_survives_the_death_of_a_relay(network, rounds):
    undisturbed, end = stream(network, lambda: None)
    assert end == "[DONE]"
    assert len(undisturbed) > 40
    whole = []
    for round_ in range(rounds):
        before, killed = network.cells_received(), []

        def kill():
            paths = network.relays_in_use(since=before)  # noqa: B023
            path = paths[round_ % len(paths)]  # noqa: B023
            killed.append(kill_node(network, path[round_ % 3]))  # noqa: B023

        text, end = stream(network, kill)
        whole.append((text == undisturbed, end == "[DONE]", killed, HOPS[round_ % 3]))
        network.clove("testbed", "start", killed[0])
        await_ready(network, relays=16)
    assert [entry[:2] for entry in whole] == [(True, True)] * rounds, whole


def output_ids(network):
    """Token ids of the last answer, as its receipt has them, and how many were given to the node that signed it."""
    kept = network.api(network.client, "/api/v1/answers/last").json()
    receipt = decode_receipt(base64.b64decode(kept["record"]["receipt"])).check()
    return receipt.output_ids, receipt.given


def await_models(network):
    """Until every model node answers prompts, and the client can ask."""
    models = [node for node in network.nodes if node["role"] == "model"]

    def reports():
        return [network.api(node, "/api/v1/status").json() for node in models]

    def is_ready():
        client = network.api(network.client, "/api/v1/status").json()
        return client["readiness"]["ready"] and not any(map(is_loading, reports()))

    look_until(is_ready, READY_S, lambda: f"not serving again: {reports()}")


def is_loading(report):
    return any("loading" in reason for reason in report["readiness"]["reasons"])


@pytest.mark.parametrize(
    "rounds",
    [2, pytest.param(10, marks=pytest.mark.soak), pytest.param(100, marks=pytest.mark.hundred)],
)
def test_every_answer_survives_the_death_of_its_model_node(network, rounds):
    length = {"max_tokens": 120, "min_tokens": 120}
    undisturbed, end = stream(network, lambda: None, **length)
    ids, given = output_ids(network)
    assert (end, given, len(ids)) == ("[DONE]", 0, 120)
    draw = random.Random(rounds)
    outcomes, continued = [], []
    for _ in range(rounds):
        at_piece, killed = draw.randrange(40), []
        text, end = stream(
            network,
            lambda: killed.append(kill_node(network)),  # noqa: B023
            at_piece=at_piece,
            **length,
        )
        again, given = output_ids(network)
        outcomes.append((text == undisturbed, end, again == ids, at_piece, given, killed))
        if given:
            continued.append((kept_answer(network), given, network.node(killed[0])["node_id"]))
        network.clove("testbed", "start", killed[0])
        await_models(network)
    assert [outcome[:3] for outcome in outcomes] == [(True, "[DONE]", True)] * rounds, outcomes
    assert len(continued) >= rounds // 2, outcomes  # the test did kill in the middle of answers
    assert network.clove("verify", "last").returncode == 0
    verdicts = trio.run(check_all, [record for record, _, _ in continued])
    for verdict, (_, given, killed_id) in zip(verdicts, continued, strict=True):
        assert_parts_are_signed(verdict, given, bytes.fromhex(killed_id))


def kill_node(network, name=None):
    """As `clove testbed kill` does, without the second that a command takes to start. None: who serves. Its name."""
    record = require_record(Home.locate(network.home))
    node = serving_node(record) if name is None else record.find(name)
    send_signal(node, signal.SIGKILL)
    return node.name


def kept_answer(network):
    return decode_record(json.dumps(network.api(network.client, "/api/v1/answers/last").json()["record"]))


async def check_all(records):
    """What `clove verify` says of each, of one start of the reference model."""
    engine = Engine(
        [ModelStore(MODELS).find("smollm2-135m").folder], EngineSettings(device="cpu", weights="int8")
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        verdicts = [await check_answer(record, LocalScorer(engine)) for record in records]
        nursery.cancel_scope.cancel()
    return verdicts


def assert_parts_are_signed(verdict, given, killed):
    """The check of a continued answer names who signed its beginning, and who its end: not the node that was killed.

    That one may have signed the beginning, or have passed it on for the node that ended it as well.
    """
    assert verdict.accepted, verdict
    parts = verdict.parts
    signed = [part for part in parts if part.signed_by]
    assert signed[0].signed_by == "checkpoint", parts
    assert signed[-1].signed_by == "receipt", parts
    assert signed[-1].node_id != killed, parts
    unsigned = sum(part.last - part.first + 1 for part in parts if not part.signed_by)
    assert unsigned < given, parts


def test_a_client_that_goes_away_frees_the_model_node(network):
    url = f"{network.client['api_url']}/v1/chat/completions"
    body = {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": True,
        "max_tokens": 2000,
    }
    with httpx.stream("POST", url, json=body, timeout=120, trust_env=False) as reply:
        lines = reply.iter_lines()  # kept: httpx closes the reply with the iterator
        while "content" not in next(lines):
            pass
        assert serving(network) in (1, 2)  # where it came in and, if it was handed over, where it is answered
    look_until(lambda: serving(network) == 0, 10)


def serving(network):
    models = [node for node in network.nodes if node["role"] == "model"]
    pages = [network.api(node, "/metrics").text for node in models]
    lines = [
        line for page in pages for line in page.splitlines() if line.startswith("clove_serving_requests ")
    ]
    return sum(float(line.split()[1]) for line in lines)
