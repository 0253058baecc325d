"""Links over the memory network under a virtual clock, and the main story once over libp2p."""

import os
from dataclasses import replace

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from crypto.errors import DecodeError
from overlay.errors import LocalProtocolError, RemoteProtocolError, UnreachableError
from overlay.protocol.link import LinkTiming
from overlay.transport.links import HOLD_S
from overlay.transport.memory import MemoryNetwork
from overlay.wire.limits import CELL_BYTES, LINK_CIRCUIT_QUEUE_CELLS, LINK_CONTROL_QUEUE_BYTES
from overlay.wire.messages import AnswerRefused, CloveDelivered, encode_message
from tests.support.links import QUICK, Peer, hello, node_id
from tests.support.transports import libp2p_transports

NEWS = AnswerRefused(bytes(range(16)))


def cell(number: int) -> bytes:
    return number.to_bytes(4, "big") + bytes(CELL_BYTES - 4)


@pytest.fixture
async def network(autojump_clock, nursery):
    """Alice, bob and the network between them, with 10 ms one way."""
    net = MemoryNetwork(latency_s=0.01)
    alice, bob = Peer(net.transport(node_id(1))), Peer(net.transport(node_id(2)))
    await nursery.start(alice.links.serve)
    await nursery.start(bob.links.serve)
    return net, alice, bob


async def settle() -> None:
    """Lets virtual time pass until nothing is under way."""
    await trio.sleep(HOLD_S + 1)


async def test_a_link_carries_cells_and_messages_both_ways(autojump_clock, network):
    _, alice, bob = network
    link = await alice.link_to(bob)
    assert link.peer == bob.node_id
    await bob.handler.until(lambda: bob.handler.opened == [alice.node_id])
    back = bob.links.get(alice.node_id)
    assert link.send_cell(cell(1), 7)
    assert back.send_cell(cell(2), 7)
    assert link.send_message(NEWS)
    assert back.send_message(CloveDelivered(bytes(16), bytes(300_000)))
    await bob.handler.until(lambda: bob.handler.cells == [cell(1)] and bob.handler.messages == [NEWS])
    await alice.handler.until(lambda: alice.handler.cells == [cell(2)] and len(alice.handler.messages) == 1)


async def test_asking_twice_gives_the_same_link_by_one_dial(autojump_clock, network):
    net, alice, bob = network
    got = []

    async def ask():
        got.append(await alice.link_to(bob))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    assert len(set(map(id, got))) == 1
    assert net.dial_count == 1
    assert await alice.link_to(bob) is got[0]


async def test_cancelling_one_who_waits_for_a_dial_does_not_disturb_another(autojump_clock, network):
    _, alice, bob = network
    got = []

    async def ask():
        got.append(await alice.link_to(bob))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        with trio.move_on_after(0.001):
            await alice.link_to(bob)
    assert got == [alice.links.get(bob.node_id)]


async def test_handler_hears_of_opening_first_and_of_closing_last_and_once(autojump_clock, network):
    _, alice, bob = network
    link = await alice.link_to(bob)
    link.send_cell(cell(1), 1)
    link.send_message(NEWS)
    await bob.handler.until(lambda: len(bob.handler.events) == 3)
    link.close("enough")
    assert alice.links.get(bob.node_id) is None
    assert not link.send_message(NEWS)
    assert not link.send_cell(cell(2), 1)
    await settle()
    assert bob.handler.events[0][0] == "opened"
    assert bob.handler.closed == [(alice.node_id, "peer: enough")]
    assert bob.handler.events[-1][0] == "closed"
    assert alice.handler.closed == [(bob.node_id, "enough")]


async def test_what_was_queued_is_written_before_a_link_closes(autojump_clock, network):
    _, alice, bob = network
    link = await alice.link_to(bob)
    for _ in range(50):
        assert link.send_message(NEWS)
    link.close("done")
    await settle()
    assert len(bob.handler.messages) == 50


async def test_a_circuit_that_floods_fills_its_own_queue_only(autojump_clock, network):
    _, alice, bob = network
    link = await alice.link_to(bob)
    for number in range(LINK_CIRCUIT_QUEUE_CELLS):
        assert link.send_cell(cell(number), 1)
    assert not link.send_cell(cell(0), 1)
    assert link.send_cell(cell(999), 2)
    await bob.handler.until(lambda: len(bob.handler.cells) == LINK_CIRCUIT_QUEUE_CELLS + 1)
    # The calm circuit's cell overtakes the flood; the flood's own order is kept.
    assert bob.handler.cells.index(cell(999)) < 2
    assert [c for c in bob.handler.cells if c != cell(999)] == list(
        map(cell, range(LINK_CIRCUIT_QUEUE_CELLS))
    )


async def test_the_control_queue_is_bounded_by_bytes(autojump_clock, network):
    _, alice, bob = network
    link = await alice.link_to(bob)
    clove = CloveDelivered(bytes(16), bytes(100_000))
    taken = 0
    while link.send_message(clove):
        taken += 1
    assert taken == LINK_CONTROL_QUEUE_BYTES // len(encode_message(clove))
    await bob.handler.until(lambda: len(bob.handler.messages) == taken)
    assert link.send_message(clove)


@pytest.mark.parametrize("error", [RemoteProtocolError("no"), DecodeError("no")])
@pytest.mark.parametrize("over", ["cell", "message"])
async def test_an_objection_of_the_handler_closes_that_link_and_is_counted(
    autojump_clock, network, error, over
):
    _, alice, bob = network

    def object_to(_link, _what):
        raise error

    setattr(bob.handler, f"on_{over}", object_to)
    link = await alice.link_to(bob)
    assert link.send_cell(cell(1), 1) if over == "cell" else link.send_message(NEWS)
    await settle()
    assert alice.links.open_links() == bob.links.open_links() == ()
    assert bob.links.counters["protocol_violations"] == 1
    assert alice.handler.closed == [(bob.node_id, "peer: protocol violation")]


async def test_garbage_on_the_control_stream_closes_the_link(autojump_clock, network):
    net, alice, bob = network
    connection = await net.transport(node_id(3)).dial(bob.node_id, bob.transport.addresses)
    await connection.control.send_all(encode_message(hello()) + b"\xff" * 64)
    await settle()
    assert bob.links.counters["protocol_violations"] == 1
    assert bob.links.open_links() == ()
    assert len(bob.handler.opened) == len(bob.handler.closed)
    assert alice.links.open_links() == ()


async def test_a_peer_that_never_greets_is_dropped_and_never_announced(autojump_clock, network):
    net, _, bob = network
    connection = await net.transport(node_id(3)).dial(bob.node_id, bob.transport.addresses)
    await trio.sleep(QUICK.greeting_timeout_s + 0.5)
    data = b""
    while more := await connection.control.receive_some(1000):
        data += more
    assert b"no greeting in time" in data
    assert bob.handler.events == []


async def test_another_network_gets_no_link(autojump_clock, network, nursery):
    net, alice, _ = network
    stranger = Peer(net.transport(node_id(3)), greeting=hello(network=b"elsewhere"))
    await nursery.start(stranger.links.serve)
    with pytest.raises(UnreachableError, match="another network"):
        await alice.link_to(stranger)
    with pytest.raises(UnreachableError, match="another network"):
        await stranger.link_to(alice)
    assert alice.handler.events == stranger.handler.events == []


async def test_an_unreachable_node_is_reported_to_all_who_wait(autojump_clock, network):
    _, alice, _ = network
    with pytest.raises(UnreachableError):
        await alice.links.link_to(node_id(9), ["/memory/none"])
    assert alice.links.counters["dials_failed"] == 1


async def test_a_node_has_no_link_to_itself(autojump_clock, network):
    _, alice, _ = network
    with pytest.raises(LocalProtocolError):
        await alice.link_to(alice)


async def test_an_idle_link_lives_on_heartbeats(autojump_clock, network):
    _, alice, bob = network
    link = await alice.link_to(bob)
    await trio.sleep(100 * QUICK.dead_after_s)
    assert alice.links.get(bob.node_id) is link
    assert bob.handler.closed == []


async def test_a_peer_that_stops_without_a_word_is_given_up(autojump_clock, network):
    net, alice, bob = network
    connection = await net.transport(node_id(3)).dial(bob.node_id, bob.transport.addresses)
    await connection.control.send_all(encode_message(hello()))  # and nothing more, ever
    await trio.sleep(0.05)
    assert bob.handler.opened == [node_id(3)]
    await trio.sleep(QUICK.dead_after_s + 0.3)
    assert bob.handler.closed == [(node_id(3), "no sign of life")]
    assert alice.handler.events == []


async def test_a_cut_connection_closes_the_link_and_can_be_dialled_again(autojump_clock, network):
    net, alice, bob = network
    await alice.link_to(bob)
    net.cut(alice.node_id, bob.node_id)
    await settle()
    assert alice.handler.closed == [(bob.node_id, "the peer closed the connection")]
    with pytest.raises(UnreachableError):
        await alice.link_to(bob)
    net.mend(alice.node_id, bob.node_id)
    assert (await alice.link_to(bob)).is_open


async def test_a_restarted_peer_replaces_the_link_of_its_former_life(autojump_clock, network):
    net, alice, bob = network
    await bob.link_to(alice)
    # The same identity, from another process: the old link's end has not been seen by alice yet.
    connection = await net.transport(node_id(2)).dial(alice.node_id, alice.transport.addresses)
    await connection.control.send_all(encode_message(replace(hello(), instance=b"newlife!")))
    await alice.handler.until(lambda: len(alice.handler.opened) == 2)
    assert alice.handler.events == [("opened", node_id(2)), ("closed", node_id(2)), ("opened", node_id(2))]
    assert alice.handler.closed == [(node_id(2), "replaced")]


async def test_serving_ends_every_link_and_says_so(autojump_clock):
    net = MemoryNetwork()
    alice, bob = Peer(net.transport(node_id(1))), Peer(net.transport(node_id(2)))
    async with trio.open_nursery() as nursery:
        await nursery.start(alice.links.serve)
        await nursery.start(bob.links.serve)
        await alice.link_to(bob)
        nursery.cancel_scope.cancel()
    assert [peer for peer, _ in alice.handler.closed] == [bob.node_id]
    assert [peer for peer, _ in bob.handler.closed] == [alice.node_id]
    with pytest.raises(LocalProtocolError):
        await alice.link_to(bob)


delays = st.floats(0, 0.2).map(lambda x: round(x, 4))


class Crowd:
    """Four nodes on one network, for stories that end with both sides agreeing on every link."""

    def __init__(self, latency_s: float) -> None:
        self.net = MemoryNetwork(latency_s=latency_s)
        timing = LinkTiming(heartbeat_s=0.5, dead_after_s=3.0, greeting_timeout_s=5.0)
        self.peers = [Peer(self.net.transport(node_id(n + 1)), timing=timing) for n in range(4)]
        self.dialled: set[frozenset[int]] = set()

    async def dial(self, here: int, there: int, delay_s: float) -> None:
        await trio.sleep(delay_s)
        try:
            link = await self.peers[here].link_to(self.peers[there])
        except UnreachableError:
            return
        self.dialled.add(frozenset((here, there)))
        assert link.peer == self.peers[there].node_id

    async def break_off(self, who: int, delay_s: float) -> None:
        await trio.sleep(delay_s)
        self.net.break_connections(self.peers[who].node_id)

    async def act(self, starts, breaks) -> None:
        async with trio.open_nursery() as nursery:
            for here, there, delay_s in starts:
                if here != there:
                    nursery.start_soon(self.dial, here, there, delay_s)
            for who, delay_s in breaks:
                nursery.start_soon(self.break_off, who, delay_s)

    async def check_pair(self, near: Peer, far: Peer, *, must_be_linked: bool) -> None:
        link, back = near.links.get(far.node_id), far.links.get(near.node_id)
        assert (link is None) == (back is None), "half a link"
        assert link is not None or not must_be_linked
        if link is None or back is None:
            return
        near.handler.cells.clear()
        far.handler.cells.clear()
        assert link.send_cell(cell(1), 1)
        assert back.send_cell(cell(2), 1)
        await trio.sleep(2)
        assert far.handler.cells == [cell(1)]
        assert near.handler.cells == [cell(2)]

    def check_reports(self) -> None:
        for peer in self.peers:
            for other in self.peers:
                told = [what for what, who in peer.handler.events if who == other.node_id and what != "cell"]
                assert told == ["opened", "closed"] * (len(told) // 2) + ["opened"] * (len(told) % 2)


@settings(max_examples=80, deadline=None)
@given(
    latency_s=st.sampled_from([0.0, 0.001, 0.02, 0.3]),
    starts=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), delays), min_size=1, max_size=12),
    breaks=st.lists(st.tuples(st.integers(0, 3), delays), max_size=2),
)
def test_crossed_dials_leave_one_whole_link_to_each_pair(latency_s, starts, breaks):
    """Nodes dial each other at arbitrary times and connections break; in the end nobody has half a link."""

    async def story():
        crowd = Crowd(latency_s)
        async with trio.open_nursery() as nursery:
            for peer in crowd.peers:
                await nursery.start(peer.links.serve)
            await crowd.act(starts, breaks)
            await trio.sleep(20)
            for here in range(4):
                for there in range(here):
                    linked = not breaks and frozenset((here, there)) in crowd.dialled
                    await crowd.check_pair(crowd.peers[here], crowd.peers[there], must_be_linked=linked)
            crowd.check_reports()
            nursery.cancel_scope.cancel()

    trio.run(story, clock=MockClock(autojump_threshold=0))


@pytest.mark.integration
async def test_the_same_over_libp2p(nursery):
    make = libp2p_transports()
    peers = [Peer(make()) for _ in range(3)]
    for peer in peers:
        await nursery.start(peer.links.serve)
    with trio.fail_after(30):
        async with trio.open_nursery() as dials:
            for here in peers:
                for there in peers:
                    if here is not there:
                        dials.start_soon(here.link_to, there)
        alice, bob, _ = peers
        link = await alice.link_to(bob)
        sent = [os.urandom(CELL_BYTES) for _ in range(200)]
        for data in sent:
            assert link.send_cell(data, 1)
        await bob.handler.until(lambda: bob.handler.cells == sent)
        link.close("enough")
        await bob.handler.until(lambda: (alice.node_id, "peer: enough") in bob.handler.closed)
        assert (await bob.link_to(alice)).is_open
