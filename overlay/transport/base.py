"""What a transport is: authenticated connections between nodes, two byte streams each.

This is the seam that fakes fill. A connection is dialled by one side and accepted by the other; both learn
the other's NodeId from the transport's own handshake, never from what the peer says later. What travels on the
streams is not the transport's business.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from crypto.identity import NodeId


class StreamClosedError(Exception):
    """The stream broke or was closed, by either side; nothing further can be sent on it."""


class ByteStream(Protocol):
    """An ordered, reliable stream of bytes with back-pressure."""

    async def send_all(self, data: bytes) -> None:
        """Sends all of it, or raises StreamClosedError.

        A cancelled call may have sent a part; the stream must then not be written again.
        """

    async def receive_some(self, max_bytes: int) -> bytes:
        """Returns at least one byte; b"" after the end, however that came. Cancelling loses nothing."""

    async def aclose(self) -> None:
        """Closes both directions. May be called twice."""


class Connection(Protocol):
    """One connection to an authenticated peer."""

    @property
    def remote(self) -> NodeId:
        """Who is at the other end."""

    @property
    def cells(self) -> ByteStream:
        """Carries fixed-size cells and nothing else."""

    @property
    def control(self) -> ByteStream:
        """Carries framed control messages."""

    async def aclose(self) -> None:
        """Closes both streams and, when nothing else uses it, what they run over. May be called twice."""


Accept = Callable[[Connection], Awaitable[None]]
"""Owns an inbound connection until it returns; must not raise."""


class Transport(Protocol):
    """Dials and accepts connections for one node."""

    @property
    def node_id(self) -> NodeId:
        """Our own id, which every peer has seen proved."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where we can be dialled, once `serve` has started."""

    async def dial(self, node_id: NodeId, addresses: Sequence[str]) -> Connection:
        """Opens a connection to exactly this node. Raises UnreachableError when no address answers."""

    async def serve(
        self, accept: Accept, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listens until cancelled. Each inbound connection gets a task, and is closed when that ends."""
