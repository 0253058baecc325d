"""Each fault of py-libp2p 0.8.1 that we know of, provoked against our host. Without its mending, each test fails."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.stream.exceptions import StreamError
from libp2p.stream_muxer.yamux.yamux import TYPE_DATA, Yamux

from overlay.errors import UnreachableError
from overlay.transport import libp2p_faults
from overlay.transport.addresses import parse_address
from overlay.transport.base import StreamClosedError
from overlay.transport.libp2p_host import LINK_PROTOCOL, Libp2pTransport
from tests.support.transports import LOCAL, connected, libp2p_transports, listening, read_exactly

pytestmark = pytest.mark.integration
make = libp2p_transports()


def limited(max_connections: int) -> Libp2pTransport:
    return Libp2pTransport(os.urandom(32), LOCAL, allow_private=True, max_connections=max_connections)


async def swarm_connection(here, there):
    """A bare libp2p connection, with none of our streams on it."""
    address = parse_address(there.transport.addresses[0])
    connection = await here.transport.host.get_network().dial_address(address, there.transport.host.get_id())
    assert connection is not None
    return connection


async def still_answers(there) -> None:
    async with listening(make()) as visitor:
        connection = await visitor.transport.dial(there.transport.node_id, there.transport.addresses)
        await connection.cells.send_all(b"?")
        far = await there.inbound.receive()
        while far.remote != visitor.transport.node_id:
            far = await there.inbound.receive()
        assert await read_exactly(far.cells, 1) == b"?"


@pytest.mark.parametrize(
    "garbage", [b"\x03\xff\xfe\n", b"\xff" * 40, b"\x00", b"\x13/multistream/1.0.0\n\x04\xff\xff\xff\n"]
)
async def test_garbage_on_a_new_stream_does_not_end_the_host(garbage):
    async with listening(make()) as mallory, listening(make()) as bob:
        stream = await (await swarm_connection(mallory, bob)).new_stream()
        await stream.muxed_stream.write(garbage)
        await stream.close()
        await still_answers(bob)


async def test_an_error_in_a_handler_does_not_end_the_host():
    async def broken(stream):
        await stream.read(1)
        raise ZeroDivisionError

    async with listening(make()) as mallory, listening(make()) as bob:
        bob.transport.host.set_stream_handler("/broken/1", broken)
        bob_id = bob.transport.host.get_id()
        await swarm_connection(mallory, bob)
        stream = await mallory.transport.host.new_stream(bob_id, ["/broken/1"])
        await stream.write(b"x")
        with pytest.raises(StreamError):
            await stream.read(1)
        assert bob.transport.host.counters["streams_failed"] == 1
        await still_answers(bob)


@pytest.mark.parametrize(
    "hello",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 100,
        b"\x13/multistream/1.0.0\n" + b"\x07/noise\n" + b"\0\x05junk!",
    ],
)
async def test_garbage_on_a_new_connection_does_not_end_the_host(hello):
    async with listening(make()) as bob:
        address = parse_address(bob.transport.addresses[0])
        raw = await trio.open_tcp_stream(address.host, address.port)
        async with raw:
            await raw.send_all(hello)
            await still_answers(bob)


async def test_inbound_slots_come_free_again():
    async with listening(limited(3)) as bob:
        for _ in range(8):
            async with listening(make()) as visitor:
                await (await visitor.transport.dial(bob.transport.node_id, bob.transport.addresses)).aclose()
            with trio.fail_after(5):
                while bob.transport.host.get_network().get_connections():
                    await trio.testing.wait_all_tasks_blocked(0.01)


async def test_exactly_so_many_connections_are_taken():
    async with (
        listening(limited(2)) as bob,
        listening(make()) as one,
        listening(make()) as two,
        listening(make()) as three,
    ):
        for visitor in (one, two):
            await visitor.transport.dial(bob.transport.node_id, bob.transport.addresses)
        with pytest.raises(UnreachableError):
            await three.transport.dial(bob.transport.node_id, bob.transport.addresses)


async def test_cancelled_writes_leave_the_connection_sound():
    async with connected(make) as (near, far, _), trio.open_nursery() as nursery:

        async def drain():
            while await far.control.receive_some(1 << 16):
                pass

        nursery.start_soon(drain)
        cancelled = 0
        for attempt in range(60):
            with trio.move_on_after(0.0002 * (attempt % 7)) as scope:
                await near.control.send_all(os.urandom(60_000))
            cancelled += scope.cancelled_caught
        assert cancelled > 5
        await near.cells.send_all(b"sound")
        assert await read_exactly(far.cells, 5) == b"sound"
        nursery.cancel_scope.cancel()


async def test_a_peer_that_overruns_its_window_is_cut_off():
    async with connected(make) as (near, far, bob):
        stream = near.cells._stream
        stream.send_window = 1 << 30  # what an honest peer waits for, mallory takes
        with pytest.raises(StreamClosedError):
            await near.cells.send_all(bytes(64 << 20))
        held = sum(map(len, far.cells._stream.conn.stream_buffers.values()))
        assert held <= libp2p_faults.FIRST_WINDOW_BYTES
        await still_answers(bob)


async def test_a_write_that_stalls_ends_the_connection_and_no_more(monkeypatch):
    class Deaf:
        closed = False
        is_initiator = True

        async def write(self, _data):
            await trio.sleep_forever()

        async def close(self):
            self.closed = True

    monkeypatch.setattr(libp2p_faults, "WRITE_STALL_S", 0.05)
    session = Deaf()
    muxer = libp2p_faults.SafeYamux(session, peer_id=None)
    with pytest.raises(RawConnError):
        await muxer._write_frame(bytes(12))
    assert session.closed


async def test_a_body_that_does_not_decrypt_ends_the_connection():
    async with connected(make) as (near, far, bob):
        session = near.cells._stream.conn.secured_conn
        header = struct.pack("!BBHII", 0, TYPE_DATA, 0, near.cells._stream.stream_id, 100)
        await session.write(header)
        await session.conn.read_writer.read_write_closer.write(b"\x00\x20" + bytes(32))
        with trio.fail_after(2):
            await far.cells._stream.conn.event_closed.wait()
        await still_answers(bob)


async def test_a_silent_listener_is_given_up_in_time_and_not_shunned(monkeypatch):
    monkeypatch.setattr(libp2p_faults, "DIAL_TIMEOUT_S", 0.5)
    async with listening(make()) as alice, listening(make()) as bob:
        silent = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = silent[0].socket.getsockname()[1]
        async with silent[0]:
            with trio.fail_after(5), pytest.raises(UnreachableError):
                await alice.transport.dial(bob.transport.node_id, [f"/ip4/127.0.0.1/tcp/{port}"])
            # A failure a moment ago says nothing about another address of the same peer.
            both = [f"/ip4/127.0.0.1/tcp/{port}", *bob.transport.addresses]
            with trio.fail_after(5):
                assert await alice.transport.dial(bob.transport.node_id, both)


async def test_dialling_costs_no_fixed_delay():
    async with listening(make()) as alice, listening(make()) as bob:
        before = trio.current_time()
        for _ in range(5):
            await (await alice.transport.dial(bob.transport.node_id, bob.transport.addresses)).aclose()
        assert trio.current_time() - before < 1.0


async def test_a_port_in_use_is_refused():
    async with listening(make()) as alice:
        taken = alice.transport.addresses[0].split("/p2p/")[0]
        second = Libp2pTransport(os.urandom(32), [taken], allow_private=True)
        with pytest.raises(BaseExceptionGroup) as caught:
            async with listening(second):
                raise AssertionError("two hosts share a port")
        assert caught.group_contains(OSError, match="can't listen on")


def open_sockets() -> int:
    return sum("socket:" in str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts sockets in /proc")
async def test_shutdown_is_quick_and_leaves_no_socket():
    before = open_sockets()
    async with listening(make()) as bob:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                visitor = await nursery.start(_visit, bob)
                assert visitor
            assert open_sockets() > before + 8
            began = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began < 3
    assert open_sockets() <= before


async def _visit(bob, task_status):
    async with listening(make()) as visitor:
        await visitor.transport.dial(bob.transport.node_id, bob.transport.addresses)
        task_status.started(True)
        await trio.sleep_forever()


async def test_streams_whose_handler_forgets_them_are_freed():
    async def forgetful(stream):
        await stream.read(1)

    async with listening(make()) as alice, listening(make()) as bob:
        bob.transport.host.set_stream_handler("/forgetful/1", forgetful)
        connection = await swarm_connection(alice, bob)
        bob_id = bob.transport.host.get_id()
        for _ in range(300):  # yamux gives out 256 slots
            stream = await alice.transport.host.new_stream(bob_id, ["/forgetful/1"])
            await stream.write(b"x")
            await stream.close()
        assert len(connection.muxed_conn.streams) < 50


async def test_a_peer_has_only_so_many_streams_open():
    async with listening(make()) as mallory, listening(make()) as bob:
        connection = await swarm_connection(mallory, bob)
        for _ in range(3 * libp2p_faults.MAX_INBOUND_STREAMS):
            await connection.new_stream()
        await still_answers(bob)
        assert bob.transport.host.counters["streams_refused"] >= libp2p_faults.MAX_INBOUND_STREAMS


async def test_half_a_pair_is_not_a_connection_and_is_let_go(monkeypatch):
    monkeypatch.setattr("overlay.transport.libp2p_host.PAIRING_TIMEOUT_S", 0.2)
    async with listening(make()) as mallory, listening(make()) as bob:
        await swarm_connection(mallory, bob)
        stream = await mallory.transport.host.new_stream(bob.transport.host.get_id(), [LINK_PROTOCOL])
        with trio.fail_after(5), pytest.raises(StreamError):
            await stream.read(1)
        assert not bob.transport._half_pairs
        with pytest.raises(trio.WouldBlock):
            bob.inbound.receive_nowait()


@pytest.mark.parametrize("protocol", ["/plaintext/2.0.0", "/secio/1.0.0", "/tls/1.0.0"])
async def test_nothing_but_noise_is_offered(protocol):
    async with listening(make()) as bob:
        address = parse_address(bob.transport.addresses[0])
        async with await trio.open_tcp_stream(address.host, address.port) as raw:
            line = protocol.encode() + b"\n"
            await raw.send_all(b"\x13/multistream/1.0.0\n" + bytes([len(line)]) + line)
            answer = b""
            while b"na\n" not in answer:
                more = await raw.receive_some(100)
                assert more
                answer += more
            assert line not in answer


async def test_the_muxer_is_ours():
    async with connected(make) as (near, far, _):
        for end in (near, far):
            assert type(end.cells._stream.conn) is libp2p_faults.SafeYamux
            assert issubclass(libp2p_faults.SafeYamux, Yamux)


async def test_identity_is_the_nodes_and_peers_are_not_asked_for_theirs():
    async with listening(make()) as alice, listening(make()) as bob:
        await alice.transport.dial(bob.transport.node_id, bob.transport.addresses)
        await bob.inbound.receive()
        assert not alice.transport.host.get_network().notifees
        assert alice.transport.addresses[0].endswith(str(alice.transport.host.get_id()))


def test_announced_addresses_stand_in_for_those_listened_on():
    transport = Libp2pTransport(os.urandom(32), LOCAL, announce=["/ip4/9.9.9.9/tcp/4001"])
    assert transport.addresses == (f"/ip4/9.9.9.9/tcp/4001/p2p/{transport.host.get_id()}",)


async def test_a_wildcard_address_is_announced_as_one_that_can_be_dialled():
    wild = Libp2pTransport(os.urandom(32), ["/ip4/0.0.0.0/tcp/0"], allow_private=True)
    async with listening(wild) as bob, listening(make()) as alice:
        assert all("/0.0.0.0/" not in address for address in wild.addresses)
        assert (await alice.transport.dial(wild.node_id, wild.addresses)).remote == bob.transport.node_id


def test_libp2p_says_nothing_on_standard_error():
    program = """
import os, trio
from overlay.transport.libp2p_host import Libp2pTransport
async def main():
    a, b = (Libp2pTransport(os.urandom(32), ["/ip4/127.0.0.1/tcp/0"], allow_private=True) for _ in range(2))
    async def accept(connection):
        await connection.control.receive_some(1)
    async with trio.open_nursery() as nursery:
        await nursery.start(a.serve, accept)
        await nursery.start(b.serve, accept)
        raw = await trio.open_tcp_stream("127.0.0.1", int(b.addresses[0].split("/")[4]))
        await raw.send_all(b"junk")
        await raw.aclose()
        connection = await a.dial(b.node_id, b.addresses)
        stream = await a.host.new_stream(b.host.get_id(), ["/ipfs/ping/1.0.0"])
        try:
            await a.host.new_stream(b.host.get_id(), ["/unknown/1"])
        except Exception:
            pass
        await stream.muxed_stream.conn.secured_conn.close()
        await trio.sleep(0.3)
        connection = await a.dial(b.node_id, b.addresses)
        await connection.aclose()
        await trio.sleep(0.3)
        nursery.cancel_scope.cancel()
trio.run(main)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == done.stderr == ""


def test_an_unused_import_is_not_paid_for():
    """Libp2p costs 0.7 s and 60 MB: nothing of the overlay may import it but the modules that use it."""
    program = (
        "import sys, overlay.transport.links, overlay.transport.memory; sys.exit('libp2p' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
