"""A member of a group: it tells, hears and passes on; and whatever others do, it stays in bounds and names them."""

from dataclasses import replace

import pytest

from crypto.identity import NodeId
from overlay.protocol.group import SYNC_S, GroupMachine, SendGroupMessage
from overlay.protocol.group_bounds import NAMING_PERIOD_S
from overlay.protocol.group_members import ring_neighbours
from overlay.routing.prefix_tree import PrefixTree
from overlay.wire.group import GroupId, Known, LoadReport, member_tag
from overlay.wire.group_codec import LOAD_CONTEXT, sign_load
from overlay.wire.group_messages import NOTHING_WANTED, GroupNews, GroupVector, counted_bytes
from overlay.wire.limits import (
    LOAD_BURST,
    LOG_BASE_BURST,
    LOG_BURST_BLOCKS,
    MAX_GROUP_MEMBERS,
    MAX_LOG_BLOCKS,
    MAX_NEWS_FRAME_BYTES,
    STANDSTILL_S,
)
from tests.support.descriptors import fixed_id
from tests.support.groups import GROUP, IDLE, SPEED, Group, Member

BUSY = replace(IDLE, queued_tokens=5000, decoding=8, free_slots=0, answer_s=2.0)


def blocks(*numbers):
    return [number.to_bytes(8, "big") for number in numbers]


def many(count, first=0):
    return blocks(*range(first, first + count))


def flood(member, count, *, first_seq=0, per_entry=512):
    """So many entries of one log, none of which mentions a block twice."""
    return [
        member.entry(seq, stored=many(per_entry, seq * per_entry))
        for seq in range(first_seq, first_seq + count)
    ]


@pytest.fixture
def group():
    return Group("alice", "bob", "carol")


@pytest.fixture
def pair():
    """Two who have heard of each other, so that neither begins its log any more."""
    found = Group("alice", "bob")
    found.settle()
    return found


def report_of(member, seq=0, *, incarnation=1, load=IDLE):
    return LoadReport(member.node_id, incarnation, seq, SPEED, load)


def load_blob(member, seq=0, **changes):
    return sign_load(member.key.sign, GROUP, report_of(member, seq, **changes))


# --- telling and hearing ----------------------------------------------------------------------------


def test_what_one_stores_all_come_to_know_and_what_it_evicts_too(group):
    group["alice"].change(blocks(1, 2, 3))
    group.settle()
    assert group["carol"].tree.match(blocks(1, 2, 3), 0.0) == {group["alice"].node_id: 3}
    group["alice"].change(blocks(4), blocks(2, 3))
    group.settle()
    for member in group.members.values():
        assert member.tree.match(blocks(1, 2, 3), 0.0) == {group["alice"].node_id: 1}
        assert member.named == []


def test_what_came_and_went_between_two_tellings_is_not_told(pair):
    alice = pair["alice"]
    before = alice.machine.known_of(alice.node_id)
    alice.change(blocks(1))
    alice.change([], blocks(1))
    pair.settle()
    assert alice.machine.known_of(alice.node_id) == before


def test_a_block_that_went_and_came_back_is_still_held(pair):
    pair["alice"].change(blocks(1))
    pair.settle()
    pair["alice"].change([], blocks(1))
    pair["alice"].change(blocks(1))
    pair.settle()
    assert pair["bob"].tree.held_by(pair["alice"].node_id) == 1


def test_changes_of_one_second_are_one_entry(pair):
    alice = pair["alice"]
    before = alice.machine.known_of(alice.node_id).next_seq
    for number in range(10):
        alice.change(blocks(number))
    pair.pass_time()
    assert alice.machine.known_of(alice.node_id).next_seq == before + 1


def test_an_empty_cache_makes_void_what_was_told(pair):
    pair["alice"].change(blocks(1, 2))
    pair.settle()
    pair["alice"].machine.begin_anew()
    pair["alice"].machine.tell_blocks(blocks(3), ())
    pair.settle()
    assert pair["bob"].tree.match(blocks(1), 0.0) == {}
    assert pair["bob"].tree.match(blocks(3), 0.0) == {pair["alice"].node_id: 1}


def test_a_member_that_starts_anew_and_holds_nothing_is_known_to_hold_nothing(pair):
    pair["alice"].change(blocks(1, 2))
    pair.settle()
    pair.members["alice"] = Member("alice", incarnation=2, now=pair.now)
    pair.introduce(pair.members.values())
    pair.settle()
    assert pair["bob"].tree.held_by(pair["alice"].node_id) == 0


def test_a_member_whose_clock_was_set_back_goes_on_after_its_last_life(pair):
    alice = pair["alice"]
    pair.members["alice"] = Member("alice", incarnation=500, now=pair.now)
    pair.introduce(pair.members.values())
    pair["alice"].change(blocks(1))
    pair["alice"].machine.tell_load(SPEED, IDLE)
    pair.settle()
    pair.members["alice"] = Member("alice", incarnation=3, now=pair.now)
    pair.introduce(pair.members.values())
    pair["alice"].change(blocks(2))
    pair["alice"].machine.tell_load(SPEED, BUSY)
    pair.settle()
    assert pair["bob"].tree.match(blocks(1), 0.0) == {}
    assert pair["bob"].tree.match(blocks(2), 0.0) == {alice.node_id: 1}
    assert pair["bob"].machine.load_of(alice.node_id).report.load == BUSY


def test_one_who_left_is_forgotten_and_may_come_back(group):
    carol = group["carol"]
    carol.change(blocks(1))
    carol.machine.tell_load(SPEED, IDLE)
    group.settle()
    group.introduce([group["alice"], group["bob"]])
    assert group["alice"].tree.match(blocks(1), 0.0) == {}
    assert group["alice"].machine.load_of(carol.node_id) is None
    group.introduce(group.members.values())
    group.settle()
    assert group["alice"].tree.match(blocks(1), 0.0) == {carol.node_id: 1}


def test_a_newcomer_gets_long_logs_in_parts_that_fit_into_a_frame(pair):
    pair["alice"].change(many(8000))
    for _ in range(3):
        pair.pass_time()
    pair.deliver_all()
    assert pair["bob"].tree.held_by(pair["alice"].node_id) < 8000
    pair.settle(10)
    assert pair["bob"].tree.held_by(pair["alice"].node_id) == 8000


# --- the graph ----------------------------------------------------------------------------------------


def test_neighbours_are_few_and_reach_all():
    ids = sorted(fixed_id(number) for number in range(100))
    graph = {each: ring_neighbours(each, ids) for each in ids}
    assert {len(neighbours) for neighbours in graph.values()} == {7}
    assert all(each not in neighbours for each, neighbours in graph.items())
    reached = {ids[0]}
    for _ in range(7):
        reached |= {neighbour for each in reached for neighbour in graph[each]}
    assert reached == set(ids)


@pytest.mark.parametrize(("count", "degree"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (64, 6), (65, 7)])
def test_a_group_of_any_size_has_its_neighbours(count, degree):
    ids = [fixed_id(number) for number in range(count)]
    assert len(set(ring_neighbours(ids[0], ids))) == degree


def test_one_alone_says_nothing():
    alone = Group("alice")
    alone["alice"].change(blocks(1))
    alone.settle()
    assert alone.flying == []
    assert alone["alice"].tree.held_by(alone["alice"].node_id) == 1


def test_a_vector_goes_to_each_neighbour_in_turn(group):
    alice = group["alice"].machine
    peers = [output.peer for time in range(4) for output in alice.handle_deadline(time * SYNC_S)]
    assert len(peers) == 4
    assert peers[:2] == peers[2:]
    assert set(peers) == set(alice.neighbours)


def test_a_reply_is_not_answered_by_a_reply(pair):
    alice, bob = pair["alice"], pair["bob"]
    known = {member_tag(alice.node_id): Known(9, 9)}
    message = GroupVector(GROUP, known, known, is_reply=False)
    (reply,) = [
        output.message
        for output in bob.machine.receive_message(alice.node_id, message, pair.now)
        if isinstance(output.message, GroupVector)
    ]
    assert reply.is_reply
    assert bob.machine.receive_message(alice.node_id, replace(message, is_reply=True), pair.now) == []


def test_members_whose_ids_begin_alike_are_none(pair):
    bob = pair["bob"].node_id
    twin = NodeId(bob[:8] + bytes(24))
    pair["alice"].machine.set_members([pair["alice"].node_id, bob, twin])
    assert set(pair["alice"].machine.members) == {pair["alice"].node_id}
    assert pair.hear("alice", bob, pair["bob"].entry(0)) == []
    assert pair["alice"].machine.counters["of_strangers"] == 1


def test_over_the_bound_those_who_are_in_stay_in(pair):
    machine, bob = pair["alice"].machine, pair["bob"].node_id
    machine.set_members([bob, *(fixed_id(number) for number in range(2 * MAX_GROUP_MEMBERS))])
    assert len(machine.members) == MAX_GROUP_MEMBERS
    assert bob in machine.members


# --- what others may do wrong ---------------------------------------------------------------------------


def test_news_of_no_members_are_dropped_and_who_passed_them_on_is_named_once(group):
    mallory = Member("mallory")
    bob = group["bob"].node_id
    named = group.hear("alice", bob, mallory.entry(0, stored=blocks(1)), loads=[load_blob(mallory)])
    assert [who for who, _ in named] == [bob, bob]
    assert group.hear("alice", bob, mallory.entry(0, stored=blocks(1))) == []
    assert group["alice"].tree.match(blocks(1), 0.0) == {}
    assert group["alice"].machine.load_of(mallory.node_id) is None
    group.now += NAMING_PERIOD_S
    assert len(group.hear("alice", bob, mallory.entry(0, stored=blocks(1)))) == 1


def test_who_is_no_member_is_not_heard(group):
    mallory, alice = Member("mallory"), group["alice"]
    assert group.hear("alice", mallory.node_id, group["bob"].entry(0, stored=blocks(1))) == []
    vector = GroupVector(GROUP, {}, {}, is_reply=False)
    assert alice.machine.receive_message(mallory.node_id, vector, 0.0) == []
    assert alice.machine.learn_load(mallory.node_id, load_blob(mallory), 0.0) == []
    assert alice.machine.counters["of_strangers"] == 3
    assert alice.tree.match(blocks(1), 0.0) == {}


def test_a_wrong_signature_ends_the_message_and_its_sender_is_named(group):
    alice, bob, carol = (group[name] for name in ("alice", "bob", "carol"))
    forged = bob.key.sign(b"clove-group-log/1", b"") + carol.entry(0, stored=blocks(1))[64:]
    named = group.hear("alice", bob.node_id, forged, bob.entry(0, stored=blocks(2)))
    assert named == [(bob.node_id, "news that its origin did not sign")]
    assert alice.tree.match(blocks(1), 0.0) == alice.tree.match(blocks(2), 0.0) == {}


def test_a_load_that_another_signed_is_not_believed(group):
    bob, carol = group["bob"], group["carol"]
    forged = sign_load(bob.key.sign, GROUP, report_of(carol))
    (named,) = group["alice"].machine.learn_load(bob.node_id, forged, 0.0)
    assert named.member == bob.node_id
    assert group.hear("alice", bob.node_id, loads=[forged]) == []
    assert group["alice"].machine.load_of(carol.node_id) is None


def test_entries_and_loads_of_before_do_nothing_when_they_are_played_again(group):
    alice, bob = group["alice"], group["bob"]
    old = [bob.entry(0, stored=blocks(1, 2)), bob.entry(1, evicted=blocks(2))]
    group.hear("alice", bob.node_id, *old, loads=[load_blob(bob, 0), load_blob(bob, 1, load=BUSY)])
    group.hear("alice", bob.node_id, *old, *reversed(old), loads=[load_blob(bob, 0)])
    assert alice.tree.match(blocks(1, 2), 0.0) == {bob.node_id: 1}
    assert alice.machine.load_of(bob.node_id).report.load == BUSY
    group.hear("alice", bob.node_id, bob.entry(0, incarnation=2), loads=[load_blob(bob, incarnation=2)])
    group.hear("alice", bob.node_id, *old, loads=[load_blob(bob, 7)])
    assert alice.tree.held_by(bob.node_id) == 0
    assert alice.machine.load_of(bob.node_id).report.incarnation == 2
    assert alice.named == []


def test_a_log_with_a_gap_for_ever_costs_nothing(group):
    alice, bob = group["alice"], group["bob"]
    group.hear("alice", bob.node_id, bob.entry(0, stored=blocks(0)))
    for seq in range(2, 200):
        group.hear("alice", bob.node_id, bob.entry(seq, stored=blocks(seq)))
        group.now += 1.0
    assert alice.machine.known_of(bob.node_id) == Known(1, 1)
    assert alice.tree.held_by(bob.node_id) == 1
    assert alice.named == []


def test_a_flood_of_entries_stands_still_and_its_origin_is_named_once(group):
    alice, bob, carol = (group[name] for name in ("alice", "bob", "carol"))
    carol.seq, named = 0, []

    def write(count):
        for _ in range(count):
            base = carol.seq - carol.seq % 50
            entry = carol.entry(carol.seq, base=base, stored=many(500, carol.seq % 50 * 500))
            named.extend(group.hear("alice", bob.node_id, entry))
            carol.seq += 1
            group.now += 0.1

    write(LOG_BURST_BLOCKS // 516)
    assert named == []
    write(200)
    assert named == [(carol.node_id, "a log that grows faster than it may")]
    assert alice.machine.counters["standing_still"] > 0


def test_of_a_log_that_stands_still_nothing_is_wanted_until_it_goes_on(group):
    alice, bob, carol = (group[name] for name in ("alice", "bob", "carol"))
    group.hear("alice", bob.node_id, *(carol.entry(seq, base=seq) for seq in range(LOG_BASE_BURST)))
    named = group.hear("alice", bob.node_id, carol.entry(LOG_BASE_BURST, base=LOG_BASE_BURST))
    assert [who for who, _ in named] == [carol.node_id]
    (vector,) = alice.machine.handle_deadline(group.now)
    assert vector.message.entries[member_tag(carol.node_id)] == NOTHING_WANTED
    known = {member_tag(carol.node_id): Known(1, 1000)}
    message = GroupVector(GROUP, known, {}, is_reply=False)
    assert not any(
        member_tag(carol.node_id) in output.message.entries
        for output in alice.machine.receive_message(bob.node_id, message, group.now)
        if isinstance(output.message, GroupVector)
    )
    group.now += STANDSTILL_S
    assert group.hear("alice", bob.node_id, carol.entry(99, base=99, stored=blocks(1))) == []
    assert alice.tree.held_by(carol.node_id) == 1


def test_who_wants_nothing_of_a_log_is_given_none_and_asked_for_none(pair):
    alice, bob = pair["alice"], pair["bob"]
    wanted = {member_tag(each.node_id): NOTHING_WANTED for each in (alice, bob)}
    vector = GroupVector(GROUP, wanted, wanted, is_reply=False)
    assert alice.machine.receive_message(bob.node_id, vector, pair.now) == []


@pytest.mark.parametrize("incarnation_step", [0, 1])
def test_bases_for_ever_are_taken_at_a_rate(group, incarnation_step):
    alice, bob = group["alice"], group["bob"]
    for seq in range(1200):
        entry = bob.entry(seq, base=seq, stored=blocks(seq), incarnation=1 + seq * incarnation_step)
        group.hear("alice", bob.node_id, entry)
        group.now += 0.1
    assert alice.machine.counters["applied"] <= LOG_BASE_BURST + 120 / 8 + 1
    assert 1 <= len(alice.named) <= 120 / NAMING_PERIOD_S + 1


def test_more_blocks_than_its_share_are_not_taken_and_are_named(group):
    alice, bob = group["alice"], group["bob"]
    for entry in flood(bob, 70):
        group.hear("alice", bob.node_id, entry)
        group.now += 1.0
    assert alice.tree.held_by(bob.node_id) == MAX_LOG_BLOCKS // 2
    assert {reason for _, reason in alice.named} == {"more blocks than its share"}


def test_a_log_longer_than_it_may_be_stands_still_until_its_next_base(group):
    alice, bob = group["alice"], group["bob"]
    for seq in range(140):
        blocks_of = many(512, seq // 2 * 512)
        entry = bob.entry(seq, **{"evicted" if seq % 2 else "stored": blocks_of})
        group.hear("alice", bob.node_id, entry)
        group.now += 1.0
    assert ("bob", "a log longer than it may be") in [("bob", reason) for _, reason in alice.named]
    assert alice.machine.known_of(bob.node_id) == Known(1, 128)
    group.now += STANDSTILL_S
    group.hear("alice", bob.node_id, bob.entry(140, base=140, stored=blocks(1)))
    assert alice.tree.held_by(bob.node_id) == 1


def test_an_absurd_speed_is_malformed_and_its_sender_named(group):
    bob = group["bob"]
    body = bytearray(load_blob(bob)[64:])
    body[43:47] = b"\x7f\x80\0\0"
    absurd = bob.key.sign(LOAD_CONTEXT, GROUP + bytes(body)) + bytes(body)
    assert len(group.hear("alice", bob.node_id, loads=[absurd])) == 1
    assert group["alice"].machine.load_of(bob.node_id) is None


def test_a_flood_of_loads_is_dropped_and_named(group):
    alice, bob = group["alice"], group["bob"]
    for seq in range(4 * LOAD_BURST):
        group.hear("alice", bob.node_id, loads=[load_blob(bob, seq)])
    assert alice.machine.load_of(bob.node_id).report.seq == LOAD_BURST - 1
    assert alice.named == [(bob.node_id, "a flood of reports")]


def test_news_of_another_group_are_ignored(group):
    alice, bob = group["alice"], group["bob"]
    other = GroupId(bytes(16))
    message = GroupNews(other, (bob.entry(0, stored=blocks(1)),), ())
    assert alice.machine.receive_message(bob.node_id, message, 0.0) == []
    assert alice.machine.counters["of_other_groups"] == 1
    machine = GroupMachine(
        alice.node_id, other, sign=alice.key.sign, incarnation=1, holders=PrefixTree(), now=0.0
    )
    machine.set_members([alice.node_id, bob.node_id])
    (named,) = machine.receive_message(bob.node_id, message, 0.0)
    assert named.member == bob.node_id  # it dressed up what was signed for a group as news of another


def test_a_neighbour_that_never_stops_asking_gets_no_more_than_its_rate(pair):
    alice, bob = pair["alice"], pair["bob"]
    alice.change(many(8000))
    pair.settle()
    sent = 0
    for _ in range(2000):
        pair.now += 0.01
        vector = GroupVector(GROUP, {}, {}, is_reply=False)
        for output in alice.machine.receive_message(bob.node_id, vector, pair.now):
            if isinstance(output, SendGroupMessage):
                assert counted_bytes(output.message) <= MAX_NEWS_FRAME_BYTES
                sent += counted_bytes(output.message)
    assert sent <= 256 * 1024 + 20 * 32 * 1024


def test_a_neighbour_that_sends_more_than_its_rate_is_not_looked_at_and_named_once(pair):
    alice, bob = pair["alice"], pair["bob"]
    news = GroupNews(GROUP, tuple(flood(bob, 15)), ())
    for _ in range(50):
        pair.perform(alice, alice.machine.receive_message(bob.node_id, news, pair.now))
    assert (bob.node_id, "more messages than its rate allows") in alice.named
    assert len(alice.named) == 1
    assert alice.machine.counters["over_rate"] > 30


def test_a_busy_member_tells_no_faster_than_others_take(pair):
    alice, bob = pair["alice"], pair["bob"]
    for second in range(100):
        alice.change(many(1000, 1000 * second), many(1000, 1000 * (second - 1)) if second else [])
        pair.pass_time()
        pair.deliver_all()
    pair.settle(300)
    assert bob.named == []
    assert bob.tree.held_by(alice.node_id) == 1000
