from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from overlay.errors import LocalProtocolError, RemoteProtocolError
from overlay.protocol.link import (
    CloseConnection,
    Inbound,
    LinkMachine,
    LinkOpened,
    LinkTiming,
    MessageReceived,
    PeerGreeted,
    SendMessage,
    settle_inbound,
)
from overlay.wire.messages import AnswerRefused, Heartbeat, LinkClosing
from tests.support.links import hello, node_id

ALICE, BOB = node_id(1), node_id(2)
TIMING = LinkTiming(heartbeat_s=15, dead_after_s=45, greeting_timeout_s=10)
NEWS = AnswerRefused(bytes(16))


def machine(*, dialled, greeting=None):
    return LinkMachine(greeting or hello(), dialled=dialled, timing=TIMING, now=0.0)


def open_link(*, dialled):
    link = machine(dialled=dialled)
    link.start()
    link.receive_message(hello(), 1.0)
    if not dialled:
        link.accept(1.0)
    return link


def test_dialler_greets_first_and_opens_when_answered():
    alice = machine(dialled=True)
    assert alice.start() == [SendMessage(hello())]
    assert not alice.is_open
    assert alice.receive_message(hello(), 1.0) == [LinkOpened(hello())]
    assert alice.is_open


def test_acceptor_says_nothing_until_its_driver_has_decided():
    bob = machine(dialled=False)
    assert bob.start() == []
    assert bob.receive_message(hello(), 1.0) == [PeerGreeted(hello())]
    assert not bob.is_open
    assert bob.accept(2.0) == [SendMessage(hello()), LinkOpened(hello())]
    assert bob.is_open


def test_acceptor_may_refuse_with_a_reason():
    bob = machine(dialled=False)
    bob.receive_message(hello(), 1.0)
    assert bob.refuse("full") == [SendMessage(LinkClosing("full")), CloseConnection("full")]
    assert bob.next_deadline() is None


@pytest.mark.parametrize("greeting", [hello(network=b"other"), hello(version=2)])
@pytest.mark.parametrize("dialled", [True, False])
def test_another_network_or_version_is_refused(greeting, dialled):
    link = machine(dialled=dialled)
    link.start()
    said, closed = link.receive_message(greeting, 1.0)
    assert isinstance(said, SendMessage)
    assert isinstance(said.message, LinkClosing)
    assert isinstance(closed, CloseConnection)
    assert not link.is_open


@pytest.mark.parametrize("dialled", [True, False])
@pytest.mark.parametrize("message", [Heartbeat(), NEWS])
def test_nothing_but_a_greeting_comes_first(dialled, message):
    with pytest.raises(RemoteProtocolError):
        machine(dialled=dialled).receive_message(message, 1.0)


def test_peer_may_not_speak_while_its_greeting_is_unanswered():
    bob = machine(dialled=False)
    bob.receive_message(hello(), 1.0)
    with pytest.raises(RemoteProtocolError):
        bob.receive_message(NEWS, 1.0)


@pytest.mark.parametrize("dialled", [True, False])
def test_a_second_greeting_breaks_the_protocol(dialled):
    with pytest.raises(RemoteProtocolError):
        open_link(dialled=dialled).receive_message(hello(), 2.0)


def test_accept_without_a_greeting_is_our_own_fault():
    with pytest.raises(LocalProtocolError):
        machine(dialled=False).accept(0.0)


@pytest.mark.parametrize("dialled", [True, False])
def test_a_silent_peer_is_dropped_when_the_greeting_is_overdue(dialled):
    link = machine(dialled=dialled)
    assert link.next_deadline() == 10.0
    assert link.handle_deadline(9.9) == []
    assert CloseConnection("no greeting in time") in link.handle_deadline(10.0)


def test_heartbeats_go_out_at_their_interval():
    link = open_link(dialled=True)
    assert link.next_deadline() == 16.0
    assert link.handle_deadline(16.0) == [SendMessage(Heartbeat())]
    assert link.next_deadline() == 31.0


def test_a_peer_without_a_sign_of_life_is_given_up():
    link = open_link(dialled=True)
    for now in (16.0, 31.0):
        link.handle_deadline(now)
    assert link.handle_deadline(46.0) == [CloseConnection("no sign of life")]
    assert not link.is_open


@pytest.mark.parametrize("sign", ["heartbeat", "cells", "message"])
def test_anything_that_arrives_is_a_sign_of_life(sign):
    link = open_link(dialled=True)
    link.handle_deadline(16.0)
    link.handle_deadline(31.0)
    match sign:
        case "heartbeat":
            link.receive_message(Heartbeat(), 40.0)
        case "cells":
            link.receive_cells(40.0)
        case "message":
            link.receive_message(NEWS, 40.0)
    assert link.handle_deadline(46.0) == [SendMessage(Heartbeat())]


def test_messages_pass_up_and_a_farewell_ends_the_link():
    link = open_link(dialled=False)
    assert link.receive_message(NEWS, 2.0) == [MessageReceived(NEWS)]
    assert link.receive_message(LinkClosing("done"), 3.0) == [CloseConnection("peer: done")]
    assert link.receive_message(NEWS, 4.0) == []
    assert link.refuse("again") == []


def test_the_smaller_nodes_dial_wins_when_both_dial():
    assert settle_inbound(BOB, ALICE, hello(), dialling=True, linked=None) is Inbound.ACCEPT
    assert settle_inbound(ALICE, BOB, hello(), dialling=True, linked=None) is Inbound.HOLD


def test_an_inbound_connection_is_taken_when_nothing_stands_in_its_way():
    assert settle_inbound(ALICE, BOB, hello(), dialling=False, linked=None) is Inbound.ACCEPT


def test_a_restarted_peer_replaces_its_link_and_a_running_one_waits():
    before, after = hello(), replace(hello(), instance=b"restart!")
    assert settle_inbound(ALICE, BOB, after, dialling=False, linked=before) is Inbound.ACCEPT
    assert settle_inbound(ALICE, BOB, before, dialling=False, linked=before) is Inbound.HOLD


class TwoLinkMachines(RuleBasedStateMachine):
    """Alice dials bob; messages are delivered in order, whenever the test likes, and time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ends = {"alice": machine(dialled=True), "bob": machine(dialled=False)}
        self.inbox = {"alice": [], "bob": []}
        self.open_seen = {"alice": 0, "bob": 0}
        self.closed_seen = {"alice": 0, "bob": 0}
        self.greeted = False
        self.perform("alice", self.ends["alice"].start())
        self.perform("bob", self.ends["bob"].start())

    def perform(self, who, outputs):
        other = "bob" if who == "alice" else "alice"
        for output in outputs:
            match output:
                case SendMessage(message):
                    self.inbox[other].append(message)
                case LinkOpened():
                    self.open_seen[who] += 1
                case CloseConnection():
                    self.closed_seen[who] += 1
                case PeerGreeted():
                    assert who == "bob"
                    self.greeted = True

    @rule(who=st.sampled_from(["alice", "bob"]))
    def deliver(self, who):
        if self.inbox[who]:
            message = self.inbox[who].pop(0)
            self.perform(who, self.ends[who].receive_message(message, self.now))

    @precondition(lambda self: self.greeted)
    @rule(keep=st.booleans())
    def decide(self, keep):
        self.greeted = False
        bob = self.ends["bob"]
        if bob.next_deadline() is not None:
            self.perform("bob", bob.accept(self.now) if keep else bob.refuse("no"))

    @rule(step=st.floats(0.1, 20))
    def pass_time(self, step):
        self.now += step
        for who, link in self.ends.items():
            deadline = link.next_deadline()
            if deadline is not None and deadline <= self.now:
                self.perform(who, link.handle_deadline(self.now))

    @rule(who=st.sampled_from(["alice", "bob"]))
    def hang_up(self, who):
        self.perform(who, self.ends[who].refuse("bye"))

    @invariant()
    def each_end_opens_and_closes_once_at_most(self):
        assert max(self.open_seen.values()) <= 1
        assert max(self.closed_seen.values()) <= 1

    @invariant()
    def the_dialler_never_opens_alone(self):
        assert not self.open_seen["alice"] or self.open_seen["bob"]

    @invariant()
    def a_live_link_always_has_a_deadline(self):
        for who, link in self.ends.items():
            assert (link.next_deadline() is None) == bool(self.closed_seen[who])


TestTwoLinkMachines = TwoLinkMachines.TestCase
TestTwoLinkMachines.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_greeting_tells_how_far_apart_the_clocks_are():
    alice = machine(dialled=True, greeting=hello(unix_time=1_700_000_060))
    assert alice.clock_ahead_s is None
    alice.start()
    alice.receive_message(hello(), 1.0)
    assert alice.clock_ahead_s == 60
