"""A node announces itself again and again, whatever becomes of its clock; a failure costs the news, not the daemon."""

from types import SimpleNamespace

import pytest
import trio
import trio.testing

from crypto.identity import NodeId
from node.joining import Announcer, JoinTiming, Neighbourhood, Profile
from node.keys import KeyRing
from node.metrics import Metrics
from overlay.protocol.membership import MembershipMachine
from overlay.transport.switch import Switch
from overlay.wire.descriptor import MAX_ADDRESSES, Role, sign_descriptor
from tests.support.descriptors import UNIX_TIME, fixed_key, relay
from tests.support.entropy import fixed_entropy

TIMING = JoinTiming()


class Joining:
    """Alice's announcer and neighbourhood, with a clock and addresses that the test sets."""

    def __init__(self) -> None:
        self.key = fixed_key("alice")
        self.unix_time = float(UNIX_TIME)
        self.addresses = ("/ip4/20.0.0.1/tcp/4001",)
        self.linked: list[NodeId] = []
        self.told: list[NodeId] = []
        metrics = Metrics(version="0", profile="test")
        self.switch = Switch(
            node_id=self.key.node_id,
            membership=MembershipMachine(self.key.node_id, now=trio.current_time()),
            relay=None,
            entropy=fixed_entropy("switch"),
            unix_time=lambda: self.unix_time,
        )
        self.switch._links = SimpleNamespace(open_links=self._open_links, get=lambda _peer: None)
        self.announcer = Announcer(
            self.switch,
            self.key,
            KeyRing(entropy=fixed_entropy("ring")),
            Profile(
                roles=frozenset({Role.RELAY}),
                operator="",
                difficulty=0,
                addresses=lambda: self.addresses,
                models=tuple,
            ),
            table=None,
            timing=TIMING,
            unix_time=lambda: self.unix_time,
            keys_changed=lambda: None,
            metrics=metrics,
        )
        self.neighbourhood = Neighbourhood(
            self.switch, (), table=self, timing=TIMING, entropy=fixed_entropy("draw"), metrics=metrics
        )

    def _open_links(self):
        return [SimpleNamespace(peer=peer) for peer in self.linked]

    async def add_peer(self, node_id, _addresses) -> None:
        self.told.append(node_id)

    @property
    def announced(self):
        return self.switch.directory.find(self.key.node_id)

    async def announce(self) -> None:
        """Let the announcer announce once more."""
        self.announcer.announce_soon()
        await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
async def alice(autojump_clock, nursery):
    joining = Joining()
    await nursery.start(joining.announcer.serve)
    await trio.testing.wait_all_tasks_blocked()
    return joining


@pytest.mark.parametrize("back_s", [1, 200, 400, 7 * 24 * 3600])
async def test_a_clock_that_is_put_back_does_not_end_the_announcements(alice, back_s):
    alice.unix_time -= back_s
    await alice.announce()
    assert alice.announced.issued_unix == UNIX_TIME - back_s


async def test_a_descriptor_that_says_too_much_is_not_published_until_it_says_less(alice):
    first = alice.announced
    alice.addresses = tuple(f"/ip4/20.0.0.{number}/tcp/4001" for number in range(MAX_ADDRESSES + 1))
    await alice.announce()
    assert alice.announced == first
    alice.addresses = alice.addresses[1:]
    await alice.announce()
    assert alice.announced.addresses == alice.addresses


async def test_neighbours_that_are_gone_are_not_remembered_as_told(alice):
    bob = fixed_key("bob")
    alice.switch.learn([sign_descriptor(bob, relay(1, node_id=bob.node_id))])
    for linked in ([bob.node_id], [bob.node_id], [], [bob.node_id]):
        alice.linked = linked
        await alice.neighbourhood._tell_table()
    assert alice.told == [bob.node_id] * 2
    alice.linked = []
    await alice.neighbourhood._tell_table()
    assert alice.neighbourhood._told == set()
