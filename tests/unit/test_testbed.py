"""The plan of a local network, and what a person is told when it can't come up."""

import json
import socket
import tomllib
from pathlib import Path

import pytest

from node import testbed_plan
from node.config import load_config
from node.errors import ConfigError, NoDaemonError, UsageError
from node.home import Home
from node.testbed import LocalNetworkError, bring_up, require_record, take_down
from node.testbed_plan import lay_out
from node.testbed_record import NetworkRecord, NodeEntry, read_record, write_record


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("CLOVE_MODELS", str(tmp_path / "no-models"))
    base = Home(tmp_path / "base")
    base.create()
    return base


def entry(name="relay-01", role="relay", pid=1):
    return NodeEntry(
        name=name,
        role=role,
        pid=pid,
        home="/h",
        node_id="ab",
        address="/ip4/1",
        api_url="http://x",
        command=("clove", "up"),
    )


def test_first_node_is_the_bootstrap_relay_and_last_the_client(base):
    plan = lay_out(base, nodes=19, models=2, model="m")
    assert [node.role for node in plan.nodes] == ["relay"] * 16 + ["model"] * 2 + ["client"]
    first, *rest = (load_config(node.home.config_file) for node in plan.nodes)
    assert first.network.bootstrap == ()
    assert {config.network.bootstrap for config in rest} == {(plan.nodes[0].address,)}


def test_no_port_is_one_that_an_outgoing_connection_may_take(base):
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if first >= 32_000:  # the kernel's default is 32768
        assert all(node.port < first for node in lay_out(base, nodes=19, models=2, model="m").nodes)


def test_a_port_that_is_taken_is_passed_over(base, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr(testbed_plan, "_PORTS", range(port, port + 300))
        assert port not in {node.port for node in lay_out(base, nodes=15, models=2, model="m").nodes}


def test_nodes_share_nothing_but_their_network(base):
    plan = lay_out(base, nodes=15, models=2, model="m")
    for differing in ("name", "port", "node_id", "address", "home"):
        assert len({getattr(node, differing) for node in plan.nodes}) == 15
    configs = [load_config(node.home.config_file) for node in plan.nodes]
    assert {config.network.id for config in configs} == {plan.network}
    assert all(len(config.roles.names) == 1 for config in configs)


@pytest.mark.parametrize(("nodes", "relaying"), [(14, 13), (16, 15), (17, 12), (19, 14)])
def test_model_nodes_relay_too_where_there_are_too_few_others(base, nodes, relaying):
    plan = lay_out(base, nodes=nodes, models=4, model="m")
    roles = [load_config(node.home.config_file).roles for node in plan.nodes]
    assert sum(each.relay for each in roles) == relaying
    assert sum(each.model for each in roles) == 4
    assert not roles[-1].relay


def test_two_networks_never_have_the_same_id(base):
    first = lay_out(base, nodes=14, models=1, model="m")
    assert lay_out(base, nodes=14, models=1, model="m").network != first.network


def test_settings_reach_every_node(base):
    plan = lay_out(
        base, nodes=4, models=1, model="m", settings={"privacy.n": "2", "privacy.k": "1", "privacy.hops": 1}
    )
    assert {load_config(node.home.config_file).privacy.n for node in plan.nodes} == {2}
    assert tomllib.loads(plan.nodes[0].home.config_file.read_text())["api"]["port"] == 0


@pytest.mark.parametrize(("nodes", "models"), [(13, 2), (14, 13), (19, 0), (300, 2)])
def test_sizes_that_make_no_sense_are_refused(base, nodes, models):
    with pytest.raises(UsageError):
        lay_out(base, nodes=nodes, models=models, model="m")


def test_wrong_setting_is_refused_before_anything_starts(base):
    with pytest.raises(ConfigError, match=r"did you mean privacy\.hops"):
        lay_out(base, nodes=19, models=2, model="m", settings={"privacy.hop": "2"})


def test_record_comes_back_as_it_was_written(base):
    record = NetworkRecord("testbed-1", 5.0, (entry(), entry("client", "client", 2)))
    write_record(base, record)
    assert read_record(base) == record
    assert record.client == record.find("client")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", json.dumps({"network": "x", "started_unix": 1, "nodes": [{}]})]
)
def test_damaged_record_counts_as_none(base, text):
    base.testbed_dir.mkdir()
    (base.testbed_dir / "testbed.json").write_text(text)
    assert read_record(base) is None
    with pytest.raises(NoDaemonError):
        require_record(base)


def test_taking_down_what_does_not_run_any_more_touches_no_process(base):
    # Pid 1 stands for a process that got a dead node's number: it doesn't hold that node's home.
    write_record(base, NetworkRecord("testbed-1", 5.0, (entry(pid=1),)))
    assert take_down(base) == 0
    assert read_record(base) is None


@pytest.mark.integration
@pytest.mark.parametrize("preload", [True, False])
def test_process_that_dies_is_named_with_the_end_of_its_log_and_nothing_is_left(base, preload):
    small = {"privacy.n": 1, "privacy.k": 1, "privacy.hops": 1}
    plan = lay_out(base, nodes=3, models=1, model="no-such-model", settings=small)
    with pytest.raises(LocalNetworkError, match=r"(?s)model-01.*died.*clove models pull no-such-model"):
        bring_up(base, plan, timeout_s=60, show=lambda _: None, preload=preload)
    assert read_record(base) is None
    assert all(node.home.holder() is None for node in plan.nodes)
