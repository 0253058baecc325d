"""`clove demo` in full: what it starts is looked up in /proc, what it says is held against that."""

import re
from pathlib import Path

import pytest

from tests.support.testbed import Network

pytestmark = [pytest.mark.integration, pytest.mark.slow]

RELAYS, MODELS = 16, 2


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The demo's output, its exit code, and the processes that were there while it answered."""
    network = Network(tmp_path_factory.mktemp("demo"))
    demo = network.start("demo")
    out, seen = "", {}
    for line in demo.stdout:
        out += line
        if line.startswith("answer") and not seen:
            seen = {node["name"]: process_of(node) for node in network.nodes}
    code = demo.wait(timeout=60)
    errors = demo.stderr.read()
    demo.stdout.close()
    demo.stderr.close()
    return out, code, seen, errors


def process_of(node):
    status = Path(f"/proc/{node['pid']}/status").read_text()
    parent = int(re.search(r"PPid:\s+(\d+)", status)[1])
    listens = {
        int(row.split()[1].rpartition(":")[2], 16)
        for row in Path(f"/proc/{node['pid']}/net/tcp").read_text().splitlines()[1:]
        if row.split()[3] == "0A"
    }
    return {
        "pid": node["pid"],
        "parent": parent,
        "listens": int(node["address"].split("/")[4]) in listens,
        **node,
    }


def test_demo_ends_with_0(told):
    out, code, _, errors = told
    assert code == 0, f"{out}\n{errors}"


def test_demo_runs_relays_model_nodes_and_a_client_as_separate_processes(told):
    _, _, seen, _ = told
    roles = [entry["role"] for entry in seen.values()]
    assert (roles.count("relay"), roles.count("model"), roles.count("client")) == (RELAYS, MODELS, 1)
    assert len({entry["pid"] for entry in seen.values()}) == RELAYS + MODELS + 1
    assert all(entry["listens"] for entry in seen.values())


def test_demo_shows_four_disjoint_circuits_of_three_listed_relays(told):
    out, _, seen, _ = told
    circuits = re.findall(r"^circuit \d+ .*$", out, re.MULTILINE)
    relays = [relay for line in circuits[:4] for relay in re.findall(r"relay-\d\d", line)]
    assert len(circuits) >= 4
    assert len(relays) == len(set(relays)) == 12
    assert set(relays) <= set(seen)


def test_demo_names_cloves_node_receipt_and_verdict(told):
    out, _, seen, _ = told
    assert re.search(r"any 2 of 4", out)
    node = re.search(r"answered by\s+(model-\d\d)", out)[1]
    assert seen[node]["role"] == "model"
    assert re.search(r"receipt\s+\d+ bytes, signed by " + node, out)
    assert re.search(r"verdict\s+accepted", out)


def test_nothing_of_the_demo_is_left(told):
    _, _, seen, _ = told
    for entry in seen.values():
        command = Path(f"/proc/{entry['pid']}/cmdline")
        assert not command.exists() or b"node" not in command.read_bytes()
