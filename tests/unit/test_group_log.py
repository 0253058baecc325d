"""Logs of a group: whatever is lost, doubled or late, all come to the same view; and nobody's log hurts the others."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from overlay.protocol import group_log
from overlay.protocol.group_log import GroupLogs, LogWriter, Taken
from overlay.routing.prefix_tree import PrefixTree
from overlay.wire.group import GroupId, Known, LogEntry
from overlay.wire.group_codec import decode_log_entry, sign_log_entry
from tests.support.descriptors import fixed_key

GROUP = GroupId(bytes(16))
MEMBERS = sorted(fixed_key(name).node_id for name in ("alice", "bob", "carol", "dave"))
A, B, C, D = MEMBERS
BLOCKS = [bytes([index]) * 8 for index in range(12)]

blocks = st.lists(st.sampled_from(BLOCKS), max_size=6, unique=True)
members = st.sampled_from(MEMBERS)


def blob_of(entry):
    """The bytes of an entry; who signed them does not matter here."""
    return sign_log_entry(lambda _context, _body: bytes(64), GROUP, entry)


def entry_of(blob):
    return decode_log_entry(blob, GROUP)._value


class Member:
    """One that writes its own log and keeps everybody's."""

    def __init__(self, node_id, incarnation):
        self.node_id = node_id
        self.writer = LogWriter(node_id, incarnation)
        self.tree = PrefixTree()
        self.logs = GroupLogs(self.tree)
        self.held = set()
        self.hear(self.writer.begin_anew())

    def change(self, stored, evicted):
        self.held = (self.held | set(stored)) - set(evicted)
        entries = self.writer.write([block for block in stored if block not in evicted], evicted)
        self.hear(entries)
        return entries

    def hear(self, entries):
        return [self.logs.receive(entry, blob_of(entry)) for entry in entries]

    def view(self):
        """The members that hold each block, by this member's tree."""
        return {block: frozenset(self.tree.match([block], 0.0)) for block in BLOCKS}


class GroupMachine(RuleBasedStateMachine):
    """Entries fly about in a bag: any may arrive anywhere, any number of times, or never."""

    @initialize(smallest=st.sampled_from([0, 8, 2048]), entry_blocks=st.sampled_from([1, 3, 512]))
    def begin(self, smallest, entry_blocks):
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(group_log, "_SMALLEST_LOG", smallest)
        self.patch.setattr(group_log, "MAX_ENTRY_BLOCKS", entry_blocks)
        self.started = 0
        self.members = {node_id: Member(node_id, 0) for node_id in MEMBERS}
        self.flying = []

    def teardown(self):
        self.settle()
        self.patch.undo()

    @rule(who=members, stored=blocks, evicted=blocks)
    def change(self, who, stored, evicted):
        self.flying += self.members[who].change(stored, evicted)

    @rule(who=members)
    def restart(self, who):
        self.started += 1
        self.members[who] = Member(who, self.started)

    @rule(who=members)
    def lose_the_cache(self, who):
        member = self.members[who]
        member.held = set()
        self.flying += member.writer.begin_anew()
        member.hear(self.flying[-1:])

    @precondition(lambda self: self.flying)
    @rule(who=members, index=st.integers(0))
    def deliver(self, who, index):
        self.members[who].hear([self.flying[index % len(self.flying)]])

    @rule(one=members, other=members, most=st.sampled_from([150, 500, 100_000]))
    def compare(self, one, other, most):
        self.give(one, other, most)
        self.give(other, one, most)

    def give(self, one, other, most):
        giver, taker = self.members[one], self.members[other]
        return taker.hear(map(entry_of, giver.logs.lacking(taker.logs.vector(), most)))

    def settle(self):
        """Three rounds along a ring carry everything everywhere."""
        for _ in range(3):
            for one, other in zip(MEMBERS, MEMBERS[1:] + MEMBERS[:1], strict=True):
                self.give(one, other, 1 << 20)
        truth = {
            block: frozenset(who for who, member in self.members.items() if block in member.held)
            for block in BLOCKS
        }
        for member in self.members.values():
            assert member.view() == truth


TestGroup = GroupMachine.TestCase
TestGroup.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def entry(origin=A, incarnation=0, seq=0, base=0, stored=(), evicted=()):
    return LogEntry(origin, incarnation, seq, base, tuple(stored), tuple(evicted))


def take(logs, entry):
    return logs.receive(entry, blob_of(entry))


@pytest.fixture
def tree():
    return PrefixTree()


@pytest.fixture
def logs(tree):
    return GroupLogs(tree)


def test_an_entry_that_comes_too_early_waits_for_those_before_it(logs, tree):
    assert take(logs, entry(stored=BLOCKS[:1])) is Taken.APPLIED
    assert take(logs, entry(seq=2, stored=BLOCKS[2:3])) is Taken.EARLY
    assert take(logs, entry(seq=1, stored=BLOCKS[1:2])) is Taken.APPLIED
    assert take(logs, entry(seq=1, stored=BLOCKS[1:2])) is Taken.KNOWN
    assert take(logs, entry(seq=2, stored=BLOCKS[2:3])) is Taken.APPLIED
    assert tree.held_by(A) == 3


def test_entries_of_an_earlier_life_come_too_late(logs, tree):
    take(logs, entry(incarnation=5, stored=BLOCKS[:1]))
    assert take(logs, entry(incarnation=4, seq=1, stored=BLOCKS[1:])) is Taken.KNOWN
    assert take(logs, entry(incarnation=4, seq=9, base=9, stored=BLOCKS[1:])) is Taken.KNOWN
    assert tree.held_by(A) == 1


def test_a_later_life_makes_all_that_was_known_void(logs, tree):
    take(logs, entry(stored=BLOCKS))
    assert take(logs, entry(incarnation=1, seq=3, base=2, stored=BLOCKS[:1])) is Taken.EARLY
    assert tree.held_by(A) == len(BLOCKS)
    assert take(logs, entry(incarnation=1, seq=2, base=2, stored=BLOCKS[:1])) is Taken.APPLIED
    assert tree.held_by(A) == 1


def test_who_is_far_behind_begins_at_the_base(logs, tree):
    take(logs, entry(stored=BLOCKS[:2]))
    assert take(logs, entry(seq=700, base=700, stored=BLOCKS[5:6])) is Taken.APPLIED
    assert tree.match(BLOCKS[5:6], 0.0) == {A: 1}
    assert tree.match(BLOCKS[:1], 0.0) == {}


def test_a_log_that_is_too_long_stands_still_until_its_next_base(logs, tree, monkeypatch):
    monkeypatch.setattr(group_log, "MAX_LOG_BLOCKS", 4)
    take(logs, entry(stored=BLOCKS[:3]))
    assert take(logs, entry(seq=1, stored=BLOCKS[3:6])) is Taken.NO_ROOM
    assert take(logs, entry(seq=2, stored=BLOCKS[3:4])) is Taken.EARLY
    assert take(logs, entry(seq=3, base=3, stored=BLOCKS[3:6])) is Taken.APPLIED
    assert tree.held_by(A) == 3


def test_a_log_of_very_many_entries_stands_still_too(logs, monkeypatch):
    monkeypatch.setattr(group_log, "MAX_LOG_ENTRIES", 2)
    assert [take(logs, entry(seq=seq)) for seq in range(3)] == [Taken.APPLIED, Taken.APPLIED, Taken.NO_ROOM]


def test_members_beyond_the_bound_are_not_taken_in(logs, monkeypatch):
    monkeypatch.setattr(group_log, "MAX_GROUP_MEMBERS", 1)
    assert take(logs, entry(A)) is Taken.APPLIED
    assert take(logs, entry(B)) is Taken.NO_ROOM
    logs.forget(A)
    assert take(logs, entry(B)) is Taken.APPLIED


def test_a_writer_whose_blocks_come_and_go_keeps_its_log_short():
    writer, tree = LogWriter(A, 0), PrefixTree()
    logs = GroupLogs(tree)
    told = 0
    for index in range(100, 20_100):
        entries = writer.write([index.to_bytes(8, "big")], [(index - 100).to_bytes(8, "big")])
        told += sum(each.block_count for each in entries)
        assert {take(logs, each) for each in entries} == {Taken.APPLIED}
    assert tree.held_by(A) == 100
    assert told < 1.2 * 40_000
    assert sum(entry_of(blob).block_count for blob in logs.lacking({}, 1 << 30)) <= 2048


def test_a_writer_with_more_blocks_than_others_take_tells_of_as_many_as_they_do():
    writer, tree = LogWriter(A, 0), PrefixTree(max_member_blocks=1 << 20)
    logs = GroupLogs(tree)
    for first in range(0, 100_000, 1000):
        changed = writer.write((index.to_bytes(8, "big") for index in range(first, first + 1000)), ())
        assert {take(logs, each) for each in changed} <= {Taken.APPLIED}
    assert tree.held_by(A) == group_log.MAX_LOG_BLOCKS // 2


def test_nothing_new_is_no_entry():
    writer = LogWriter(A, 0)
    writer.write(BLOCKS[:1], ())
    assert writer.write(BLOCKS[:1], BLOCKS[1:2]) == []


def test_a_long_log_does_not_starve_the_others(logs):
    for seq in range(50):
        take(logs, entry(A, seq=seq, stored=BLOCKS[:9]))
    take(logs, entry(B, stored=BLOCKS[:9]))
    behind = {A: Known(0, 45)}
    given = [logs.lacking(behind, 400) for _ in range(2)]
    assert {entry_of(blob).origin for blob in given[0]} == {A}
    assert B in {entry_of(blob).origin for part in given for blob in part}
