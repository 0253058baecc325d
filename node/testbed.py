"""Runs a local test network: separate daemon processes, started together, watched until ready, ended together."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from node.clock import monotonic, unix_time
from node.engine.launch import child_environment, module_command
from node.errors import NoDaemonError, NodeError
from node.home import Home
from node.testbed_plan import NetworkPlan, NodePlan
from node.testbed_record import NetworkRecord, NodeEntry, read_record, remove_record, write_record

_POLL_S = 0.15
_BOOTSTRAP_S = 20.0
_LAUNCHER_S = 60.0
_REQUEST_S = 2.0
_TAIL_LINES = 20
_END_S = 15.0
_REAP_S = 5.0
_REAP_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the network is. waiting_for says what is still missing, in words."""

    listening: int
    total: int
    waiting_for: str


class LocalNetworkError(NodeError):
    """The network did not come up, or there is none; the message says which node and why."""


def bring_up(
    base: Home,
    plan: NetworkPlan,
    *,
    timeout_s: float,
    show: Callable[[Progress], None],
    preload: bool = sys.platform == "linux",
) -> NetworkRecord:
    """Start every node and wait until prompts can be answered; on failure nothing keeps running.

    Raises:
        LocalNetworkError: a process died (with the end of its log), or the deadline passed (with what was missing).
    """
    deadline = monotonic() + timeout_s
    started: list[tuple[NodePlan, int]] = []
    start = _start_forked if preload else _start_spawned
    environment = _environment(base)
    try:
        show(Progress(0, len(plan.nodes), "processes"))
        for node, pid in start(plan.nodes, environment):
            started.append((node, pid))
        record = _record(plan, started)
        write_record(base, record)
        record = _await_ready(base, record, deadline, show)
    except BaseException:
        _end_all([(pid, node.home) for node, pid in started], grace_s=0)
        remove_record(base)
        raise
    write_record(base, record)
    return record


def take_down(base: Home) -> int:
    """End every node: SIGTERM, then SIGKILL for those that linger. Says how many had to be killed.

    Raises:
        NoDaemonError: there is no testbed.
    """
    record = require_record(base)
    # Whoever holds a node's home, which may be a daemon that was started there again by hand.
    holders = [(home.holder(), home) for home in (Home(Path(node.home)) for node in record.nodes)]
    killed = _end_all([(pid, home) for pid, home in holders if pid is not None], grace_s=_END_S)
    remove_record(base)
    return killed


def require_record(base: Home) -> NetworkRecord:
    """The testbed under this home. Raises NoDaemonError where there is none."""
    record = read_record(base)
    if record is None:
        raise NoDaemonError(f"no testbed runs under {base.path}", "start one: clove testbed up")
    return record


def is_running(node: NodeEntry) -> bool:
    """Whether that very daemon still holds its home."""
    return Home(Path(node.home)).holder() == node.pid


def send_signal(node: NodeEntry, number: int) -> None:
    """Signal a node: KILL, STOP and CONT reach its engine worker too, as when the machine dies.

    Raises:
        LocalNetworkError: it doesn't run any more.
    """
    if not is_running(node):
        raise LocalNetworkError(f"{node.name} does not run any more")
    if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT):
        os.kill(node.pid, number)
        return
    os.killpg(node.pid, number)
    deadline = monotonic() + _REAP_S
    pause = threading.Event()
    while number == signal.SIGKILL and is_running(node) and monotonic() < deadline:
        pause.wait(_REAP_POLL_S)


def start_again(base: Home, name: str, *, timeout_s: float) -> NodeEntry:
    """Start a node of the testbed that has ended, on the home that it had; its entry as it is now.

    Raises:
        NoDaemonError: there is no testbed.
        LocalNetworkError: there is no such node, it runs, or it did not come up in time.
    """
    record = require_record(base)
    node = record.find(name)
    if node is None:
        raise LocalNetworkError(f"no node {name!r}", "see their names: clove testbed status")
    home = Home(Path(node.home))
    if home.holder() is not None:
        raise LocalNetworkError(f"{name} runs already")
    pid = _spawn(node.command, home.logs_dir / "daemon.log", _environment(base))
    deadline = monotonic() + timeout_s
    while (info := home.daemon()) is None or info.pid != pid:
        if not _exists(pid) or monotonic() > deadline:
            _end_all([(pid, home)], grace_s=0)
            raise LocalNetworkError(f"{name} did not come up; the end of its log:\n{log_tail(home)}")
        threading.Event().wait(_POLL_S)
    again = replace(node, pid=pid, api_url=info.api_url)
    nodes = tuple(again if entry.name == name else entry for entry in record.nodes)
    write_record(base, replace(record, nodes=nodes))
    return again


def serving_node(record: NetworkRecord) -> NodeEntry:
    """The model node that answers a prompt now.

    Raises:
        LocalNetworkError: none does.
    """
    for node in record.nodes:
        if node.role == "model" and is_running(node) and _serving_requests(node) > 0:
            return node
    raise LocalNetworkError("no model node is answering a prompt at the moment")


def log_tail(home: Home, lines: int = _TAIL_LINES) -> str:
    """The end of a node's log."""
    with contextlib.suppress(OSError):
        text = (home.logs_dir / "daemon.log").read_text("utf-8", "replace")
        return "\n".join(text.splitlines()[-lines:])
    return "(no log)"


# --- starting ---------------------------------------------------------------------------------------


def _environment(base: Home) -> dict[str, str]:
    """Every node's home and settings are its own; the model cache is that of the testbed's home."""
    inherited = child_environment()
    kept = {k: v for k, v in inherited.items() if not (k.startswith("CLOVE_") and "__" in k)}
    return {**kept, "CLOVE_MODELS": str(base.models_dir)}


def _start_forked(
    nodes: Sequence[NodePlan], environment: Mapping[str, str]
) -> Iterator[tuple[NodePlan, int]]:
    """All from one preloading parent. The bootstrap node is the first to be forked, and redialled by the rest."""
    entries = [{"home": str(node.home.path), "log": str(node.log_file)} for node in nodes]
    launcher = subprocess.run(
        module_command("node.preload"),
        input=json.dumps(entries).encode(),
        capture_output=True,
        env=environment,
        timeout=_LAUNCHER_S,
        check=False,
    )
    if launcher.returncode != 0:
        complaint = launcher.stderr.decode("utf-8", "replace").strip().splitlines()
        raise LocalNetworkError(f"the launcher failed: {complaint[-1] if complaint else 'it said nothing'}")
    yield from zip(nodes, json.loads(launcher.stdout), strict=True)


def _start_spawned(
    nodes: Sequence[NodePlan], environment: Mapping[str, str]
) -> Iterator[tuple[NodePlan, int]]:
    """Each on its own, the bootstrap node first."""
    for node in nodes:
        yield node, _spawn(_command(node), node.log_file, environment)
        if node is nodes[0]:
            _await_listening(node)


def _spawn(command: tuple[str, ...], log: Path, environment: Mapping[str, str]) -> int:
    """A daemon in a session of its own, which outlives this process."""
    written = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), written, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(command[0], command, environment, file_actions=actions, setsid=True)


def _command(node: NodePlan) -> tuple[str, ...]:
    return (*module_command("node"), "up", "--home", str(node.home.path))


def _record(plan: NetworkPlan, started: Sequence[tuple[NodePlan, int]]) -> NetworkRecord:
    nodes = tuple(
        NodeEntry(
            name=node.name,
            role=node.role,
            pid=pid,
            home=str(node.home.path),
            node_id=node.node_id,
            address=node.address,
            api_url="",
            command=_command(node),
        )
        for node, pid in started
    )
    return NetworkRecord(plan.network, unix_time(), nodes)


def _await_listening(node: NodePlan) -> None:
    deadline = monotonic() + _BOOTSTRAP_S
    while monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", node.port), 1):
            return
        threading.Event().wait(_POLL_S)
    raise LocalNetworkError(f"{node.name} does not listen after {_BOOTSTRAP_S:g} s\n{log_tail(node.home)}")


# --- waiting ----------------------------------------------------------------------------------------


def _await_ready(
    base: Home, record: NetworkRecord, deadline: float, show: Callable[[Progress], None]
) -> NetworkRecord:
    pause = threading.Event()
    with httpx.Client(timeout=_REQUEST_S, trust_env=False) as client:
        while True:
            record = _with_urls(record)
            missing = _missing(record, client)
            listening = sum(bool(node.api_url) for node in record.nodes)
            show(Progress(listening, len(record.nodes), missing))
            if not missing:
                return record
            _check_alive(record)
            if monotonic() > deadline:
                raise LocalNetworkError(
                    f"not ready in time: {missing}", f"logs: {base.testbed_dir}/nodes/*/logs"
                )
            pause.wait(_POLL_S)


def _with_urls(record: NetworkRecord) -> NetworkRecord:
    nodes = []
    for node in record.nodes:
        info = None if node.api_url else Home(Path(node.home)).daemon()
        nodes.append(replace(node, api_url=info.api_url) if info else node)
    return replace(record, nodes=tuple(nodes))


def _missing(record: NetworkRecord, client: httpx.Client) -> str:
    """What is still missing for prompts to be answered; empty when nothing is."""
    silent = [node.name for node in record.nodes if not node.api_url]
    if silent:
        return f"{len(silent)} of {len(record.nodes)} processes"
    for node in record.nodes:
        if node.role in ("model", "client"):
            reply = _get(client, node, "/readyz")
            if reply is None or reply.is_error:
                reasons = reply.json().get("reasons", []) if reply is not None else ["no reply"]
                return f"{node.name}: {'; '.join(map(str, reasons)) or 'not ready'}"
    return _missing_peers(record, client)


def _missing_peers(record: NetworkRecord, client: httpx.Client) -> str:
    """The client may be ready before it knows everyone; a network is up when it does."""
    asked = record.client
    reply = _get(client, asked, "/api/v1/status") if asked else None
    if reply is None or reply.is_error:
        return "client: no status"
    status = reply.json()
    relays = sum(node.role == "relay" for node in record.nodes)
    models = sum(node.role == "model" for node in record.nodes)
    if status["relays_known"] < relays or status["model_nodes_known"] < models:
        return (
            f"client: knows {status['relays_known']} of {relays} relays,"
            f" {status['model_nodes_known']} of {models} model nodes"
        )
    return ""


def _get(client: httpx.Client, node: NodeEntry, path: str) -> httpx.Response | None:
    token = Home(Path(node.home)).admin_token()
    try:
        return client.get(f"{node.api_url}{path}", headers={"Authorization": f"Bearer {token}"})
    except httpx.HTTPError:
        return None


def _serving_requests(node: NodeEntry) -> float:
    with httpx.Client(timeout=_REQUEST_S, trust_env=False) as client:
        reply = _get(client, node, "/metrics")
    for line in reply.text.splitlines() if reply is not None else ():
        if line.startswith("clove_serving_requests "):
            return float(line.rpartition(" ")[2])
    return 0.0


def _check_alive(record: NetworkRecord) -> None:
    for node in record.nodes:
        if not _exists(node.pid):
            home = Home(Path(node.home))
            raise LocalNetworkError(
                f"{node.name} (pid {node.pid}) died; the end of its log:\n{log_tail(home)}"
            )


def _exists(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return state != "Z"


# --- ending -----------------------------------------------------------------------------------------


def _end_all(processes: Sequence[tuple[int, Home]], *, grace_s: float) -> int:
    """Ask all to end, give them grace_s together, kill the rest. Says how many were killed."""
    if grace_s > 0:
        for pid, _ in processes:
            _signal(pid, signal.SIGTERM)
            _signal(pid, signal.SIGCONT)
    deadline = monotonic() + grace_s
    left = [pid for pid, _ in processes if _exists(pid)]
    pause = threading.Event()
    while left and monotonic() < deadline:
        pause.wait(_POLL_S)
        left = [pid for pid in left if _exists(pid)]
    for pid in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        _signal(pid, signal.SIGKILL)
    deadline = monotonic() + _REAP_S
    while any(_exists(pid) for pid in left) and monotonic() < deadline:
        pause.wait(_REAP_POLL_S)
    return len(left)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
