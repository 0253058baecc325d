"""A node on the leanly imported libp2p: it must do all that one on the whole of it does, and cost less."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

PROGRAM = """
import os, sys, time
import overlay.transport.lean_libp2p as lean
lean.import_libp2p()
lean.import_libp2p()
absent = sorted(name for name in lean.UNUSED if name in sys.modules)
assert not absent, absent
import trio
from crypto.identity import IdentityKey
from overlay.transport.dht import Dht
from overlay.transport.libp2p_host import Libp2pTransport
from overlay.wire.descriptor import Descriptor, sign_descriptor
from libp2p.host.ping import PingService
from libp2p.identity.identify.identify import ID as IDENTIFY

async def main():
    keys = [IdentityKey.from_seed(os.urandom(32)) for _ in range(2)]
    a, b = (Libp2pTransport(key.seed, ["/ip4/127.0.0.1/tcp/0"], allow_private=True) for key in keys)
    tables = [Dht(node, network=b"test", unix_time=lambda: 1_800_000_000) for node in (a, b)]
    async def accept(connection):
        await connection.cells.send_all(await connection.cells.receive_some(100))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for node, table in zip((a, b), tables):
                await nursery.start(node.serve, accept)
                await nursery.start(table.serve)
            named = "/dns4/localhost/tcp/" + b.addresses[0].split("/")[4]
            connection = await a.dial(b.node_id, [named])
            await connection.cells.send_all(b"cells")
            assert await connection.cells.receive_some(100) == b"cells"
            connection = await a.dial(b.node_id, b.addresses)
            await PingService(a.host).ping(b.host.get_id())
            stream = await a.host.new_stream(b.host.get_id(), [IDENTIFY])
            assert b"/clove/link/1" in await stream.read(4096)
            for table, other in zip(tables, (b, a)):
                await table.add_peer(other.node_id, other.addresses)
            record = sign_descriptor(keys[0], Descriptor(node_id=keys[0].node_id, seq=1, issued_unix=1_800_000_000,
                ttl_s=600, addresses=(), roles=frozenset()))
            await tables[0].put(record)
            assert await tables[1].get(keys[0].node_id) == record
            nursery.cancel_scope.cancel()
trio.run(main)
import httpx, prometheus_client, requests
assert isinstance(httpx.Client, type) and prometheus_client.Counter("x_total", "x") and requests.get
pages = int(open("/proc/self/statm").read().split()[1]) if os.path.exists("/proc/self/statm") else 0
print(pages * os.sysconf("SC_PAGE_SIZE") >> 20)
"""


def test_a_node_works_without_the_packages_it_never_calls():
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 150
