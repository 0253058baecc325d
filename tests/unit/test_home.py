"""The home folder: keys that only their owner reads, one daemon at a time."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from node.errors import AlreadyRunningError, HomeError, KeyFileError
from node.home import DaemonInfo, Home


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    home.create()
    return home


def test_identity_is_stable_across_restarts_and_private(home):
    seed = home.identity_seed()
    assert len(seed) == 32
    assert Home(home.path).identity_seed() == seed
    assert home.identity_file.stat().st_mode & 0o777 == 0o600
    assert home.path.stat().st_mode & 0o777 == 0o700


def test_key_file_that_others_may_read_is_refused_with_the_remedy(home):
    home.identity_seed()
    home.identity_file.chmod(0o644)
    with pytest.raises(KeyFileError, match="mode 0644") as caught:
        home.identity_seed()
    assert caught.value.remedy == f"mend it: chmod 600 {home.identity_file}"


def test_damaged_key_file_is_refused_and_left_alone(home):
    home.identity_seed()
    home.identity_file.write_bytes(b"short")
    with pytest.raises(KeyFileError, match="5 bytes instead of 32"):
        home.identity_seed()
    assert home.identity_file.read_bytes() == b"short"


def test_admin_token_is_stable_and_private(home):
    assert home.admin_token() == home.admin_token()
    assert home.admin_token_file.stat().st_mode & 0o777 == 0o600
    home.admin_token_file.write_bytes(b"\xff")
    with pytest.raises(KeyFileError, match="damaged"):
        home.admin_token()


def test_second_daemon_on_the_same_home_is_refused_with_the_pid(home):
    held = home.lock()
    with held:
        code = (
            "import sys; from pathlib import Path; from node.home import Home\n"
            "from node.errors import AlreadyRunningError\n"
            "try:\n  Home(Path(sys.argv[1])).lock().__enter__()\n"
            "except AlreadyRunningError as error:\n  print(error)\n"
        )
        run = [sys.executable, "-c", code, str(home.path)]
        told = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60).stdout
        assert f"pid {os.getpid()}" in told
        assert home.holder() == os.getpid()
    assert home.holder() is None


def test_lock_is_free_again_after_its_holder_is_gone(home):
    with home.lock(), pytest.raises(AlreadyRunningError), home.lock():
        pass
    with home.lock():
        assert home.holder() == os.getpid()


def test_daemon_is_found_only_while_it_holds_the_lock(home):
    info = DaemonInfo(os.getpid(), "ab" * 32, "http://127.0.0.1:1", ("/ip4/127.0.0.1/tcp/2",), 3.0)
    assert home.daemon() is None
    with home.lock():
        assert home.daemon() is None
        home.publish(info)
        assert home.daemon() == info
    assert home.daemon() is None, "a file left by a killed daemon does not count"
    home.publish(replace(info, pid=info.pid + 1))
    with home.lock():
        assert home.daemon() is None, "nor while the next one is starting"


def test_home_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match="can't be made"):
        Home(tmp_path / "file").create()


def test_environment_names_the_home_and_the_shared_models(tmp_path, monkeypatch):
    monkeypatch.setenv("CLOVE_HOME", str(tmp_path / "a"))
    monkeypatch.delenv("CLOVE_MODELS", raising=False)
    assert Home.locate().path == tmp_path / "a"
    assert Home.locate().models_dir == tmp_path / "a" / "models"
    monkeypatch.setenv("CLOVE_MODELS", str(tmp_path / "shared"))
    assert Home.locate(tmp_path / "b").path == tmp_path / "b"
    assert Home.locate().models_dir == tmp_path / "shared"
