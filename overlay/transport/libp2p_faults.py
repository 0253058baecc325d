"""Faults of py-libp2p 0.8.1, mended by subclassing. Importing this module imports libp2p (0.7 s, 60 MB).

Each class says which fault it mends; `tests/integration/test_libp2p_faults.py` shows each one without its
mending. When the pinned version changes, run those tests against the plain classes first: what no longer
fails can go.
"""

import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import trio
from libp2p.abc import IMuxedConn, INetConn, INetStream, ISecureConn
from libp2p.crypto.ed25519 import Ed25519PrivateKey
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.config import ConnectionConfig
from libp2p.network.connection import swarm_connection
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux import yamux
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from crypto.errors import DecodeError
from overlay.transport.addresses import Address, dialable, may_dial, node_id_of

WRITE_STALL_S = 10.0
"""A peer that takes no bytes for so long loses the connection."""
GOODBYE_S = 0.5
"""What a closing connection may spend on saying so."""
CLOSE_S = 3.0
UPGRADE_S = 10.0
"""For Noise and muxer together, on an inbound connection."""
DIAL_TIMEOUT_S = 8.0
"""For one address, from TCP to the muxer."""
MAX_DIALLED_ADDRESSES = 4
"""Of what a node announces, so many are tried."""
FIRST_WINDOW_BYTES = yamux.DEFAULT_WINDOW_SIZE
WINDOW_BYTES = 1024 * 1024
"""What a peer may send ahead on one stream that is in use; yamux's own window grows to 16 MiB."""
MAX_INBOUND_STREAMS = 16
"""Streams that one connection may have open towards us."""

StreamHandler = Callable[[INetStream], Awaitable[None]]

log = logging.getLogger("overlay.transport")


@asynccontextmanager
async def contained(doing: str) -> AsyncIterator[None]:
    """Keeps what libp2p raises from going further: it may be anything, and a peer can provoke it."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - libp2p leaks UnicodeDecodeError, protobuf's, noise's and its own
        log.debug("%s: %r", doing, error)


class _WindowOverrunError(trio.TooSlowError):
    """A peer sent more than its window. Yamux closes the connection on this base class, and on no other."""


class _Stream(yamux.YamuxStream):  # type: ignore[misc]
    """A stream whose reader gives credit rarely, and is not cancelled while it does.

    Upstream answers nearly every read with a window update: sixty frames for the opening of a link. By then
    the bytes have left the buffer, so that cancelling the read there would lose them (fault 3).
    """

    recv_window: int
    target_recv_window: int
    _pending_recv_release: int

    async def _auto_tune_and_send_window_update(self, *, bytes_read: int = 0) -> None:
        self._pending_recv_release += bytes_read
        if self._pending_recv_release < FIRST_WINDOW_BYTES // 2:
            return
        credit, self._pending_recv_release = self._pending_recv_release, 0
        credit += WINDOW_BYTES - self.target_recv_window  # once: a stream that is used gets the larger window
        self.target_recv_window = WINDOW_BYTES
        self.recv_window += credit
        with trio.CancelScope(shield=True):
            await self.send_window_update(credit)


class _Streams(dict[int, yamux.YamuxStream]):
    """Yamux names the class of its streams; this is where they pass by."""

    def __setitem__(self, stream_id: int, stream: yamux.YamuxStream) -> None:
        stream.__class__ = _Stream
        super().__setitem__(stream_id, stream)


class _Buffer(bytearray):
    """Fault 4: the receive window is announced, but not enforced."""

    def __init__(self, stream: yamux.YamuxStream) -> None:
        super().__init__()
        self._stream = stream

    def extend(self, data: bytes) -> None:  # type: ignore[override]  # yamux gives it nothing else
        if len(data) > self._stream.recv_window:
            raise _WindowOverrunError
        super().extend(data)


class _Buffers(dict[int, bytearray]):
    """Yamux enters a stream first and its buffer next."""

    def __init__(self, streams: _Streams) -> None:
        super().__init__()
        self._streams = streams

    def __setitem__(self, stream_id: int, buffer: bytearray) -> None:
        del buffer  # an empty one
        super().__setitem__(stream_id, _Buffer(self._streams[stream_id]))


class _Session:
    """A secured connection that is over when a read of it fails, for whatever reason.

    Yamux lets a frame's body fail (to decrypt, say), closes that one stream and goes on reading what can't be
    read any more.
    """

    def __init__(self, session: ISecureConn) -> None:
        self._session = session

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)

    async def read(self, n: int | None = None) -> bytes:
        try:
            data: bytes = await self._session.read(n)
        except Exception as error:
            with trio.move_on_after(GOODBYE_S) as goodbye:
                goodbye.shield = True
                async with contained("closing an unreadable connection"):
                    await self._session.close()
            raise RawConnError("unreadable") from error
        return data


class SafeYamux(yamux.Yamux):  # type: ignore[misc]
    """Faults 3 and 4: a cancelled write desynchronises Noise, and buffers have no bound."""

    def __init__(self, secured_conn: ISecureConn, *args: object, **kwargs: object) -> None:
        super().__init__(_Session(secured_conn), *args, **kwargs)
        self.streams = _Streams()
        self.stream_buffers = _Buffers(self.streams)
        self.inbound_streams = 0
        self._credits: dict[int, int] = {}  # read, but not given back yet; by stream of ours, two a link
        self._write_limit_s = WRITE_STALL_S

    async def start(self) -> None:
        """Runs the connection. However that ends, the socket is closed: a cancelled close upstream leaves it."""
        try:
            await super().start()
        finally:
            with trio.move_on_after(GOODBYE_S) as goodbye:
                goodbye.shield = True
                async with contained("closing a socket"):
                    await self.secured_conn.close()

    async def _write_frame(self, data: bytes) -> None:
        # Before this point nothing has been encrypted; after it, Noise has counted the frame on our side, so
        # that the peer must get all of it or the connection is of no more use.
        await trio.lowlevel.checkpoint_if_cancelled()
        deadline = trio.current_time() + self._write_limit_s
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            async with self._write_lock:
                await self.secured_conn.write(data)
        if scope.cancelled_caught:
            self.event_shutting_down.set()
            with trio.move_on_after(GOODBYE_S) as goodbye:
                goodbye.shield = True
                await self.secured_conn.close()
            raise RawConnError("the peer takes no bytes")

    async def close(self, error_code: int = 0) -> None:
        """Closes without waiting for a peer that doesn't read."""
        self._write_limit_s = GOODBYE_S
        if self._write_lock.locked():
            self.event_shutting_down.set()  # skips the farewell; closing the socket ends the stalled write
        await super().close(error_code)

    async def _measure_rtt_loop(self) -> None:
        """Upstream pings every 30 s to tune a window that we don't tune."""


class _SafeMuxers(MuxerMultistream):  # type: ignore[misc]
    """The class given as `muxer_opt` is ignored for yamux: the stock one is built whatever was asked for."""

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        protocol, muxer = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        return self._annotate_connection(muxer(conn, peer_id, is_initiator=conn.is_initiator), conn, protocol)


async def _nothing(*_: object) -> None:
    """Stands in for a background service that we don't use."""


class SafeSwarm(Swarm):  # type: ignore[misc]
    """Faults 2 and 5: inbound slots are never freed; dialling is slow, partial and indiscriminate.

    Upstream dials one address of each kind, waits 121 s for silence, for ever inside Noise, and shuns a peer
    for 60 s after a failure. Its auto-connector, off here, dials every peer it has heard of.
    """

    def __init__(self, *args: object, allow_private: bool, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._allow_private = allow_private
        self.auto_connector.maybe_connect = _nothing
        self.auto_connector.run_background_task = _nothing

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """Dials by what the peer store knows; for protocols that dial by themselves, as the DHT does."""
        standing: list[INetConn] = self.get_connections(peer_id)
        if standing:
            return standing
        known = [str(address) for address in self.peerstore.addrs(peer_id)]
        try:
            usable = dialable(known, node_id_of(peer_id.to_bytes()), allow_private=self._allow_private)
        except DecodeError:
            usable = []  # a peer with another kind of key: not a node
        for address in usable[:MAX_DIALLED_ADDRESSES]:
            connection = await self.dial_address(address, peer_id)
            if connection is not None:
                return [connection]
        raise SwarmException("no address of this peer answered")

    async def dial_address(self, address: Address, peer_id: ID) -> INetConn | None:
        """Connects to one address in bounded time; None where that fails."""
        with trio.move_on_after(DIAL_TIMEOUT_S):
            async with contained(f"dialling {address}"):
                ip = await self._resolve(address)
                if ip is not None:
                    family = "ip6" if ":" in ip else "ip4"
                    target = Multiaddr(f"/{family}/{ip}/tcp/{address.port}")
                    return await self._dial_addr_single_attempt(target, peer_id)
        return None

    async def _resolve(self, address: Address) -> str | None:
        if not address.is_name:
            return address.host
        family = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}.get(address.family, socket.AF_UNSPEC)
        for found in await trio.socket.getaddrinfo(address.host, address.port, family, socket.SOCK_STREAM):
            ip = str(found[4][0])
            if may_dial(ip, allow_private=self._allow_private):
                return ip
        return None

    async def _do_handle_inbound_connection(
        self, read_write_closer: ReadWriteCloser, maddr: Multiaddr, failure_event: object
    ) -> None:
        del failure_event
        try:
            async with contained("inbound connection"):
                muxed = await self.upgrade_inbound_raw_conn(
                    RawConnection(read_write_closer, initiator=False), maddr
                )
                await muxed.event_closed.wait()
        finally:
            with trio.move_on_after(GOODBYE_S) as goodbye:
                goodbye.shield = True
                async with contained("closing an inbound connection"):
                    await read_write_closer.close()


class SafeHost(BasicHost):  # type: ignore[misc]
    """Faults 1 and 8: a handler's error ends the whole host, and its stream is left open."""

    def __init__(self, swarm: SafeSwarm) -> None:
        super().__init__(network=swarm, negotiate_timeout=10, disable_identify_address_discovery=True)
        # We say who we are when asked. Asking every peer, and taking news pushed by it, costs two streams a
        # connection and fills the peer store with what strangers say.
        swarm.notifees.clear()
        self.remove_stream_handler(ID_PUSH)
        self.counters: Counter[str] = Counter()
        self._names: dict[str, str] = {}

    def rename_protocol(self, theirs: str, ours: str) -> None:
        """Puts `ours` on the wire wherever libp2p's own code says `theirs`.

        KadDHT ignores its protocol_prefix, and would join the public IPFS network.
        """
        self._names[theirs] = ours

    def set_stream_handler(self, protocol_id: str, stream_handler: StreamHandler) -> None:
        """See IHost."""
        super().set_stream_handler(self._names.get(protocol_id, protocol_id), stream_handler)

    async def new_stream(self, peer_id: ID, protocol_ids: Sequence[str]) -> INetStream:
        """See IHost."""
        return await super().new_stream(peer_id, [self._names.get(name, name) for name in protocol_ids])

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        muxed = net_stream.muxed_conn
        if muxed.inbound_streams >= MAX_INBOUND_STREAMS:
            self.counters["streams_refused"] += 1
            await _end(net_stream.reset)
            return
        muxed.inbound_streams += 1
        try:
            await super()._swarm_stream_handler(net_stream)
        except Exception as error:  # noqa: BLE001 - whatever a peer can provoke here must not reach the swarm
            self.counters["streams_failed"] += 1
            log.debug("stream handler: %r", error)
            await _end(net_stream.reset)
        finally:
            muxed.inbound_streams -= 1
            await _end(net_stream.close)


async def _end(close: Callable[[], Awaitable[None]]) -> None:
    with trio.move_on_after(GOODBYE_S) as goodbye:
        goodbye.shield = True
        async with contained("closing a stream"):
            await close()


def make_host(seed: bytes, *, max_connections: int, allow_private: bool) -> SafeHost:
    """Builds a host: TCP, Noise only (upstream offers plaintext by default), yamux only."""
    _tame_logging()
    private_key = Ed25519PrivateKey.from_bytes(seed)
    keys = KeyPair(private_key, private_key.get_public_key())
    upgrader = TransportUpgrader({NOISE: Noise(keys, noise_privkey=create_new_key_pair().private_key)}, {})
    upgrader.muxer_multistream = _SafeMuxers({TProtocol(yamux.PROTOCOL_ID): SafeYamux})
    peer_id = ID.from_pubkey(keys.public_key)
    store = PeerStore()
    store.add_key_pair(peer_id, keys)
    config = ConnectionConfig(
        max_connections=max_connections,
        min_connections=0,
        low_watermark=0,
        high_watermark=max_connections,
        max_connections_per_peer=4,
        inbound_upgrade_timeout=UPGRADE_S,
    )
    # No ResourceManager: its limiter leaks a slot on every denial (fault 9); max_connections above works.
    swarm = SafeSwarm(
        peer_id,
        store,
        upgrader,
        transports=[TCP()],
        connection_config=config,
        allow_private=allow_private,
    )
    return SafeHost(swarm)


@asynccontextmanager
async def running(host: SafeHost, listen: list[Multiaddr]) -> AsyncIterator[None]:
    """Runs a host. Fault 7: upstream leaks sockets or takes .2 s for each connection in turn."""
    swarm = host.get_network()
    async with host.run(listen):
        try:
            yield
        finally:
            with trio.move_on_after(CLOSE_S) as limit:
                limit.shield = True
                async with trio.open_nursery() as nursery:
                    for connection in swarm.get_connections():
                        nursery.start_soon(close_quietly, connection)
            with trio.move_on_after(CLOSE_S) as limit:
                limit.shield = True
                async with contained("closing the host"):
                    await host.close()


async def close_quietly(connection: INetConn) -> None:
    """Closes a connection, even when cancelled: one that was half closed is not closed a second time."""
    with trio.move_on_after(CLOSE_S) as limit:
        limit.shield = True
        async with contained("closing a connection"):
            await connection.close()


def _tame_logging() -> None:
    """Fault 10: libp2p warns of every end of a stream and logs what peers provoke, partly on the root."""
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    swarm_connection.logging = logging.getLogger("libp2p.network.connection")
