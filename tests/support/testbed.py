"""A real test network of daemon processes, run through the command line as a person would."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
MODELS = Path(os.environ.get("CLOVE_MODELS") or ROOT / ".models")
COMMAND_S = 240
CLOVE = (sys.executable, "-m", "node")


@dataclass(frozen=True)
class Network:
    """A network that runs under `home`."""

    home: Path

    @property
    def environment(self):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CLOVE_")}
        return {**kept, "CLOVE_HOME": str(self.home), "CLOVE_MODELS": str(MODELS), "PYTHONPATH": str(ROOT)}

    def clove(self, *arguments, stdin=None, check=True):
        """Run a command to its end; its output and exit code."""
        done = subprocess.run(
            [*CLOVE, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=COMMAND_S,
            check=False,
        )
        assert not check or done.returncode == 0, (
            f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def start(self, *arguments):
        """Start a command and leave it running."""
        return subprocess.Popen(
            [*CLOVE, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )

    def json(self, *arguments):
        return json.loads(self.clove(*arguments, "--json").stdout)

    @property
    def nodes(self):
        return json.loads((self.home / "testbed" / "testbed.json").read_text())["nodes"]

    def node(self, name):
        return next(node for node in self.nodes if node["name"] == name)

    @property
    def client(self):
        return self.node("client")

    def api(self, node, path, **arguments):
        token = (Path(node["home"]) / "admin.token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.get(node["api_url"] + path, headers=headers, trust_env=False, timeout=10, **arguments)

    def _open_circuits(self):
        circuits = self.api(self.client, "/api/v1/circuits").json()["circuits"]
        return [circuit for circuit in circuits if circuit["state"] == "open"]

    def cells_received(self):
        """How many cells came through each of the client's open circuits."""
        return {circuit["circuit_id"]: circuit["cells_received"] for circuit in self._open_circuits()}

    def relays_in_use(self, since=None):
        """Names of relays on the client's open circuits, by their hop: guard, middle, proxy.

        since: of `cells_received`; then only of those through which something has come since.
        """
        names = {node["node_id"]: node["name"] for node in self.nodes}
        return [
            [names[relay] for relay in circuit["relays"]]
            for circuit in self._open_circuits()
            if (since is None or circuit["cells_received"] > since.get(circuit["circuit_id"], 0))
        ]


def listening_ports(pid):
    """TCP ports that a process itself listens on, as the kernel says."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link))  # noqa: PTH115 -- not a path
        except FileNotFoundError:
            continue
        if found:
            inodes.add(found[1])
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and row[9] in inodes}


@contextmanager
def running_network(home, *, nodes=19, models=2, more=()):
    """Bring a network up, and down again whatever happens; that ends every process. more: of `clove testbed up`."""
    network = Network(home)
    size = ("--nodes", str(nodes), "--models", str(models))
    network.clove("testbed", "up", *size, "--timeout", "200", *more)
    pids = {node["pid"] for node in network.nodes}
    try:
        yield network
    finally:
        pids |= {node["pid"] for node in network.nodes}  # of those that were started again
        network.clove("testbed", "down", check=False)
        left = [pid for pid in pids if is_running(pid)]
        for pid in left:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
    assert not left, "down has left processes"


def is_running(pid):
    """Whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
