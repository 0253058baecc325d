"""The switch performs what machines ask for, in their order, and every circuit's end is told."""

from types import SimpleNamespace

import pytest

from crypto.identity import NodeId
from crypto.onion import BuildTerms, Hop
from overlay.protocol.circuit import CircuitBuilt, CircuitClosed, CircuitState, CloseCause
from overlay.protocol.effects import SendCell
from overlay.protocol.membership import MembershipMachine
from overlay.transport.switch import Switch
from overlay.wire.cells import decode_cell, destroy_cell
from overlay.wire.group_messages import GroupNews, GroupVector
from tests.support.descriptors import UNIX_TIME, fixed_key
from tests.support.entropy import fixed_entropy
from tests.support.groups import GROUP
from tests.support.stapled import onion_key

ALICE, GUARD = fixed_key("alice").node_id, fixed_key("guard").node_id


class FakeLink:
    """Keeps what is sent, and says no when it is told to."""

    def __init__(self):
        self.sent = []
        self.is_full = False

    def send_cell(self, cell, _circ_id, *, ends=False):
        del ends
        if not self.is_full:
            self.sent.append(decode_cell(cell))
        return not self.is_full


class Heard:
    """A listener that may act at once on what it hears."""

    def __init__(self):
        self.events = []
        self.act = lambda _event: None

    def circuit_event(self, event):
        self.events.append(event)
        self.act(event)


@pytest.fixture
def alice(autojump_clock):
    switch = Switch(
        node_id=ALICE,
        membership=MembershipMachine(ALICE, now=0.0),
        relay=None,
        entropy=fixed_entropy("switch"),
        unix_time=lambda: UNIX_TIME,
    )
    link = FakeLink()
    switch._links = SimpleNamespace(get=lambda peer: link if peer == GUARD else None)
    return switch, link


def open_circuit(switch, heard):
    hops = [Hop(NodeId(GUARD), onion_key("guard").public, 19675, 0)]
    terms = BuildTerms(lifetime_s=600, quota=100, unix_minute=UNIX_TIME // 60)
    return switch.open_circuit(hops, terms, heard)


def outputs_of(circuit, *events):
    """A cell and some events, as a machine gives them."""
    cell = destroy_cell(circuit.machine.circ_id, fixed_entropy("cell"))
    return [*events, SendCell(GUARD, cell)]


async def test_cells_go_before_a_listener_can_send_more(alice):
    switch, link = alice
    heard = Heard()
    circuit = open_circuit(switch, heard)
    order = []
    heard.act = lambda _event: order.append(len(link.sent))
    switch.perform_own(circuit, outputs_of(circuit, CircuitBuilt(0.1)))
    assert order == [2]  # the BUILD and the cell that came with the event


async def test_the_end_of_a_circuit_is_told_though_destroy_finds_no_room(alice):
    switch, link = alice
    heard = Heard()
    circuit = open_circuit(switch, heard)
    link.is_full = True
    circuit.close()
    assert heard.events == [CircuitClosed(CloseCause.CLOSED_HERE, ())]
    assert switch.own_circuits == ()


async def test_a_cell_that_finds_no_room_ends_its_circuit_and_no_event_is_lost(alice):
    switch, link = alice
    heard = Heard()
    circuit = open_circuit(switch, heard)
    link.is_full = True
    switch.perform_own(circuit, outputs_of(circuit, CircuitBuilt(0.1)))
    assert heard.events == [CircuitBuilt(0.1), CircuitClosed(CloseCause.OVERFLOWED, ())]
    assert circuit.machine.state is CircuitState.CLOSED


async def test_a_circuit_whose_build_finds_no_room_is_over_at_once(alice):
    switch, link = alice
    heard = Heard()
    link.is_full = True
    open_circuit(switch, heard)
    assert heard.events == [CircuitClosed(CloseCause.OVERFLOWED, ())]
    assert link.sent == []


class FakeGroups:
    """Keeps what the switch tells it."""

    def __init__(self):
        self.heard = []

    def group_message(self, peer, message):
        self.heard.append((peer, message))

    def neighbour_lost(self, peer):
        self.heard.append((peer, None))


VECTOR = GroupVector(GROUP, {}, {}, is_reply=False)


async def test_messages_of_groups_go_to_who_keeps_them_and_so_does_a_lost_link(alice):
    switch, _ = alice
    switch.groups = FakeGroups()
    switch.message_received(SimpleNamespace(peer=GUARD), VECTOR)
    switch.message_received(SimpleNamespace(peer=GUARD), GroupNews(GROUP, (), ()))
    switch.link_closed(GUARD, "gone")
    assert switch.groups.heard == [(GUARD, VECTOR), (GUARD, GroupNews(GROUP, (), ())), (GUARD, None)]


async def test_messages_of_groups_are_counted_where_nobody_keeps_them(alice):
    switch, _ = alice
    switch.message_received(SimpleNamespace(peer=GUARD), VECTOR)
    switch.link_closed(GUARD, "gone")
    assert switch.counters["group_messages_ignored"] == 1


async def test_a_message_of_a_group_needs_a_link_with_room(alice):
    switch, link = alice
    sent = []
    link.send_message = lambda message: not link.is_full and (sent.append(message) or True)
    assert switch.send_group_message(GUARD, VECTOR)
    link.is_full = True
    assert not switch.send_group_message(GUARD, VECTOR)
    assert not switch.send_group_message(ALICE, VECTOR)
    assert sent == [VECTOR]
    assert switch.counters["messages_dropped"] == 2
