"""`clove demo` in full: what it starts is looked up in /proc, what it says is held against that."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.testbed import Network, listening_ports

pytestmark = [pytest.mark.integration, pytest.mark.slow]

RELAYS, MODELS = 16, 2


@dataclass(frozen=True)
class Told:
    """What the demo said, how it ended, and what was there while it answered."""

    out: str
    errors: str
    code: int
    nodes: list[dict]
    processes: dict[str, "Process"]
    status: dict
    testbed: list[dict]


@dataclass(frozen=True)
class Process:
    parent: int
    listens: set[int]

    @classmethod
    def of(cls, pid):
        status = Path(f"/proc/{pid}/status").read_text()
        return cls(int(re.search(r"PPid:\s+(\d+)", status)[1]), listening_ports(pid))


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    network = Network(tmp_path_factory.mktemp("demo"))
    demo = network.start("demo")
    out, nodes, processes, status, testbed = "", [], {}, {}, []
    for line in demo.stdout:
        out += line
        if line.startswith("question"):
            nodes = network.nodes
            processes = {node["name"]: Process.of(node["pid"]) for node in nodes}
            status, testbed = network.json("status"), network.json("testbed", "status")
    code = demo.wait(timeout=60)
    errors = demo.stderr.read()
    demo.stdout.close()
    demo.stderr.close()
    return Told(out, errors, code, nodes, processes, status, testbed)


def test_demo_ends_with_0(told):
    assert told.code == 0, f"{told.out}\n{told.errors}"


def test_demo_runs_relays_model_nodes_and_a_client_as_separate_processes(told):
    roles = [node["role"] for node in told.nodes]
    assert (roles.count("relay"), roles.count("model"), roles.count("client")) == (RELAYS, MODELS, 1)
    pids = {node["pid"] for node in told.nodes}
    assert len(pids) == RELAYS + MODELS + 1
    assert not pids & {process.parent for process in told.processes.values()}
    for node in told.nodes:
        ports = {int(node["address"].split("/")[4]), int(node["api_url"].rpartition(":")[2])}
        assert ports <= told.processes[node["name"]].listens, node["name"]


def test_status_says_the_same_of_the_demo(told):
    running = {(node["name"], node["pid"]) for node in told.testbed if node["running"]}
    assert running == {(node["name"], node["pid"]) for node in told.nodes}
    assert told.status["readiness"]["ready"] is True
    assert (told.status["relays_known"], told.status["model_nodes_known"]) == (RELAYS, MODELS)
    client = next(node for node in told.nodes if node["role"] == "client")
    assert told.status["node_id"] == client["node_id"]


def test_demo_shows_four_disjoint_circuits_of_three_listed_relays(told):
    circuits = re.findall(r"^circuit \d+ .*$", told.out, re.MULTILINE)
    relays = [relay for line in circuits[:4] for relay in re.findall(r"relay-\d\d", line)]
    assert len(circuits) == 4
    assert len(relays) == len(set(relays)) == 12
    assert set(relays) <= {node["name"] for node in told.nodes if node["role"] == "relay"}


def test_demo_names_cloves_node_receipt_and_verdict(told):
    assert re.search(r"any 2 of 4", told.out)
    node = re.search(r"answered by\s+(model-\d\d)", told.out)[1]
    assert node in {node["name"] for node in told.nodes if node["role"] == "model"}
    assert re.search(r"receipt\s+\d+ bytes, signed by " + node, told.out)
    assert re.search(r"verdict\s+accepted", told.out)


def test_nothing_of_the_demo_is_left(told):
    for node in told.nodes:
        command = Path(f"/proc/{node['pid']}/cmdline")
        assert not command.exists() or b"node" not in command.read_bytes()
