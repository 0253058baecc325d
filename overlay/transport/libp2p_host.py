"""The transport between real nodes: libp2p over TCP with Noise and yamux. Import it only where one is made.

The dialler of a link opens two streams on one libp2p connection, `/clove/control/1` and `/clove/link/1`; the
acceptor pairs them by that connection, not by peer, so that two nodes that dial each other at once get two
whole pairs to choose from, and never a mixture.
"""

import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import trio
from libp2p.abc import INetConn, INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from multiaddr import Multiaddr

from crypto.errors import DecodeError
from crypto.identity import NodeId
from overlay.errors import UnreachableError
from overlay.transport.addresses import (
    Address,
    dialable,
    node_id_of,
    parse_address,
    peer_id_bytes,
    peer_id_text,
)
from overlay.transport.base import Accept, StreamClosedError
from overlay.transport.libp2p_faults import (
    GOODBYE_S,
    MAX_DIALLED_ADDRESSES,
    SafeHost,
    close_quietly,
    contained,
    make_host,
    running,
)

CONTROL_PROTOCOL = TProtocol("/clove/control/1")
LINK_PROTOCOL = TProtocol("/clove/link/1")
OPEN_TIMEOUT_S = 8.0
"""For both streams of a pair, on a connection that stands."""
PAIRING_TIMEOUT_S = 10.0
"""The second stream of a pair must follow the first within this."""


class _Stream:
    """A ByteStream over one yamux stream."""

    def __init__(self, net_stream: INetStream) -> None:
        self._net_stream = net_stream
        self._stream = net_stream.muxed_stream

    async def send_all(self, data: bytes) -> None:
        """See ByteStream."""
        try:
            await self._stream.write(data)
        except Exception as error:
            raise StreamClosedError(str(error)) from error

    async def receive_some(self, max_bytes: int) -> bytes:
        """See ByteStream."""
        try:
            data: bytes = await self._stream.read(max_bytes)
        except Exception:  # noqa: BLE001 - the end of a stream or its connection has many names in libp2p
            return b""
        return data

    async def aclose(self) -> None:
        """See ByteStream."""
        async with contained("closing a stream"):
            await self._net_stream.close()
        await trio.lowlevel.checkpoint()


class _Connection:
    """A Connection: two streams on a libp2p connection, which ends with its last pair."""

    def __init__(self, remote: NodeId, cells: _Stream, control: _Stream, shared: "_Shared") -> None:
        self.remote = remote
        self.cells = cells
        self.control = control
        self._shared = shared
        self._closed = False
        shared.pairs += 1

    async def aclose(self) -> None:
        """See Connection."""
        if self._closed:
            return
        self._closed = True
        try:
            with trio.move_on_after(GOODBYE_S):
                await self.control.aclose()
                await self.cells.aclose()
        finally:
            self._shared.pairs -= 1
            if self._shared.pairs == 0:
                self._shared.close()


@dataclass(slots=True)
class _Shared:
    """What the pairs on one libp2p connection have in common."""

    swarm_connection: INetConn
    transport: "Libp2pTransport"
    pairs: int = 0

    def close(self) -> None:
        self.transport.release(self.swarm_connection)


@dataclass(slots=True)
class _HalfPair:
    """One inbound stream that waits for its twin; `done` is set when the pair is used up."""

    protocol: str
    net_stream: INetStream
    paired: trio.Event = field(default_factory=trio.Event)
    done: trio.Event = field(default_factory=trio.Event)


class Libp2pTransport:
    """One node's libp2p host.

    seed: the 32 bytes of the node's identity key. listen: addresses to listen on, port 0 for any free one.
    announce: what to give as our addresses instead of those listened on. allow_private: dial private ones.
    """

    def __init__(
        self,
        seed: bytes,
        listen: Sequence[str],
        *,
        announce: Sequence[str] = (),
        allow_private: bool = False,
        max_connections: int = 512,
    ) -> None:
        self._host: SafeHost = make_host(seed, max_connections=max_connections, allow_private=allow_private)
        self.node_id = node_id_of(self._host.get_id().to_bytes())
        self._listen = [parse_address(address) for address in listen]
        self._announce = tuple(announce)
        self.allow_private = allow_private
        self._half_pairs: dict[INetConn, _HalfPair] = {}
        self._shared: dict[INetConn, _Shared] = {}
        self._accept: Accept | None = None
        self._nursery: trio.Nursery | None = None

    @property
    def host(self) -> SafeHost:
        """The libp2p host, for other protocols on it (the DHT)."""
        return self._host

    @property
    def addresses(self) -> tuple[str, ...]:
        """See Transport. Each ends in /p2p/ and our peer id."""
        if self._announce:
            suffix = f"/p2p/{peer_id_text(self.node_id)}"
            return tuple(a if "/p2p/" in a else a + suffix for a in self._announce)
        found = [parse_address(str(address)) for address in self._host.get_addrs()]
        return tuple(str(address) for bound in found for address in self._reachable(bound))

    def _reachable(self, bound: Address) -> list[Address]:
        """What a wildcard address stands for: our address on the way out, and loopback on a local network."""
        if bound.host not in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound to
            return [bound]
        loopback, outside = ("127.0.0.1", "192.0.2.1") if bound.family == "ip4" else ("::1", "2001:db8::1")
        hosts = [_own_ip_towards(outside)] + [loopback] * self.allow_private
        return [replace(bound, host=host) for host in hosts if host is not None]

    async def serve(
        self, accept: Accept, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See Transport. Raises OSError when an address can't be listened on: another process has it, say."""
        for address in self._listen:
            _probe(address)
        async with trio.open_nursery() as nursery:
            self._accept, self._nursery = accept, nursery
            for protocol in (CONTROL_PROTOCOL, LINK_PROTOCOL):
                self._host.set_stream_handler(protocol, self._take_stream)
            try:
                async with running(self._host, [Multiaddr(str(address)) for address in self._listen]):
                    if len(self._host.get_network().listeners) < len({str(a) for a in self._listen}):
                        raise OSError(
                            errno.EADDRNOTAVAIL, f"can't listen on {', '.join(map(str, self._listen))}"
                        )
                    task_status.started()
                    await trio.sleep_forever()
            finally:
                self._nursery = None  # links that we dialled may close after us; the host has closed theirs

    async def dial(self, node_id: NodeId, addresses: Sequence[str]) -> _Connection:
        """See Transport."""
        peer_id = ID(peer_id_bytes(node_id))
        swarm = self._host.get_network()
        for swarm_connection in list(swarm.get_connections(peer_id)):
            connection = await self._open_pair(swarm_connection, node_id)
            if connection is not None:
                return connection
        usable = dialable(addresses, node_id, allow_private=self.allow_private)
        for address in usable[:MAX_DIALLED_ADDRESSES]:
            swarm_connection = await swarm.dial_address(address, peer_id)
            connection = swarm_connection and await self._open_pair(swarm_connection, node_id)
            if connection is not None:
                return connection
        reason = "answered" if usable else "may be dialled"
        raise UnreachableError(f"no address of node {node_id.hex()[:16]} {reason}")

    async def _open_pair(self, swarm_connection: INetConn, node_id: NodeId) -> _Connection | None:
        """Opens both streams on a connection; None where that fails or takes too long."""
        shared = self._share(swarm_connection)
        shared.pairs += 1  # so that the end of another pair can't close the connection meanwhile
        opened: dict[str, _Stream] = {}

        async def open_one(protocol: str) -> None:
            async with contained("opening a stream"):
                opened[protocol] = _Stream(await self._open_stream(swarm_connection, protocol))

        try:
            with trio.move_on_after(OPEN_TIMEOUT_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(open_one, CONTROL_PROTOCOL)
                    nursery.start_soon(open_one, LINK_PROTOCOL)
            if len(opened) == 2:
                return _Connection(node_id, opened[LINK_PROTOCOL], opened[CONTROL_PROTOCOL], shared)
            return None
        finally:
            shared.pairs -= 1
            if shared.pairs == 0:
                shared.close()

    async def _open_stream(self, swarm_connection: INetConn, protocol: str) -> INetStream:
        net_stream = await swarm_connection.new_stream()
        try:
            await self._host.multiselect_client.select_one_of([protocol], MultiselectCommunicator(net_stream))
        except BaseException:
            with trio.move_on_after(GOODBYE_S) as goodbye:
                goodbye.shield = True
                await net_stream.reset()
            raise
        net_stream.set_protocol(protocol)
        return net_stream

    def _share(self, swarm_connection: INetConn) -> _Shared:
        return self._shared.setdefault(swarm_connection, _Shared(swarm_connection, self))

    def release(self, swarm_connection: INetConn) -> None:
        """Closes a libp2p connection that no pair uses any more, in the background: that takes .2 s."""
        self._shared.pop(swarm_connection, None)
        if self._nursery is not None:
            self._nursery.start_soon(close_quietly, swarm_connection)

    async def _take_stream(self, net_stream: INetStream) -> None:
        """Pairs an inbound stream with its twin. Returning before the pair is used up would close it."""
        protocol = net_stream.get_protocol()
        waiting = self._half_pairs.get(net_stream.swarm_conn)
        if waiting is not None and waiting.protocol != protocol:
            del self._half_pairs[net_stream.swarm_conn]
            waiting.paired.set()
            self._start(net_stream, waiting)
            await waiting.done.wait()
            return
        if waiting is not None:
            return  # a second stream of the same kind: not how the protocol goes
        half = self._half_pairs[net_stream.swarm_conn] = _HalfPair(protocol, net_stream)
        try:
            with trio.move_on_after(PAIRING_TIMEOUT_S):
                await half.paired.wait()
        finally:
            if self._half_pairs.get(net_stream.swarm_conn) is half:
                del self._half_pairs[net_stream.swarm_conn]
        if half.paired.is_set():
            await half.done.wait()

    def _start(self, net_stream: INetStream, half: _HalfPair) -> None:
        """Hands a pair to whoever accepts connections."""
        streams = {half.protocol: half.net_stream, net_stream.get_protocol(): net_stream}
        try:
            remote = node_id_of(net_stream.muxed_conn.peer_id.to_bytes())
        except DecodeError:  # a libp2p peer with another kind of key: not a node
            half.done.set()
            return
        connection = _Connection(
            remote,
            _Stream(streams[LINK_PROTOCOL]),
            _Stream(streams[CONTROL_PROTOCOL]),
            self._share(net_stream.swarm_conn),
        )
        if self._nursery is None:
            half.done.set()
        else:
            self._nursery.start_soon(self._own, connection, half)

    async def _own(self, connection: _Connection, half: _HalfPair) -> None:
        try:
            if self._accept is not None:
                await self._accept(connection)
        finally:
            with trio.move_on_after(GOODBYE_S) as goodbye:
                goodbye.shield = True
                await connection.aclose()
            half.done.set()


def _probe(address: Address) -> None:
    """Raises OSError where the port is taken. Fault 6: libp2p's SO_REUSEPORT lets two daemons share one."""
    if address.port == 0:
        return
    family = socket.AF_INET6 if address.family == "ip6" else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            raise OSError(error.errno, f"can't listen on {address}: {error.strerror}") from error


def _own_ip_towards(ip: str) -> str | None:
    """Returns the address that we would send from; connecting a datagram socket sends nothing."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((ip, 9))
        except OSError:
            return None  # no route
        return str(probe.getsockname()[0])
