"""Real model nodes act as one: a conversation goes where its beginning is kept, and leaves when that node is busy."""

import json
import re
import threading
from contextlib import contextmanager

import httpx
import pytest

from tests.support.looking import look_until
from tests.support.testbed import running_network

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MODEL = "smollm2-135m"
SYSTEM = (
    "You are a careful librarian of a small mountain town. You answer in short sentences. The library has three rooms: "
    "the reading room with the long oak table, the cellar with the maps and the atlases, and the attic with newspapers "
    "since 1871. Visitors may borrow four books for three weeks; maps and newspapers stay in the house. Fines are ten "
    "cents a day. The library is open from nine to six, on Saturdays from ten to two. Children under ten come with a "
    "parent. "
) * 5  # some seven tenths of a second to read: no node that has it is passed over for a small thing
QUESTIONS = (
    "Where are the maps?",
    "May I borrow a newspaper?",
    "What does a day cost?",
    "Who was here in 1871?",
)
LONG_S = 60


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    with running_network(tmp_path_factory.mktemp("group") / "home", nodes=17, models=4) as running:
        models = [node for node in running.nodes if node["role"] == "model"]
        look_until(lambda: all(knows_all(running, node) for node in models), LONG_S, "the group has not met")
        for node in models:  # what an engine that has read nothing yet says of its speed is a guess
            get_used(running, node)
        yield running


def get_used(network, node):
    """Its owner asks a node for something, so that it knows how fast it is."""
    question = f"{node['name']}. " + "stone glass river cloud " * 120
    with streaming(network, node, question, max_tokens=16) as reply:
        assert reply.status_code == 200
        reply.read()


def streaming(network, node, question, **terms):
    """Its owner asks a node itself."""
    token = (network.home / "testbed" / "nodes" / node["name"] / "admin.token").read_text().strip()
    body = {"model": MODEL, "messages": [{"role": "user", "content": question}], "stream": True, **terms}
    return httpx.stream(
        "POST",
        node["api_url"] + "/v1/chat/completions",
        json=body,
        headers={"Authorization": f"Bearer {token}"},
        timeout=300,
        trust_env=False,
    )


def metric(network, node, name):
    page = network.api(node, "/metrics").text
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", page, re.MULTILINE))


def knows_all(network, node):
    """Whether a node knows the load of every member."""
    shown = network.clove("route", "explain", "--node", node["name"], "--json", "Hello", check=False)
    return shown.returncode == 0 and len(json.loads(shown.stdout)["candidates"]) == 4


def ask(network, question):
    """The account of one turn of the conversation that everybody may share."""
    network.clove("ask", "-q", "--cache", "public", "-s", SYSTEM, "--max-tokens", "8", question)
    return network.api(network.client, "/api/v1/answers/last").json()["account"]


def explain(network, node, question):
    return network.json("route", "explain", "-s", SYSTEM, "--node", node["name"], question)


def ahead_s(network, node):
    """What the node has to read, in seconds of its own speed."""
    token_s = metric(network, node, "clove_engine_prefill_token_seconds")
    return metric(network, node, "clove_engine_queued_tokens") * token_s


@contextmanager
def busy(network, node):
    """Its owner keeps a node busy: long prompts, and again when it has refused one as too many."""
    done = threading.Event()

    def keep_reading(number):
        for turn in range(LONG_S):
            question = f"Number {number}, {turn}. " + "cats rain iron bread " * 350
            with streaming(network, node, question, max_tokens=400, min_tokens=400) as reply:
                assert reply.status_code in (200, 429), reply.read()
                for _ in reply.iter_lines():
                    if done.is_set():
                        return
            if done.wait(float(reply.headers.get("retry-after", 0))):
                return

    streams = [threading.Thread(target=keep_reading, args=(number,)) for number in range(12)]
    for stream in streams:
        stream.start()
    try:
        # In seconds, as forwarders count: how many tokens that is depends on the machine.
        look_until(lambda: ahead_s(network, node) > 3, LONG_S, "the node is not busy")
        yield
    finally:
        done.set()
        for stream in streams:
            stream.join(LONG_S)


def test_a_conversation_stays_where_its_beginning_is_and_leaves_a_node_that_is_busy(network):
    models = {node["node_id"]: node for node in network.nodes if node["role"] == "model"}
    home = ask(network, QUESTIONS[0])["node"]
    look_until(
        lambda: all(
            any(each["node"] == home and each["cached_tokens"] >= 480 for each in shown["candidates"])
            for shown in (explain(network, node, QUESTIONS[1]) for node in models.values())
        ),
        LONG_S,
        "the others do not know what the node holds",
    )
    accounts = [ask(network, question) for question in QUESTIONS[1:]]
    assert [account["node"] for account in accounts] == [home] * 3
    assert all(account["cached_tokens"] >= 480 for account in accounts)
    others = [node for node in models.values() if node["node_id"] != home]
    look_until(
        lambda: explain(network, others[0], QUESTIONS[0])["chosen"] == home,
        LONG_S,
        "it is not seen that the node is free",
    )
    with busy(network, models[home]):
        look_until(
            lambda: all(explain(network, node, QUESTIONS[0])["chosen"] != home for node in models.values()),
            LONG_S,
            "it is not seen that the node is busy",
        )
        loaded = explain(network, others[0], QUESTIONS[0])
        (seen,) = [each for each in loaded["candidates"] if each["node"] == home]
        assert seen["ahead_s"] + seen["slot_s"] > 1.0 or loaded["probed"]
        account = ask(network, QUESTIONS[0])
        assert account["node"] in models
        assert account["node"] != home
    assert network.clove("verify", "last").returncode == 0


def test_route_explain_shows_every_term_to_people(network):
    shown = network.clove("route", "explain", "--node", "model-01", "Why is the sky blue?").stdout
    assert "by this node's view:" in shown
    assert re.search(r"NODE +CACHED +AHEAD +SLOT +READING +LATE +WAIT S", shown)
    assert shown.count("this node") >= 2
    assert re.search(r"^chosen: [0-9a-f]{12} \((probed|fresh|dominant|unanswered)\)$", shown, re.MULTILINE)


def test_a_node_without_the_model_says_whom_to_ask(network):
    failed = network.clove("route", "explain", "Why?", check=False)
    assert failed.returncode != 0
    assert "does not serve" in failed.stderr
    assert "--node model-01" in failed.stderr
