"""The daemon goes on without what it can do without."""

import contextlib
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from node.config import Config
from node.daemon import Daemon
from node.home import Home
from node.store import open_store
from overlay.wire.descriptor import sign_descriptor
from tests.support.descriptors import fixed_key, relay
from tests.support.network import a_prompt


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    home.create()
    return home


async def test_a_state_file_that_can_not_be_written_ends_no_daemon(autojump_clock, home):
    store = open_store(home.state_file)
    daemon = Daemon(Config(), home, store)
    store.close()  # every write fails from here on, as on a full disk
    stranger = fixed_key("stranger")
    now = daemon._clock.unix_time()
    descriptor = relay(1, node_id=stranger.node_id, issued_unix=int(now))
    daemon._switch.learn([sign_descriptor(stranger, descriptor)])
    assert daemon._guards.node_ids == (stranger.node_id,)
    daemon._save()


@pytest.fixture
async def leaving(autojump_clock, home):
    """A daemon without links, and a way to begin an answer of its owner's."""
    with contextlib.closing(open_store(home.state_file)) as store:
        daemon = Daemon(Config(), home, store)
        daemon._switch._links = SimpleNamespace(open_links=tuple)
        daemon._service._ask = lambda _answer_id, _prompt, _cache: contextlib.nullcontext()
        yield daemon


@pytest.mark.parametrize(("answer_s", "drained_s"), [(0.0, 0.0), (3.0, 3.0), (60.0, 10.0)])
async def test_an_answer_to_the_owner_may_end_before_the_daemon_does(
    autojump_clock, nursery, leaving, answer_s, drained_s
):
    async def ask():
        async with leaving._service.complete(a_prompt()):
            await trio.sleep(answer_s)

    nursery.start_soon(ask)
    await trio.testing.wait_all_tasks_blocked()
    began = trio.current_time()
    await leaving._drain()
    assert trio.current_time() - began == pytest.approx(drained_s, abs=0.2)
    nursery.cancel_scope.cancel()
