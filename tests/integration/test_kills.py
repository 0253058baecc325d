"""Processes killed with -9 while they are needed: the answer is whole all the same, or ends with an error, soon."""

import contextlib
import json
import time
from pathlib import Path

import httpx
import pytest

from tests.support.testbed import running_network

pytestmark = [pytest.mark.integration, pytest.mark.slow]

HOPS = ("guard", "middle", "proxy")
QUESTION = "Tell me a short story about a lighthouse keeper."
SETTINGS = ("--seed", "11", "--max-tokens", "40")
READY_S = 60


@pytest.fixture
def network(tmp_path):
    with running_network(tmp_path / "home") as running:
        yield running


def await_ready(network, relays):
    """Until the client has all circuits and knows so many relays."""
    deadline = time.monotonic() + READY_S  # noqa: TID251 -- other processes' time
    while time.monotonic() < deadline:  # noqa: TID251
        status = network.api(network.client, "/api/v1/status").json()
        if (
            status["readiness"]["ready"]
            and len(network.relays_in_use()) == 4
            and status["relays_known"] >= relays
        ):
            return
    raise AssertionError(f"not ready again: {status}")


def stream(network, on_first, **changes):
    """Ask by SSE and call `on_first` when the first text has come; the text, and the last event."""
    body = {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": True,
        "seed": 11,
        "max_tokens": 40,
        **changes,
    }
    text, last = "", None
    url = f"{network.client['api_url']}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=120, trust_env=False) as reply:
        for line in reply.iter_lines():
            if not line.startswith("data: "):
                continue
            last = line.removeprefix("data: ")
            with contextlib.suppress(ValueError, KeyError, IndexError):
                piece = json.loads(last)["choices"][0]["delta"].get("content") or ""
                if piece and not text:
                    on_first()
                text += piece
    return text, last


@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_every_answer_survives_the_death_of_a_relay(network, rounds):
    undisturbed, end = stream(network, lambda: None)
    assert end == "[DONE]"
    assert len(undisturbed) > 40
    whole = []
    for round_ in range(rounds):
        path = network.relays_in_use()[round_ % 4]
        victim = path[round_ % 3]
        text, end = stream(network, lambda: network.clove("testbed", "kill", victim))  # noqa: B023
        whole.append((text == undisturbed, end == "[DONE]", victim, HOPS[round_ % 3]))
        network.clove("testbed", "start", victim)
        await_ready(network, relays=16)
    assert [entry[:2] for entry in whole] == [(True, True)] * rounds, whole


def test_an_answer_ends_with_an_error_soon_after_its_model_node_died(network):
    killed_at = []

    def kill():
        network.clove("testbed", "kill", "serving")
        killed_at.append(time.monotonic())  # noqa: TID251 -- other processes' time

    text, last = stream(network, kill, max_tokens=400)
    waited_s = time.monotonic() - killed_at[0]  # noqa: TID251
    assert "error" in json.loads(last), last
    assert text
    assert waited_s < 15
    # The other model node takes the next one.
    text, last = stream(network, lambda: None)
    assert last == "[DONE]"


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
        assert serving(network) == 1
    deadline = time.monotonic() + 10  # noqa: TID251 -- other processes' time
    while serving(network) and time.monotonic() < deadline:  # noqa: TID251
        pass
    assert serving(network) == 0


def serving(network):
    models = [node for node in network.nodes if node["role"] == "model"]
    pages = [network.api(node, "/metrics").text for node in models]
    lines = [
        line for page in pages for line in page.splitlines() if line.startswith("clove_serving_requests ")
    ]
    return sum(float(line.split()[1]) for line in lines)


def test_down_leaves_no_process(network):
    pids = [node["pid"] for node in network.nodes]
    network.clove("testbed", "kill", "relay-03", "--signal", "STOP")
    network.clove("testbed", "down")
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists() and not is_zombie(pid)]


def is_zombie(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
