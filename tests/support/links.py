"""Links under test: what a handler was told, and a node that is nothing but its links."""

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from crypto.identity import NodeId
from overlay.protocol.link import LINK_VERSION, LinkTiming
from overlay.transport.base import Transport
from overlay.transport.links import Link, Links
from overlay.wire.messages import ControlMessage, Hello

NETWORK = b"test"
QUICK = LinkTiming(heartbeat_s=0.2, dead_after_s=0.6, greeting_timeout_s=2.0)


def hello(network: bytes = NETWORK, version: int = LINK_VERSION, unix_time: int = 1_700_000_000) -> Hello:
    return Hello(version, network, difficulty=0, unix_time=unix_time)


def node_id(number: int) -> NodeId:
    """An id whose order is the number's; for transports that prove nothing."""
    return NodeId(number.to_bytes(32, "big"))


@dataclass
class Recorder:
    """A LinkHandler that keeps all it is told, and can be made to object to a cell or a message."""

    opened: list[NodeId] = field(default_factory=list)
    closed: list[tuple[NodeId, str]] = field(default_factory=list)
    cells: list[bytes] = field(default_factory=list)
    messages: list[ControlMessage] = field(default_factory=list)
    events: list[tuple[str, NodeId]] = field(default_factory=list)
    on_cell: Callable[[Link, bytes], None] | None = None
    on_message: Callable[[Link, ControlMessage], None] | None = None
    changed: trio.Event = field(default_factory=trio.Event)

    def _note(self, what: str, peer: NodeId) -> None:
        self.events.append((what, peer))
        self.changed.set()
        self.changed = trio.Event()

    def link_opened(self, link: Link) -> None:
        self.opened.append(link.peer)
        self._note("opened", link.peer)

    def link_closed(self, peer: NodeId, reason: str) -> None:
        self.closed.append((peer, reason))
        self._note("closed", peer)

    def cell_received(self, link: Link, cell: bytes) -> None:
        self.cells.append(cell)
        self._note("cell", link.peer)
        if self.on_cell is not None:
            self.on_cell(link, cell)

    def message_received(self, link: Link, message: ControlMessage) -> None:
        self.messages.append(message)
        self._note("message", link.peer)
        if self.on_message is not None:
            self.on_message(link, message)

    async def until(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Waits for a condition that only what the handler is told can bring about."""
        with trio.fail_after(timeout_s):
            while not condition():
                await self.changed.wait()


class Peer:
    """A transport, its links and their recorder."""

    def __init__(
        self, transport: Transport, *, timing: LinkTiming = QUICK, greeting: Hello | None = None
    ) -> None:
        self.transport = transport
        self.handler = Recorder()
        self.links = Links(transport, self.handler, lambda: greeting or hello(), timing=timing)

    @property
    def node_id(self) -> NodeId:
        return self.transport.node_id

    async def link_to(self, other: "Peer") -> Link:
        return await self.links.link_to(other.node_id, other.transport.addresses)
