"""A network of 19 processes, used as a person uses it: the commands, curl, the openai package."""

import json
import re
import subprocess
from pathlib import Path

import openai
import pytest

from tests.support.testbed import listening_ports, running_network

pytestmark = [pytest.mark.integration, pytest.mark.slow]

QUESTION = "Name three colours."


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    with running_network(tmp_path_factory.mktemp("network")) as running:
        yield running


def test_every_node_is_a_process_with_sockets_of_its_own(network):
    nodes = network.nodes
    roles = [node["role"] for node in nodes]
    assert (roles.count("relay"), roles.count("model"), roles.count("client")) == (16, 2, 1)
    assert len({node["pid"] for node in nodes}) == len({node["node_id"] for node in nodes}) == 19
    for node in nodes:
        assert int(node["address"].split("/")[4]) in listening_ports(node["pid"])
        assert int(node["api_url"].rpartition(":")[2]) in listening_ports(node["pid"])
        session = Path(f"/proc/{node['pid']}/stat").read_text().rpartition(")")[2].split()[3]
        assert int(session) == node["pid"]


def test_model_nodes_have_a_worker_process_and_relays_have_none(network):
    def children(pid):
        tasks = Path(f"/proc/{pid}/task").iterdir()  # a child is listed under the thread that started it
        return [child for task in tasks for child in (task / "children").read_text().split()]

    for node in network.nodes:
        assert len(children(node["pid"])) == (1 if node["role"] == "model" else 0), node["name"]


def test_status_peers_circuits_and_models_say_what_is_so(network):
    status = network.json("status")
    assert status["readiness"]["ready"] is True
    assert (status["relays_known"], status["model_nodes_known"]) == (16, 2)
    assert status["node_id"] == network.client["node_id"]
    known = {peer["node_id"] for peer in network.json("peers")}
    assert known >= {node["node_id"] for node in network.nodes if node["role"] != "client"}
    circuits = [row for row in network.json("circuits") if row["state"] == "open"]
    relays = [relay for row in circuits for relay in row["relays"]]
    assert len(relays) == len(set(relays)) == 12
    assert {len(row["relays"]) for row in circuits} == {3}
    listed = {node["node_id"] for node in network.nodes if node["role"] == "relay"}
    assert set(relays) <= listed
    assert any(row["alias"] == "smollm2-135m" for row in network.json("models", "list"))


def test_ask_with_an_argument_and_from_a_pipe_agree(network):
    asked = network.clove("ask", "--seed", "5", "--max-tokens", "12", QUESTION)
    piped = network.clove("ask", "--seed", "5", "--max-tokens", "12", stdin=QUESTION)
    assert asked.stdout.strip()
    assert asked.stdout == piped.stdout


def test_ask_as_json_accounts_for_circuits_and_cloves(network):
    answer = network.json("ask", "--max-tokens", "8", QUESTION)
    account = answer["account"]
    relays = [relay for path in account["circuits"] for relay in path]
    assert (account["k"], account["n"], account["cloves_sent"]) == (2, 4, 4)
    assert len(relays) == len(set(relays)) == 12
    assert account["node"] in {node["node_id"] for node in network.nodes if node["role"] == "model"}
    assert account["completion_tokens"] <= 8


def test_what_one_conversation_computed_is_there_for_its_next_prompt_and_for_no_other(network):
    question = "Tell me, in one sentence, what a lighthouse keeper does in the evening."
    asked = [
        network.json("ask", "--max-tokens", "4", text) for text in (question, question, f"Now {question}")
    ]
    first, again, other = (answer["account"] for answer in asked)
    assert again["node"] == first["node"]
    assert first["cached_tokens"] == 0
    assert 16 <= again["cached_tokens"] < again["prompt_tokens"]
    assert other["cached_tokens"] == 0


def test_chat_keeps_the_conversation(network):
    talk = network.clove("chat", "--max-tokens", "16", stdin="My name is Ada.\nWhat did I just say?\n/exit\n")
    assert talk.stdout.strip()


def test_curl_streams_server_sent_events(network):
    body = {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": True,
        "max_tokens": 8,
        "stream_options": {"include_usage": True},
    }
    url = f"{network.client['api_url']}/v1/chat/completions"
    command = ["curl", "-sN", url, "-H", "Content-Type: application/json", "-d", json.dumps(body)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    events = [line.removeprefix("data: ") for line in out.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert chunks[-1]["usage"]["completion_tokens"] <= 8


def test_openai_package_works_unmodified(network):
    with openai.OpenAI(base_url=f"{network.client['api_url']}/v1", api_key="unused") as client:
        assert "smollm2-135m" in {model.id for model in client.models.list()}
        asked = {
            "model": "smollm2-135m",
            "messages": [{"role": "user", "content": QUESTION}],
            "max_tokens": 10,
            "seed": 3,
        }
        whole = client.chat.completions.create(**asked)
        streamed = "".join(
            chunk.choices[0].delta.content or ""
            for chunk in client.chat.completions.create(**asked, stream=True)
            if chunk.choices
        )
        assert whole.choices[0].message.content == streamed
        assert whole.usage.completion_tokens <= 10
        text = client.completions.create(model="smollm2-135m", prompt="Once upon a time", max_tokens=5)
        assert text.choices[0].text


def test_unknown_model_names_those_that_are_served(network):
    url = f"{network.client['api_url']}/v1"
    asked = {"model": "gpt-9", "messages": [{"role": "user", "content": "hi"}]}
    with (
        openai.OpenAI(base_url=url, api_key="unused") as client,
        pytest.raises(openai.NotFoundError, match="smollm2-135m"),
    ):
        client.chat.completions.create(**asked)


def test_a_prompt_over_the_context_is_refused_with_both_numbers(network):
    done = network.clove("ask", "--max-tokens", "8", stdin="word " * 9000, check=False)
    assert done.returncode == 1
    assert re.search(r"9\d{3} tokens.*8191", done.stderr), done.stderr


def test_verify_accepts_an_honest_answer_and_rejects_changed_ones(network, tmp_path):
    file = tmp_path / "answer.json"
    network.clove("ask", "--max-tokens", "16", "--save", str(file), QUESTION)
    accepted = network.json("verify", str(file))
    assert accepted["accepted"] is True
    assert accepted["figures"]["tokens"] > 0
    for change in (change_text, change_temperature, change_nonce):
        kept = json.loads(file.read_text())
        change(kept["record"])
        altered = tmp_path / f"{change.__name__}.json"
        altered.write_text(json.dumps(kept))
        rejected = network.clove("verify", str(altered), "--json", check=False)
        assert rejected.returncode == 1, change.__name__
        verdict = json.loads(rejected.stdout)
        assert verdict["accepted"] is False
        assert verdict["reasons"]


def change_text(record):
    record["text"] += "!"


def change_temperature(record):
    record["prompt"]["sampler"]["temperature"] = 1.3


def change_nonce(record):
    record["prompt"]["nonce"] = "00" * 32
