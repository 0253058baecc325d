"""The daemon goes on without what it can do without."""

import pytest

from node.config import Config
from node.daemon import Daemon
from node.home import Home
from node.store import open_store
from overlay.wire.descriptor import sign_descriptor
from tests.support.descriptors import fixed_key, relay


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
