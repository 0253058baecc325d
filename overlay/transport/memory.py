"""A whole network in one process, without sockets: for simulations under a virtual clock, and for tests.

It keeps the same contract as the libp2p transport (one test checks both): streams are bounded and push back,
dialling a node that isn't there fails, and a node can be killed or cut off with no farewell.
"""

from collections import deque
from collections.abc import Callable, Sequence

import trio

from crypto.identity import NodeId
from overlay.errors import LocalProtocolError, UnreachableError
from overlay.transport.base import Accept, StreamClosedError

PIPE_BYTES = 256 * 1024
"""What a pipe holds before its sender waits: a yamux window."""


class _Pipe:
    """One direction of a stream. Chunks become readable `latency_s` after they were sent."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._closed = False
        self._ends_at = 0.0
        self._changed = trio.lowlevel.ParkingLot()

    def close(self) -> None:
        """Ends the pipe: what is in it can still be read, nothing more can be written."""
        if not self._closed:
            self._closed = True
            self._ends_at = trio.current_time() + self._latency_s
        self._changed.unpark_all()

    def discard(self) -> None:
        """Ends the pipe and forgets what is in it, as a broken connection does."""
        self._chunks.clear()
        self._held_bytes = 0
        self.close()

    async def put(self, data: bytes) -> None:
        for start in range(0, len(data), PIPE_BYTES):
            chunk = data[start : start + PIPE_BYTES]
            while not self._closed and self._held_bytes and self._held_bytes + len(chunk) > PIPE_BYTES:
                await self._changed.park()
            if self._closed:
                raise StreamClosedError("the stream is closed")
            self._chunks.append((trio.current_time() + self._latency_s, chunk))
            self._held_bytes += len(chunk)
            self._changed.unpark_all()
        await trio.lowlevel.checkpoint()

    async def take(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if self._chunks:
                await trio.sleep_until(self._chunks[0][0])
            if self._chunks and self._chunks[0][0] <= trio.current_time():
                return self._take_first(max_bytes)
            if not self._chunks:
                if self._closed:
                    await trio.sleep_until(self._ends_at)
                    return b""
                await self._changed.park()

    def _take_first(self, max_bytes: int) -> bytes:
        ready_at, chunk = self._chunks.popleft()
        if len(chunk) > max_bytes:
            self._chunks.appendleft((ready_at, chunk[max_bytes:]))
            chunk = chunk[:max_bytes]
        self._held_bytes -= len(chunk)
        self._changed.unpark_all()
        return chunk


class MemoryStream:
    """One end of a stream between two nodes of a MemoryNetwork."""

    def __init__(self, outgoing: _Pipe, incoming: _Pipe) -> None:
        self._outgoing = outgoing
        self._incoming = incoming

    async def send_all(self, data: bytes) -> None:
        """See ByteStream."""
        await self._outgoing.put(data)

    async def receive_some(self, max_bytes: int) -> bytes:
        """See ByteStream."""
        return await self._incoming.take(max_bytes)

    async def aclose(self) -> None:
        """See ByteStream."""
        self._outgoing.close()
        self._incoming.discard()
        await trio.lowlevel.checkpoint()

    def discard(self) -> None:
        """Breaks the stream as a lost connection does."""
        self._outgoing.discard()
        self._incoming.discard()


def _stream_pair(latency_s: float) -> tuple[MemoryStream, MemoryStream]:
    there, back = _Pipe(latency_s), _Pipe(latency_s)
    return MemoryStream(there, back), MemoryStream(back, there)


class MemoryConnection:
    """One end of a connection between two nodes of a MemoryNetwork."""

    def __init__(self, remote: NodeId, cells: MemoryStream, control: MemoryStream) -> None:
        self.remote = remote
        self.cells = cells
        self.control = control

    async def aclose(self) -> None:
        """See Connection."""
        await self.cells.aclose()
        await self.control.aclose()


class MemoryNetwork:
    """The nodes that can reach each other. `latency_s` is one way; a dial takes one round trip."""

    def __init__(self, latency_s: float = 0.0) -> None:
        self.latency_s = latency_s
        self.dial_count = 0
        self._listeners: dict[str, MemoryTransport] = {}
        self._connections: list[tuple[NodeId, NodeId, MemoryConnection, MemoryConnection]] = []
        self._cut: set[frozenset[NodeId]] = set()

    def transport(self, node_id: NodeId) -> "MemoryTransport":
        """Returns a transport for a node of this network; it can be dialled once it serves."""
        return MemoryTransport(self, node_id)

    def cut(self, one: NodeId, other: NodeId) -> None:
        """Breaks every connection between two nodes and makes new dials between them fail."""
        self._cut.add(frozenset((one, other)))
        self._break(lambda pair: pair == frozenset((one, other)))

    def mend(self, one: NodeId, other: NodeId) -> None:
        """Lets two nodes reach each other again."""
        self._cut.discard(frozenset((one, other)))

    def break_connections(self, node_id: NodeId) -> None:
        """Breaks every connection of a node with no farewell, as killing its process does."""
        self._break(lambda pair: node_id in pair)

    def _break(self, chosen: Callable[[frozenset[NodeId]], bool]) -> None:
        kept = []
        for entry in self._connections:
            dialler, acceptor, near, _ = entry
            if chosen(frozenset((dialler, acceptor))):
                near.cells.discard()
                near.control.discard()
            else:
                kept.append(entry)
        self._connections = kept

    def listen(self, transport: "MemoryTransport") -> None:
        """Makes a transport's addresses lead to it. Called by the transport, as are the three below."""
        for address in transport.addresses:
            if address in self._listeners:
                raise LocalProtocolError(f"{address} is already served")
            self._listeners[address] = transport

    def unlisten(self, transport: "MemoryTransport") -> None:
        """Takes the addresses back and breaks what is open."""
        for address in transport.addresses:
            self._listeners.pop(address, None)
        self.break_connections(transport.node_id)

    async def connect(self, dialler: NodeId, node_id: NodeId, addresses: Sequence[str]) -> MemoryConnection:
        """Opens a connection, or raises UnreachableError."""
        self.dial_count += 1
        await trio.sleep(2 * self.latency_s)
        for address in addresses:
            listener = self._listeners.get(address)
            if listener is None or listener.node_id != node_id or frozenset((dialler, node_id)) in self._cut:
                continue
            cells, remote_cells = _stream_pair(self.latency_s)
            control, remote_control = _stream_pair(self.latency_s)
            near = MemoryConnection(node_id, cells, control)
            far = MemoryConnection(dialler, remote_cells, remote_control)
            listener.accept_soon(far)
            self._connections.append((dialler, node_id, near, far))
            return near
        raise UnreachableError(f"no address of node {node_id.hex()[:16]} answered")

    def forget(self, connection: MemoryConnection) -> None:
        """Drops the record of an ended connection."""
        self._connections = [entry for entry in self._connections if entry[3] is not connection]


class MemoryTransport:
    """One node's way into a MemoryNetwork."""

    def __init__(self, network: MemoryNetwork, node_id: NodeId) -> None:
        self._network = network
        self._accept: Accept | None = None
        self._nursery: trio.Nursery | None = None
        self.node_id = node_id
        self.addresses: tuple[str, ...] = (f"/memory/{node_id.hex()}",)

    async def dial(self, node_id: NodeId, addresses: Sequence[str]) -> MemoryConnection:
        """See Transport."""
        return await self._network.connect(self.node_id, node_id, addresses)

    async def serve(
        self, accept: Accept, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See Transport."""
        async with trio.open_nursery() as nursery:
            self._accept, self._nursery = accept, nursery
            self._network.listen(self)
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._network.unlisten(self)
                self._accept = self._nursery = None

    def accept_soon(self, connection: MemoryConnection) -> None:
        """Hands an inbound connection to whoever serves this node. Called by the network."""
        if self._nursery is None:
            raise UnreachableError(f"node {self.node_id.hex()[:16]} does not listen")
        self._nursery.start_soon(self._own, connection)

    async def _own(self, connection: MemoryConnection) -> None:
        try:
            if self._accept is not None:
                await self._accept(connection)
        finally:
            with trio.CancelScope(shield=True):
                await connection.aclose()
            self._network.forget(connection)
