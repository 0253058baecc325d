"""A foreign client: js-libp2p dials a node of ours, pings and identifies it. Needs Node.js and npm."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import trio

from overlay.transport.addresses import peer_id_text
from overlay.transport.libp2p_host import CONTROL_PROTOCOL, LINK_PROTOCOL, Libp2pTransport
from tests.support.transports import LOCAL, listening

HERE = Path(__file__).parent / "js"
pytestmark = [
    pytest.mark.integration,
    pytest.mark.js,
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs Node.js and npm"),
]


@pytest.fixture(scope="session")
def client() -> Path:
    """The script, with its packages installed beside it (from the lock file) if they aren't yet."""
    if not (HERE / "node_modules" / "libp2p").exists():
        subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=HERE, check=True, timeout=300
        )
    return HERE / "dial.mjs"


async def test_a_js_peer_dials_pings_and_identifies_a_node(client):
    transport = Libp2pTransport(os.urandom(32), LOCAL, allow_private=True)
    async with listening(transport) as node:
        with trio.fail_after(50):
            done = await trio.run_process(
                ["node", str(client), node.transport.addresses[0]], capture_stdout=True, cwd=HERE
            )
    told = json.loads(done.stdout)
    assert told["peerId"] == told["identified"] == peer_id_text(transport.node_id)
    assert (told["encryption"], told["multiplexer"]) == ("/noise", "/yamux/1.0.0")
    assert told["roundTripMs"] >= 0
    assert {CONTROL_PROTOCOL, LINK_PROTOCOL, "/ipfs/ping/1.0.0", "/ipfs/id/1.0.0"} <= set(told["protocols"])
