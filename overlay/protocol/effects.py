"""What a machine of this room asks its driver to do. Performed in order, after the call."""

from dataclasses import dataclass

from crypto.identity import NodeId
from overlay.wire.cells import Cell


@dataclass(frozen=True, slots=True)
class SendCell:
    """Queue a cell on the link to `peer`. If that circuit's queue is full, call the machine's `send_failed`.

    A DESTROY always finds room: it takes the place of whatever its circuit had queued.
    """

    peer: NodeId
    cell: Cell


@dataclass(frozen=True, slots=True)
class OpenLink:
    """Make sure there is a link to `peer`; then call `link_ready(peer)` or `link_failed(peer)`."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class CloseLink:
    """The neighbour broke the protocol beyond one circuit: close the link to it."""

    peer: NodeId
    reason: str


@dataclass(frozen=True, slots=True)
class DeliverClove:
    """We are the proxy: hand a sealed clove to a model node with the token for answers to it."""

    destination: NodeId
    reply_token: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class RefuseAnswer:
    """Tell a model node that no circuit stands behind this reply token (any more)."""

    peer: NodeId
    reply_token: bytes


Effect = SendCell | OpenLink | CloseLink | DeliverClove | RefuseAnswer
