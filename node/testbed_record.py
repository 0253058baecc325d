"""testbed.json: the nodes of the local test network, for whoever wants to find their processes."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

from node.home import Home, write_private


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEntry:
    """One node: a process of its own with a home of its own. api_url is empty until it has published one."""

    name: str
    role: str
    pid: int
    home: str
    node_id: str
    address: str
    api_url: str
    command: tuple[str, ...]

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> Self:
        """Read one entry. Raises KeyError, TypeError or ValueError on another shape."""
        texts = {name: str(table[name]) for name in ("name", "role", "home", "node_id", "address", "api_url")}
        return cls(pid=int(table["pid"]), command=tuple(map(str, table["command"])), **texts)


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """The whole network."""

    network: str
    started_unix: float
    nodes: tuple[NodeEntry, ...]

    @property
    def client(self) -> NodeEntry | None:
        """The node that commands ask."""
        return next((node for node in self.nodes if node.role == "client"), None)

    def find(self, name: str) -> NodeEntry | None:
        """The node of that name."""
        return next((node for node in self.nodes if node.name == name), None)


def read_record(home: Home) -> NetworkRecord | None:
    """The testbed under a home; None where there is none or its file can't be understood."""
    try:
        table = json.loads((home.testbed_dir / "testbed.json").read_text("utf-8"))
        nodes = tuple(NodeEntry.from_json(entry) for entry in table["nodes"])
        return NetworkRecord(str(table["network"]), float(table["started_unix"]), nodes)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_record(home: Home, record: NetworkRecord) -> None:
    """Write testbed.json whole or not at all."""
    write_private(home.testbed_dir / "testbed.json", json.dumps(asdict(record), indent=1).encode())


def remove_record(home: Home) -> None:
    """Forget the testbed."""
    (home.testbed_dir / "testbed.json").unlink(missing_ok=True)
