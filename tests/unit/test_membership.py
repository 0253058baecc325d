"""Membership: every valid descriptor reaches every node, and nothing else does."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from crypto.checkable import CLOCK_SKEW_S
from crypto.identity import NodeId
from overlay.errors import LocalProtocolError
from overlay.protocol.effects import CloseLink
from overlay.protocol.holdings import Holdings, Taken
from overlay.protocol.membership import DirectoryChanged, SendDirectoryMessage
from overlay.protocol.rate import RateBucket
from overlay.wire.descriptor import digest_of, sign_descriptor
from overlay.wire.limits import MAX_ASKED_DESCRIPTORS, NEW_NODE_BURST, NEW_NODES_PER_S
from overlay.wire.messages import DescriptorsGiven, DescriptorsWanted, DirectoryDigest, DirectoryIndex
from tests.support.descriptors import UNIX_TIME, fixed_id, fixed_key, relay
from tests.support.mesh import TIMING, Mesh

ALICE, BOB, CAROL, MALLORY = (fixed_key(name).node_id for name in ("alice", "bob", "carol", "mallory"))


def blob(name: str, *, seq: int = 1, **changes) -> bytes:
    key = fixed_key(name)
    return sign_descriptor(key, replace(relay(1, **changes), node_id=key.node_id, seq=seq))


def known(mesh: Mesh, name: str) -> dict[NodeId, int]:
    return {found.node_id: found.seq for found in mesh.machine(name).descriptors}


def publish(mesh: Mesh, name: str, *, seq: int = 1, **changes) -> None:
    machine = mesh.machine(name)
    mesh.perform(machine_id(name), machine.publish(blob(name, seq=seq, **changes), mesh.now, mesh.unix_time))


def machine_id(name: str) -> NodeId:
    return fixed_key(name).node_id


def messages(outputs, kind):
    return [
        out.message
        for out in outputs
        if isinstance(out, SendDirectoryMessage) and isinstance(out.message, kind)
    ]


@pytest.fixture
def bob():
    """Bob, with a link to mallory, and nothing known."""
    mesh = Mesh("bob")
    machine = mesh.machine("bob")
    machine.link_opened(MALLORY, mesh.now)
    return machine


def hear(machine, message, *, now=100.0, unix_time=UNIX_TIME):
    return machine.receive_message(MALLORY, message, now, unix_time)


def test_descriptors_cross_a_new_link_both_ways():
    mesh = Mesh("alice", "bob")
    publish(mesh, "alice")
    publish(mesh, "bob")
    mesh.link("alice", "bob")
    mesh.deliver()
    assert known(mesh, "alice") == known(mesh, "bob") == {ALICE: 1, BOB: 1}


def test_news_travels_a_row_of_nodes_in_about_a_second_each():
    mesh = Mesh("alice", "bob", "carol", "dave")
    for one, other in (("alice", "bob"), ("bob", "carol"), ("carol", "dave")):
        mesh.link(one, other)
    mesh.run(0.5)
    publish(mesh, "alice")
    mesh.run(3.5)
    assert known(mesh, "dave") == {ALICE: 1}


def test_equal_directories_exchange_nothing_but_digests():
    mesh = Mesh("alice", "bob")
    publish(mesh, "alice")
    mesh.link("alice", "bob")
    mesh.run(25)
    mesh.sent.clear()
    mesh.run(20)
    assert mesh.sent
    assert all(isinstance(output.message, DirectoryDigest) for _, output in mesh.sent)


def test_the_newest_sequence_number_wins():
    mesh = Mesh("alice", "bob")
    mesh.link("alice", "bob")
    publish(mesh, "alice", seq=5)
    mesh.run(2)
    publish(mesh, "alice", seq=7)
    mesh.run(12)
    assert known(mesh, "bob") == {ALICE: 7}
    assert mesh.machine("bob").add([blob("alice", seq=6)], mesh.now, mesh.unix_time) == []
    assert known(mesh, "bob") == {ALICE: 7}


def test_our_own_descriptor_must_be_ours_and_newer():
    mesh = Mesh("alice")
    publish(mesh, "alice", seq=5)
    for wrong in (blob("alice", seq=5), blob("bob"), b"garbage"):
        with pytest.raises(LocalProtocolError):
            mesh.machine("alice").publish(wrong, mesh.now, mesh.unix_time)


@pytest.mark.parametrize("forged", [b"garbage", blob("alice")[:-1], bytes(64) + blob("alice")[64:]])
def test_a_forged_descriptor_closes_the_link_and_is_not_kept(bob, forged):
    hear(bob, DirectoryIndex(((ALICE, 1),)))
    outputs = hear(bob, DescriptorsGiven((forged,)))
    assert [out for out in outputs if isinstance(out, CloseLink)] == [CloseLink(MALLORY, outputs[0].reason)]
    assert bob.descriptors == ()
    assert bob.counters.forged == 1


def test_what_mallory_signs_for_alice_is_forged(bob):
    body = blob("alice")[64:]
    signature = fixed_key("mallory").sign(b"clove-descriptor/1", body)
    hear(bob, DirectoryIndex(((ALICE, 1),)))
    assert isinstance(hear(bob, DescriptorsGiven((signature + body,)))[0], CloseLink)
    assert bob.descriptors == ()


def test_good_descriptors_before_a_forged_one_are_kept(bob):
    hear(bob, DirectoryIndex(((ALICE, 1), (CAROL, 1))))
    outputs = hear(bob, DescriptorsGiven((blob("alice"), b"garbage")))
    assert {type(out) for out in outputs} == {CloseLink, DirectoryChanged}
    assert [found.node_id for found in bob.descriptors] == [ALICE]


def test_what_was_not_asked_for_is_not_taken(bob):
    assert hear(bob, DescriptorsGiven((blob("alice"),))) == []
    hear(bob, DirectoryIndex(((ALICE, 1),)))
    hear(bob, DescriptorsGiven((blob("carol"), blob("alice"))))
    assert [found.node_id for found in bob.descriptors] == [ALICE]
    assert bob.counters.unasked == 2


@pytest.mark.parametrize("unix_time", [UNIX_TIME - CLOCK_SKEW_S - 1, UNIX_TIME + 3600 + CLOCK_SKEW_S + 1])
def test_descriptors_of_another_time_are_dropped_without_blame(bob, unix_time):
    hear(bob, DirectoryIndex(((ALICE, 1),)), unix_time=unix_time)
    assert hear(bob, DescriptorsGiven((blob("alice"),)), unix_time=unix_time) == []
    assert bob.counters.expired == 1


def test_expired_descriptors_leave_the_directory():
    mesh = Mesh("alice", "bob")
    mesh.link("alice", "bob")
    publish(mesh, "alice", ttl_s=60)
    mesh.run(30)
    assert known(mesh, "bob") == {ALICE: 1}
    mesh.run(60 + CLOCK_SKEW_S)
    assert known(mesh, "bob") == known(mesh, "alice") == {}


def test_an_empty_promise_is_not_believed_again_for_a_while(bob):
    index = DirectoryIndex(((ALICE, 9),))
    assert messages(hear(bob, index), DescriptorsWanted) == [DescriptorsWanted((ALICE,))]
    now = 100.0 + TIMING.answer_timeout_s
    bob.handle_deadline(now, UNIX_TIME)
    assert hear(bob, index, now=now) == []
    assert bob.counters.unanswered == 1
    assert hear(bob, DirectoryIndex(((ALICE, 10),)), now=now) != []
    later = 100.0 + 5 * TIMING.interval_s
    bob.handle_deadline(later, UNIX_TIME)
    assert messages(hear(bob, index, now=later), DescriptorsWanted) == [DescriptorsWanted((ALICE,))]


def test_a_liar_does_not_keep_others_from_bringing_the_truth(bob):
    bob.link_opened(CAROL, 100.0)
    hear(bob, DirectoryIndex(((ALICE, 1 << 60),)))
    asked = bob.receive_message(CAROL, DirectoryIndex(((ALICE, 1),)), 100.0, UNIX_TIME)
    assert messages(asked, DescriptorsWanted) == [DescriptorsWanted((ALICE,))]
    bob.receive_message(CAROL, DescriptorsGiven((blob("alice"),)), 100.0, UNIX_TIME)
    assert [found.node_id for found in bob.descriptors] == [ALICE]


def test_one_question_at_a_time_of_a_bounded_size(bob):
    ids = [fixed_id(number) for number in range(150)]
    (wanted,) = messages(hear(bob, DirectoryIndex(tuple((node_id, 1) for node_id in ids))), DescriptorsWanted)
    assert list(wanted.ids) == ids[:MAX_ASKED_DESCRIPTORS]
    assert hear(bob, DirectoryIndex(((fixed_id(200), 1),))) == []
    (second,) = messages(hear(bob, DescriptorsGiven(())), DescriptorsWanted)
    assert list(second.ids) == ids[MAX_ASKED_DESCRIPTORS : 2 * MAX_ASKED_DESCRIPTORS]


def test_a_neighbour_makes_only_so_many_nodes_known(bob):
    index = DirectoryIndex(tuple((fixed_id(number), 1) for number in range(2 * NEW_NODE_BURST)))
    asked = 0
    outputs = hear(bob, index)
    while wanted := messages(outputs, DescriptorsWanted):
        asked += len(wanted[0].ids)
        outputs = hear(bob, DescriptorsGiven(()))
    assert asked == NEW_NODE_BURST
    bob.link_closed(MALLORY)
    bob.link_opened(MALLORY, 100.0)
    assert hear(bob, index) == []
    (later,) = messages(hear(bob, index, now=101.0), DescriptorsWanted)
    assert len(later.ids) == NEW_NODES_PER_S


def test_a_flood_of_indexes_is_not_looked_at(bob):
    index = DirectoryIndex(tuple((fixed_id(number), 0) for number in range(4096)))
    for _ in range(4):
        hear(bob, index)
    hear(bob, DescriptorsGiven(()))
    assert hear(bob, DirectoryIndex(((ALICE, 1),))) == []


def test_our_index_is_given_at_most_every_half_interval(bob):
    bob.add([blob("alice")], 100.0, UNIX_TIME)
    strange = DirectoryDigest(7, bytes(32))
    assert messages(hear(bob, strange), DirectoryIndex) == [DirectoryIndex(((ALICE, 1),))]
    assert hear(bob, strange) == []
    assert hear(bob, strange, now=100.0 + TIMING.interval_s / 2) != []


def test_questions_are_answered_once_each_with_what_is_there(bob):
    bob.add([blob("alice")], 100.0, UNIX_TIME)
    assert messages(hear(bob, DescriptorsWanted((ALICE, ALICE, CAROL))), DescriptorsGiven) == [
        DescriptorsGiven((blob("alice"),))
    ]
    assert messages(hear(bob, DescriptorsWanted((CAROL,))), DescriptorsGiven) == [DescriptorsGiven(())]


def test_a_flood_of_questions_is_not_answered(bob):
    question = DescriptorsWanted(tuple(fixed_id(number) for number in range(1024)))
    answers = [hear(bob, question) for _ in range(9)]
    assert [bool(answer) for answer in answers] == [True] * 8 + [False]


def test_a_restless_node_is_followed_only_now_and_then(bob):
    hear(bob, DirectoryIndex(((ALICE, 1),)))
    hear(bob, DescriptorsGiven((blob("alice"),)))
    assert hear(bob, DirectoryIndex(((ALICE, 2),)), now=101.0) == []
    assert hear(bob, DirectoryIndex(((ALICE, 2),)), now=106.0) != []


def test_strangers_messages_are_ignored(bob):
    assert bob.receive_message(CAROL, DirectoryDigest(1, bytes(32)), 100.0, UNIX_TIME) == []


def test_our_own_descriptor_is_never_asked_of_others(bob):
    assert hear(bob, DirectoryIndex(((BOB, 99),))) == []


def test_holdings_turn_new_nodes_away_when_full_and_still_follow_the_known():
    holdings = Holdings(max_descriptors=1)
    assert holdings.take(blob("alice"), 0.0, UNIX_TIME)[1] is Taken.STORED
    assert holdings.take(blob("bob"), 0.0, UNIX_TIME)[1] is Taken.NO_ROOM
    assert holdings.take(blob("alice", seq=2), 0.0, UNIX_TIME)[1] is Taken.STORED
    assert holdings.drop_expired(UNIX_TIME + 10_000)
    assert holdings.take(blob("bob"), 0.0, UNIX_TIME)[1] is Taken.STORED


def test_holdings_are_bounded_in_bytes():
    size = len(blob("alice"))
    holdings = Holdings(max_bytes=size)
    assert holdings.take(blob("alice"), 0.0, UNIX_TIME)[1] is Taken.STORED
    assert holdings.take(blob("bob"), 0.0, UNIX_TIME)[1] is Taken.NO_ROOM
    fat = blob("alice", seq=2, operator="x" * 64)
    assert holdings.take(fat, 0.0, UNIX_TIME)[1] is Taken.NO_ROOM


def test_there_is_room_for_our_own_descriptor_though_strangers_fill_the_directory():
    mesh = Mesh()
    holdings = Holdings(max_descriptors=1, max_bytes=len(blob("bob")))
    alice = mesh.new_machine("alice", holdings=holdings)
    alice.add([blob("bob")], mesh.now, mesh.unix_time)
    alice.publish(blob("alice"), mesh.now, mesh.unix_time)
    alice.publish(blob("alice", seq=2, operator="x" * 64), mesh.now, mesh.unix_time)
    assert {found.node_id for found in alice.descriptors} == {ALICE, BOB}


def test_what_is_from_a_time_to_come_gives_way_when_the_clock_was_put_back():
    holdings = Holdings()
    assert holdings.take(blob("alice", seq=9), 0.0, UNIX_TIME)[1] is Taken.STORED
    earlier = {"seq": 2, "issued_unix": UNIX_TIME - 3600}
    assert holdings.take(blob("alice", **earlier), 0.0, UNIX_TIME - 100)[1] is Taken.NOT_NEWER
    assert holdings.take(blob("alice", **earlier), 0.0, UNIX_TIME - 3600)[1] is Taken.STORED
    assert not holdings.drop_expired(UNIX_TIME - 3600)
    assert holdings.take(blob("bob"), 0.0, UNIX_TIME)[1] is Taken.STORED
    assert holdings.drop_expired(UNIX_TIME - 3600)


@given(st.lists(st.tuples(st.floats(0, 50), st.integers(0, 20)), max_size=40))
def test_a_bucket_gives_no_more_than_its_burst_and_rate(takes):
    bucket = RateBucket(burst=10, per_s=2, now=0.0)
    now, taken = 0.0, 0
    for wait, count in takes:
        now += wait
        taken += count * bucket.take(count, now)
        assert taken <= 10 + 2 * now + 1e-6


class Gossip(RuleBasedStateMachine):
    """Five nodes that publish, link up, lose links and meet a liar, in any order."""

    names = ("alice", "bob", "carol", "dave", "erin")

    def __init__(self) -> None:
        super().__init__()
        self.mesh = Mesh(*self.names)
        self.newest: dict[NodeId, int] = {}

    @rule(name=st.sampled_from(names), step=st.integers(1, 9))
    def publish(self, name, step):
        node_id = fixed_key(name).node_id
        self.newest[node_id] = self.newest.get(node_id, 0) + step
        publish(self.mesh, name, seq=self.newest[node_id], ttl_s=7 * 24 * 3600)

    @rule(one=st.sampled_from(names), other=st.sampled_from(names))
    def link(self, one, other):
        if one != other:
            self.mesh.link(one, other)

    @rule(one=st.sampled_from(names), other=st.sampled_from(names))
    def unlink(self, one, other):
        self.mesh.links.discard(frozenset((machine_id(one), machine_id(other))))
        self.mesh.machine(one).link_closed(machine_id(other))
        self.mesh.machine(other).link_closed(machine_id(one))

    @rule(
        name=st.sampled_from(names),
        message=st.sampled_from(
            [
                DirectoryDigest(3, bytes(32)),
                DirectoryIndex(((ALICE, 1 << 63), (BOB, 0), (MALLORY, 4))),
                DescriptorsWanted((ALICE, MALLORY)),
                DescriptorsGiven((blob("alice")[:-1] + b"\x01",)),
                DescriptorsGiven((blob("mallory", ttl_s=1),)),
            ]
        ),
    )
    def lie(self, name, message):
        machine = self.mesh.machine(name)
        machine.link_opened(MALLORY, self.mesh.now)
        machine.receive_message(MALLORY, message, self.mesh.now, self.mesh.unix_time)

    @rule(seconds=st.floats(0.0, 15.0))
    def wait(self, seconds):
        self.mesh.run(seconds)

    @invariant()
    def nobody_knows_what_nobody_said(self):
        for name in self.names:
            for node_id, seq in known(self.mesh, name).items():
                assert seq <= self.newest.get(node_id, 0)

    def teardown(self):
        for other in self.names[1:]:
            self.mesh.link("alice", other)
        self.mesh.run(100)
        for name in self.names:
            assert known(self.mesh, name) == self.newest
            assert digest_of(self.newest.items()) == self.mesh.machine(name)._holdings.digest


TestGossip = Gossip.TestCase
TestGossip.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
