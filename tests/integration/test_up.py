"""`clove up`: one relay as a process, how it starts, refuses and ends."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from node.home import Home
from tests.support.looking import look_until

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
RELAY = ("up", "--role", "relay", "--listen", "/ip4/127.0.0.1/tcp/0", "--api-port", "0")
START_S = 60


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def start(home, *words):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CLOVE_")}
    return subprocess.Popen(
        [sys.executable, "-m", "node", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**inherited, "CLOVE_HOME": str(home.path), "PYTHONPATH": str(ROOT)},
    )


def clove(home, *words):
    with start(home, *words) as process:
        out, err = process.communicate(timeout=START_S)
    return process.returncode, out, err


@contextmanager
def running(home):
    with start(home, *RELAY) as daemon:
        try:
            info = look_until(lambda: daemon.poll() is not None or home.daemon(), START_S)
            assert daemon.poll() is None, daemon.communicate()
            yield daemon, info
        finally:
            if daemon.poll() is None:
                daemon.kill()
                daemon.communicate()


def test_sigterm_ends_a_daemon_with_0_and_leaves_a_clean_home(home):
    with running(home) as (daemon, info):
        assert info.pid == daemon.pid == home.holder()
        daemon.send_signal(signal.SIGTERM)
        _, logs = daemon.communicate(timeout=START_S)
        assert daemon.returncode == 0
    assert {json.loads(line)["level"] for line in logs.splitlines()} <= {"info"}
    assert not home.daemon_file.exists()
    assert home.holder() is None


def test_shutdown_ends_it_and_the_next_start_is_the_same_node(home):
    with running(home) as (daemon, info):
        first = info.node_id
        assert clove(home, "shutdown")[0] == 0
        assert daemon.wait(START_S) == 0
        daemon.communicate()
    with running(home) as (_, info):
        assert info.node_id == first


def test_second_daemon_on_a_home_is_refused_with_the_pid_of_the_first(home):
    with running(home) as (daemon, _):
        code, _, told = clove(home, *RELAY)
        assert code == 1
        assert f"pid {daemon.pid}" in told
        assert home.holder() == daemon.pid


def test_killed_daemon_leaves_a_home_that_starts_again(home):
    with running(home) as (daemon, _):
        daemon.kill()
        daemon.communicate()
    assert home.daemon() is None
    with running(home) as (_, info):
        assert info.pid == home.holder()


@pytest.mark.parametrize("taken", ["--listen", "--api-port"])
def test_port_in_use_is_said_in_a_sentence(home, taken):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        value = f"/ip4/127.0.0.1/tcp/{port}" if taken == "--listen" else str(port)
        code, _, told = clove(home, *RELAY, taken, value)
    assert code == 1
    assert "Traceback" not in told
    assert str(port) in told
    assert "choose another" in told


def test_model_that_is_not_here_is_said_with_the_command_that_brings_it(home):
    code, _, told = clove(
        home, "up", "--role", "model", "--model", "nope", "--listen", "/ip4/127.0.0.1/tcp/0"
    )
    assert code == 1
    assert "clove models pull nope" in told


def test_key_file_open_to_others_stops_the_start(home):
    assert clove(home, "init")[0] == 0
    home.identity_file.chmod(0o640)
    code, _, told = clove(home, *RELAY)
    assert code == 1
    assert "chmod 600" in told


def test_wrong_setting_ends_with_2(home):
    code, _, told = clove(home, "up", "--set", "privacy.hop=2")
    assert code == 2
    assert "did you mean privacy.hops (1 to 3)?" in told
