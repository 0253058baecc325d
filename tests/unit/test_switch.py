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
from tests.support.descriptors import UNIX_TIME, fixed_key
from tests.support.entropy import fixed_entropy
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
