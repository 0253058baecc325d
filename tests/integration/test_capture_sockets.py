"""Real daemons, real sockets, the real model: what passes between nodes tells nobody on the way anything.

Captured on the sockets, by proxies in front of every node's port, and at every node's seam, where Noise is off.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import node.testbed
from node.home import Home
from node.testbed import bring_up, take_down
from node.testbed_plan import lay_out
from tests.support.capture import assert_nothing_readable, assert_nothing_recurs, assert_one_size
from tests.support.forwarder import forwarding
from tests.support.tapped_daemon import ANSWER, CELL, CLOVE, OTHER, Taps, read_taps
from tests.support.testbed import MODELS

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PROMPT = "My sister hid the spare keys of her bakery under the third flower pot. Where would you look? " * 12


@dataclass
class Capture:
    answer: str
    paths: list[list[str]]
    taps: Taps
    sockets: list[bytes]

    @property
    def readable(self):
        """All at the seams that could hold a prompt or an answer."""
        return [*self.taps.by_kind[CELL], *self.taps.by_kind[CLOVE], *self.taps.by_kind[ANSWER]]


def capture(folder, *, without=()):
    """Brings up a network of tapped daemons, asks one question and takes the network down."""
    base, taps = Home(folder / "home"), folder / "taps"
    base.create()
    taps.mkdir()
    plan = lay_out(base, nodes=14, models=1, model="smollm2-135m")
    with (
        pytest.MonkeyPatch.context() as patch,
        forwarding({planned.name: planned.port for planned in plan.nodes}) as forwarder,
    ):
        patch.setenv("CLOVE_MODELS", str(MODELS))
        starter = (sys.executable, "-m", "tests.support.tapped_daemon", str(taps), *without)
        patch.setattr(node.testbed, "module_command", lambda _module: starter)
        for planned in plan.nodes:
            announce_proxy(planned, plan.nodes[0], forwarder.ports)
        record = bring_up(base, plan, timeout_s=120.0, show=lambda _progress: None)
        try:
            answer, paths = ask(record.client.api_url, Home(Path(record.client.home)).admin_token())
        finally:
            take_down(base)
        return Capture(answer, paths, read_taps(taps), [bytes(kept) for kept in forwarder.captured])


def announce_proxy(planned, bootstrap, ports):
    """Nodes reach each other through the proxies alone."""
    text = planned.home.config_file.read_text("utf-8")
    text = text.replace(f"/tcp/{bootstrap.port}/p2p/", f"/tcp/{ports[bootstrap.name]}/p2p/")
    address = f"/ip4/127.0.0.1/tcp/{ports[planned.name]}"
    planned.home.config_file.write_text(text.replace("[network]\n", f'[network]\nannounce = ["{address}"]\n'))


def ask(api_url, token):
    body = {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 160,
        "min_tokens": 160,  # some seconds of cells at a fixed tick, however fast the machine is
        "seed": 1,
    }
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=api_url, headers=headers, timeout=120.0, trust_env=False) as client:
        reply = client.post("/v1/chat/completions", json=body).raise_for_status().json()
        answer_id = reply["id"].removeprefix("chatcmpl-")
        account = client.get(f"/api/v1/answers/{answer_id}").raise_for_status().json()["account"]
    return reply["choices"][0]["message"]["content"], account["circuits"]


@pytest.fixture(scope="module")
def protected(tmp_path_factory):
    return capture(tmp_path_factory.mktemp("protected"))


@pytest.fixture(scope="module")
def unprotected(tmp_path_factory):
    return capture(tmp_path_factory.mktemp("unprotected"), without=("layers", "sealing"))


def test_on_the_sockets_nothing_can_be_read(protected):
    assert sum(map(len, protected.sockets)) > sum(map(len, protected.readable)) > 500_000
    assert_nothing_readable(protected.sockets, [PROMPT, protected.answer])


def test_at_the_seams_nothing_can_be_read(protected):
    assert len(protected.answer) > 40
    assert_nothing_readable(protected.readable, [PROMPT, protected.answer])
    assert_nothing_readable(protected.taps.by_kind[OTHER], [PROMPT])


def test_at_the_seams_no_cell_can_be_told_or_followed(protected):
    assert len(protected.paths) == 4
    relays = {relay: protected.taps.seams[relay] for path in protected.paths for relay in path}
    assert len(relays) == 12
    assert all(len(seam.cells_in) + len(seam.payloads_in) > 30 for seam in relays.values())
    assert_one_size(protected.taps.by_kind[CELL])
    assert_nothing_recurs(relays)


def test_without_protection_the_same_capture_shows_all(unprotected):
    for secret in (PROMPT, unprotected.answer):
        with pytest.raises(AssertionError, match="can be read"):
            assert_nothing_readable(unprotected.readable, [secret])
    relays = {relay: unprotected.taps.seams[relay] for path in unprotected.paths for relay in path}
    for relay, seam in relays.items():
        if seam.cells_in and seam.cells_out:
            with pytest.raises(AssertionError, match="left it again"):
                assert_nothing_recurs({relay: seam})
    assert_nothing_readable(unprotected.sockets, [PROMPT, unprotected.answer])  # Noise still is there
