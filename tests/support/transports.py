"""Both transports behind one door, so that one contract test serves them."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from overlay.transport.base import ByteStream, Connection, Transport
from overlay.transport.lean_libp2p import import_libp2p
from overlay.transport.memory import MemoryNetwork

LOCAL = ["/ip4/127.0.0.1/tcp/0"]


def memory_transports() -> Callable[[], Transport]:
    network = MemoryNetwork()
    return lambda: network.transport(os.urandom(32))


def libp2p_transports() -> Callable[[], Transport]:
    import_libp2p()
    from overlay.transport.libp2p_host import Libp2pTransport

    return lambda: Libp2pTransport(os.urandom(32), LOCAL, allow_private=True)


@dataclass
class Listening:
    """A transport that serves; each inbound connection is kept open until the test lets go of it."""

    transport: Transport
    inbound: trio.MemoryReceiveChannel[Connection]
    release: trio.Event = field(default_factory=trio.Event)


@asynccontextmanager
async def listening(transport: Transport) -> AsyncIterator[Listening]:
    send, receive = trio.open_memory_channel[Connection](100)
    node = Listening(transport, receive)

    async def accept(connection: Connection) -> None:
        await send.send(connection)
        await node.release.wait()

    with send, receive, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(transport.serve, accept)
            yield node
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(make: Callable[[], Transport]) -> AsyncIterator[tuple[Connection, Connection, Listening]]:
    """Yields both ends of a connection from alice to bob, and bob."""
    async with listening(make()) as alice, listening(make()) as bob:
        near = await alice.transport.dial(bob.transport.node_id, bob.transport.addresses)
        far = await bob.inbound.receive()
        yield near, far, bob


async def read_exactly(stream: ByteStream, count: int) -> bytes:
    """Reads so many bytes, fewer only at the end of the stream."""
    data = b""
    while len(data) < count and (more := await stream.receive_some(count - len(data))):
        data += more
    return data
