"""What every transport promises. Run against the memory network and against libp2p on loopback."""

import os

import pytest
import trio

from overlay.errors import UnreachableError
from overlay.transport.base import StreamClosedError
from tests.support.transports import connected, libp2p_transports, listening, memory_transports, read_exactly

pytestmark = pytest.mark.integration


@pytest.fixture(params=[memory_transports, libp2p_transports], ids=["memory", "libp2p"])
def make(request):
    return request.param()


async def test_both_ends_learn_who_the_other_is(make):
    async with listening(make()) as alice, listening(make()) as bob:
        near = await alice.transport.dial(bob.transport.node_id, bob.transport.addresses)
        far = await bob.inbound.receive()
        assert near.remote == bob.transport.node_id
        assert far.remote == alice.transport.node_id


async def test_both_streams_carry_bytes_both_ways_and_apart(make):
    async with connected(make) as (near, far, _):
        for stream, other in [(near.cells, far.cells), (near.control, far.control)]:
            await stream.send_all(b"there")
            await other.send_all(b"back!")
            assert await read_exactly(other, 5) == b"there"
            assert await read_exactly(stream, 5) == b"back!"


async def test_a_megabyte_arrives_whole_both_ways_at_once(make):
    data = os.urandom(1 << 20)
    async with connected(make) as (near, far, _):
        got = {}

        async def read(name, stream):
            got[name] = await read_exactly(stream, len(data))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.cells.send_all, data)
            nursery.start_soon(far.cells.send_all, data)
            nursery.start_soon(read, "near", near.cells)
            nursery.start_soon(read, "far", far.cells)
        assert got == {"near": data, "far": data}


async def test_a_sender_waits_for_a_reader_that_stalls(make):
    async with connected(make) as (near, far, _):
        data = os.urandom(3 << 20)
        with trio.move_on_after(0.3) as scope:
            await near.cells.send_all(data)
        assert scope.cancelled_caught
        assert await read_exactly(far.control, 0) == b""


async def test_closing_a_connection_ends_the_other_sides_reads(make):
    async with connected(make) as (near, far, _):
        await near.control.send_all(b"bye")
        await near.aclose()
        await near.aclose()
        assert await read_exactly(far.control, 100) == b"bye"
        assert await far.cells.receive_some(100) == b""


async def test_sending_on_a_closed_connection_says_so(make):
    async with connected(make) as (near, far, _):
        await far.aclose()
        assert await near.cells.receive_some(1) == b""

        async def insist():
            while True:  # what is on its way may still be taken
                await near.cells.send_all(bytes(1024))

        with pytest.raises(StreamClosedError):
            await insist()


async def test_a_cancelled_read_loses_nothing(make):
    data = os.urandom(40_000)
    async with connected(make) as (near, far, _):
        received = b""
        async with trio.open_nursery() as nursery:

            async def send():
                for start in range(0, len(data), 40):
                    await near.cells.send_all(data[start : start + 40])

            nursery.start_soon(send)
            while len(received) < len(data):
                with trio.move_on_after(0.0003):
                    received += await far.cells.receive_some(64)
        assert received == data


async def test_an_inbound_connection_is_closed_when_its_task_ends(make):
    async with connected(make) as (near, _, bob):
        bob.release.set()
        assert await near.control.receive_some(10) == b""


async def test_a_node_that_does_not_listen_is_unreachable(make):
    async with listening(make()) as alice:
        async with listening(make()) as bob:
            node_id, addresses = bob.transport.node_id, bob.transport.addresses
        with pytest.raises(UnreachableError):
            await alice.transport.dial(node_id, addresses)


async def test_a_node_without_addresses_is_unreachable(make):
    async with listening(make()) as alice:
        with pytest.raises(UnreachableError):
            await alice.transport.dial(os.urandom(32), [])


async def test_nobody_can_answer_for_another(make):
    async with listening(make()) as alice, listening(make()) as bob, listening(make()) as mallory:
        with pytest.raises(UnreachableError):
            await alice.transport.dial(
                bob.transport.node_id, [a.split("/p2p/")[0] for a in mallory.transport.addresses]
            )


async def test_a_bad_address_does_not_hide_a_good_one(make):
    async with listening(make()) as alice, listening(make()) as bob:
        addresses = ["nonsense", "/ip4/127.0.0.1/tcp/1", *bob.transport.addresses]
        connection = await alice.transport.dial(bob.transport.node_id, addresses)
        assert connection.remote == bob.transport.node_id


async def test_both_may_dial_at_once_and_get_two_whole_connections(make):
    async with listening(make()) as alice, listening(make()) as bob:
        dialled = {}

        async def dial(here, there):
            dialled[here.transport.node_id] = await here.transport.dial(
                there.transport.node_id, there.transport.addresses
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial, alice, bob)
            nursery.start_soon(dial, bob, alice)
        for here, there in [(alice, bob), (bob, alice)]:
            far = await there.inbound.receive()
            near = dialled[here.transport.node_id]
            await near.cells.send_all(b"cells")
            await near.control.send_all(b"words")
            assert await read_exactly(far.cells, 5) == b"cells"
            assert await read_exactly(far.control, 5) == b"words"


async def test_a_connection_may_be_closed_after_its_transport_has_ended(make):
    async with listening(make()) as bob:
        async with listening(make()) as alice:
            near = await alice.transport.dial(bob.transport.node_id, bob.transport.addresses)
            await bob.inbound.receive()
        await near.aclose()
