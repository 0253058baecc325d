"""A tap at a node's seam: what its links hand to it once Noise is off, to be kept or meddled with."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from crypto.identity import NodeId
from overlay.transport.links import Link, LinkHandler
from overlay.wire.messages import ControlMessage

MeddleCell = Callable[[NodeId, NodeId, bytes], Iterable[bytes]]
MeddleMessage = Callable[[NodeId, NodeId, ControlMessage], Iterable[ControlMessage]]


def pass_on(_source, _target, what):
    return (what,)


@dataclass
class Wire:
    """All that passes between nodes. meddle_*: what arrives in place of what was sent; nothing, for a loss."""

    meddle_cell: MeddleCell = pass_on
    meddle_message: MeddleMessage = pass_on
    keeps: bool = False
    cells: list[tuple[NodeId, NodeId, bytes]] = field(default_factory=list)
    messages: list[tuple[NodeId, NodeId, ControlMessage]] = field(default_factory=list)


class Tap:
    """Stands between a node's links and its switch. Implements `LinkHandler`."""

    def __init__(self, node_id: NodeId, handler: LinkHandler, wire: Wire) -> None:
        self._node_id = node_id
        self._handler = handler
        self._wire = wire

    def link_opened(self, link: Link) -> None:
        self._handler.link_opened(link)

    def link_closed(self, peer: NodeId, reason: str) -> None:
        self._handler.link_closed(peer, reason)

    def cell_received(self, link: Link, cell: bytes) -> None:
        for arriving in self._wire.meddle_cell(link.peer, self._node_id, cell):
            if self._wire.keeps:
                self._wire.cells.append((link.peer, self._node_id, arriving))
            self._handler.cell_received(link, arriving)

    def message_received(self, link: Link, message: ControlMessage) -> None:
        for arriving in self._wire.meddle_message(link.peer, self._node_id, message):
            if self._wire.keeps:
                self._wire.messages.append((link.peer, self._node_id, arriving))
            self._handler.message_received(link, arriving)
