"""`clove id`: what other nodes need to join by this one."""

import json
import os

from node.home import DaemonInfo, Home
from tests.support.command import clove

ANNOUNCED = "/dns4/node.example/tcp/4160"


def test_id_before_init_says_how_to_get_one(tmp_path):
    ran = clove("id", home=tmp_path / "home")
    assert ran.returncode == 1
    assert "clove init" in ran.stderr
    assert not (tmp_path / "home").exists()


def test_id_is_the_one_that_init_made(tmp_path):
    made = json.loads(clove("init", "--json", home=tmp_path).stdout)
    shown = json.loads(clove("id", "--json", home=tmp_path).stdout)
    assert shown["node_id"] == made["node_id"]
    assert shown["addresses"] == [f"/ip4/0.0.0.0/tcp/4160/p2p/{shown['peer_id']}"]


def test_address_is_the_announced_one_and_nothing_else(tmp_path):
    clove("init", home=tmp_path)
    ran = clove("id", "--address", home=tmp_path, CLOVE_NETWORK__ANNOUNCE=ANNOUNCED)
    peer_id = json.loads(clove("id", "--json", home=tmp_path).stdout)["peer_id"]
    assert ran.stdout == f"{ANNOUNCED}/p2p/{peer_id}\n"


def test_address_that_nobody_can_dial_is_refused(tmp_path):
    clove("init", home=tmp_path)
    ran = clove("id", "--address", home=tmp_path)
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert "announce" in ran.stderr


def test_a_running_daemon_is_believed(tmp_path):
    clove("init", home=tmp_path)
    home = Home(tmp_path)
    with home.lock():
        home.publish(
            DaemonInfo(os.getpid(), "00", "http://127.0.0.1:1", ("/ip4/192.0.2.1/tcp/9/p2p/x",), 1.0)
        )
        assert clove("id", "--address", home=tmp_path).stdout == "/ip4/192.0.2.1/tcp/9/p2p/x\n"
