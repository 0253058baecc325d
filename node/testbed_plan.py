"""What a local test network consists of: names, roles, homes, keys, ports, configurations. Nothing is started."""

import json
import os
import secrets
import shutil
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from crypto.identity import IdentityKey
from node.config import Config, load_config
from node.errors import NodeError, UsageError
from node.home import Home
from overlay.transport.addresses import peer_id_text

MAX_NODES = 200
_LOOPBACK = "127.0.0.1"
_PORTS = range(20_000, 32_000)
_PORT_TRIES = 20


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node to be. address is its libp2p address with its peer id."""

    name: str
    role: str
    home: Home
    port: int
    node_id: str
    address: str

    @property
    def log_file(self) -> Path:
        """Where its process writes."""
        return self.home.logs_dir / "daemon.log"


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """A whole network; the first node is the bootstrap relay, the last one the client."""

    network: str
    nodes: tuple[NodePlan, ...]


def lay_out(
    base: Home, *, nodes: int, models: int, model: str, settings: Mapping[str, object] | None = None
) -> NetworkPlan:
    """Make fresh homes for a network of so many nodes, `models` of them model nodes and one the client.

    settings: dotted keys that every node gets beside the testbed's own.

    Raises:
        UsageError: too few nodes for the circuits asked for, or too many for one machine.
        ConfigError: a setting is unknown or out of range.
    """
    extra = dict(settings or {})
    needed = _check_size(nodes, models, load_config(None, extra))
    network = f"testbed-{secrets.token_hex(4)}"
    folder = base.testbed_dir / "nodes"
    shutil.rmtree(folder, ignore_errors=True)
    roles = ["relay"] * (nodes - models - 1) + ["model"] * models + ["client"]
    names = _names(roles)
    ports = _free_ports(nodes)
    plans = tuple(
        _plan_node(Home(folder / name), name, role, port)
        for name, role, port in zip(names, roles, ports, strict=True)
    )
    threads = max(1, len(os.sched_getaffinity(0)) // max(1, models))
    for plan in plans:
        bootstrap = () if plan is plans[0] else (plans[0].address,)
        values = _settings_of(plan, network, bootstrap, model, threads)
        # Where there are too few relays for the circuits, model nodes relay as well: for all prompts but their own.
        values["roles.relay"] = plan.role == "relay" or (
            plan.role == "model" and roles.count("relay") < needed
        )
        values |= extra
        plan.home.config_file.write_text(_to_toml(values), "utf-8")
        load_config(plan.home.config_file)
    return NetworkPlan(network, plans)


def _check_size(nodes: int, models: int, config: Config) -> int:
    """How many relays the circuits to one model node need."""
    if models < 1:
        raise UsageError("a testbed needs at least 1 model node")
    needed = config.privacy.n * config.privacy.hops
    remedy = f"clove testbed up --nodes {max(needed, models) + 2} --models {models}"
    if nodes < needed + 2:
        raise UsageError(
            f"{config.privacy.n} circuits of {config.privacy.hops} relays need {needed} nodes beside the client and"
            f" the model node that is asked, {nodes} nodes leave {max(0, nodes - 2)}",
            remedy,
        )
    if nodes < models + 2:
        raise UsageError(f"a testbed needs a relay beside {models} model nodes and the client", remedy)
    if nodes > MAX_NODES:
        raise UsageError(f"at most {MAX_NODES} nodes on one machine")
    return needed


def _names(roles: list[str]) -> list[str]:
    counts: dict[str, int] = {}
    names = []
    for role in roles:
        counts[role] = counts.get(role, 0) + 1
        names.append("client" if role == "client" else f"{role}-{counts[role]:02d}")
    return names


def _free_ports(count: int) -> list[int]:
    """Ports that are free now: all are held until the last is found, so no two are the same.

    Drawn from below those that the system gives to outgoing connections: one of these, opened before the node that
    the port is for has started, would have it.
    """
    with ExitStack() as held:
        ports: list[int] = []
        for _ in range(_PORT_TRIES * count):
            port = _PORTS.start + secrets.randbelow(len(_PORTS))
            try:
                held.enter_context(socket.socket()).bind((_LOOPBACK, port))
            except OSError:
                continue
            ports.append(port)
            if len(ports) == count:
                return ports
        raise NodeError(f"no {count} ports are free among {_PORTS.start} to {_PORTS.stop - 1}")


def _plan_node(home: Home, name: str, role: str, port: int) -> NodePlan:
    home.create()
    home.logs_dir.mkdir()
    home.admin_token()
    node_id = IdentityKey.from_seed(home.identity_seed()).node_id
    address = f"/ip4/{_LOOPBACK}/tcp/{port}/p2p/{peer_id_text(node_id)}"
    return NodePlan(name, role, home, port, node_id.hex(), address)


def _settings_of(
    plan: NodePlan, network: str, bootstrap: tuple[str, ...], model: str, threads: int
) -> dict[str, object]:
    return {
        "network.id": network,
        "network.bootstrap": list(bootstrap),
        "network.listen": [f"/ip4/{_LOOPBACK}/tcp/{plan.port}"],
        "network.profile": "test",
        "network.allow_private": True,
        "roles.model": plan.role == "model",
        "roles.client": plan.role == "client",
        "privacy.diversity": "local",
        "engine.models": [model],
        "engine.threads": threads,
        "engine.cache_mb": 512,  # every model node looks whether its own would fit into this one machine
        "api.port": 0,
        "logging.format": "json",
    }


def _to_toml(values: Mapping[str, object]) -> str:
    """JSON spells the texts, numbers, truths and lists used here as TOML does."""
    sections: dict[str, list[str]] = {}
    for dotted, value in values.items():
        section, _, key = dotted.partition(".")
        sections.setdefault(section, []).append(f"{key} = {json.dumps(value)}")
    return "\n".join(f"[{name}]\n" + "\n".join(lines) + "\n" for name, lines in sections.items())
