"""How busy members are: told when it matters, passed on, and as old as their own last word."""

from dataclasses import replace

import pytest

from overlay.errors import LocalProtocolError
from overlay.protocol.group_teller import LOAD_S
from tests.support.descriptors import fixed_id
from tests.support.groups import IDLE, SPEED, Group

BUSY = replace(IDLE, queued_tokens=5000, decoding=8, free_slots=0, answer_s=2.0)


@pytest.fixture
def group():
    return Group("alice", "bob", "carol")


@pytest.fixture
def pair():
    """Two who have heard of each other, so that neither begins its log any more."""
    found = Group("alice", "bob")
    found.settle()
    return found


def test_a_load_reaches_all_with_the_time_at_which_it_came(group):
    group["alice"].machine.tell_load(SPEED, BUSY)
    group.settle()
    heard = group["carol"].machine.load_of(group["alice"].node_id)
    assert (heard.report.load, heard.report.speed) == (BUSY, SPEED)
    assert 0 < heard.received_at <= group.now
    assert (group["alice"].node_id, heard.report) in group["carol"].learned


def test_a_load_is_told_anew_when_it_matters_or_is_old(pair):
    machine = pair["alice"].machine

    def told(load):
        machine.tell_load(SPEED, load)
        pair.pass_time()
        return machine.load_of(pair["alice"].node_id).report.seq

    assert told(IDLE) == 0
    assert told(replace(IDLE, queued_tokens=20)) == 0
    assert told(BUSY) == 1
    assert told(replace(BUSY, answer_s=2.1)) == 1
    assert told(replace(BUSY, free_slots=1)) == 2
    pair.pass_time(LOAD_S)
    assert told(replace(BUSY, free_slots=1)) == 3


def test_a_load_that_rides_on_another_message_is_the_newest(pair):
    alice, bob = pair["alice"], pair["bob"]
    assert alice.machine.own_load_blob() is None
    alice.machine.tell_load(SPEED, BUSY)
    blob = alice.machine.own_load_blob()
    assert alice.machine.own_load_blob() == blob
    pair.perform(bob, bob.machine.learn_load(alice.node_id, blob, 7.0))
    assert bob.machine.load_of(alice.node_id).received_at == 7.0
    assert bob.machine.learn_load(alice.node_id, blob, 9.0) == []
    assert bob.machine.load_of(alice.node_id).received_at == 9.0  # she says that it still holds


def test_a_load_that_somebody_else_says_again_is_as_old_as_it_was(pair):
    alice, bob = pair["alice"], pair["bob"]
    carol = fixed_id("carol")
    bob.machine.set_members({alice.node_id, bob.node_id, carol})
    alice.machine.tell_load(SPEED, BUSY)
    blob = alice.machine.own_load_blob()
    pair.perform(bob, bob.machine.learn_load(alice.node_id, blob, 7.0))
    assert bob.machine.learn_load(carol, blob, 9.0) == []
    assert bob.machine.load_of(alice.node_id).received_at == 7.0


def test_an_absurd_load_of_our_own_is_an_error_at_once(pair):
    with pytest.raises(LocalProtocolError):
        pair["alice"].machine.tell_load(replace(SPEED, prefill_token_s=0.0), IDLE)
