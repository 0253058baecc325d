"""Blocks of the KV pool: never lost, never held by strangers, shared by equal beginnings only."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.engine.block_manager import (
    BLOCK_TOKENS,
    BlockEvicted,
    BlockManager,
    BlockStored,
    BlockTable,
    scope_of,
)
from node.engine.block_names import pack_ids

KEY = bytes(range(16))


def fill(manager, table, tokens):
    """A sequence of these tokens, computed to its end."""
    known = manager.chain(table.scope, tokens)[: manager.match(manager.chain(table.scope, tokens))]
    manager.share(table, known)
    assert manager.grow(table, len(tokens))
    for start in range(len(known) * BLOCK_TOKENS, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        manager.fill(table, tokens[start : start + BLOCK_TOKENS])
    return len(known)


def words(blocks, seed=0):
    return [seed * 1000 + index for index in range(blocks * BLOCK_TOKENS)]


def test_an_equal_beginning_is_shared_without_a_copy():
    manager = BlockManager(10, KEY)
    alice, bob = BlockTable(b"all"), BlockTable(b"all")
    fill(manager, alice, words(3))
    assert fill(manager, bob, words(2) + words(1, seed=7)) == 2
    assert bob.blocks[:2] == alice.blocks[:2]
    assert bob.blocks[2] not in alice.blocks
    assert [manager.references(block) for block in alice.blocks] == [2, 2, 1]


@pytest.mark.parametrize("scopes", [(b"a", b"b"), (None, None), (b"a", None), (None, b"a")])
def test_other_scopes_share_nothing(scopes):
    manager = BlockManager(10, KEY)
    first, second = map(BlockTable, scopes)
    fill(manager, first, words(3))
    assert fill(manager, second, words(3)) == 0


def test_the_same_tokens_after_another_beginning_are_another_block():
    manager = BlockManager(10, KEY)
    fill(manager, BlockTable(b"all"), words(1) + words(1, seed=5))
    assert fill(manager, BlockTable(b"all"), words(1, seed=3) + words(1, seed=5)) == 0


def test_hashes_are_keyed():
    chains = [BlockManager(4, key).chain(b"all", words(2)) for key in (KEY, bytes(16))]
    assert set(chains[0]).isdisjoint(chains[1])


def test_a_released_beginning_is_kept_until_its_room_is_needed_and_its_end_goes_first():
    told = []
    manager = BlockManager(4, KEY, told.append)
    table = BlockTable(b"all")
    fill(manager, table, words(4))
    manager.release(table)
    assert manager.available == 4
    assert manager.match(manager.chain(b"all", words(4))) == 4
    manager._evict(1)
    assert manager.match(manager.chain(b"all", words(4))) == 3
    assert told[4:] == [BlockEvicted(manager.chain(b"all", words(4))[3])]


def test_what_was_used_last_is_evicted_last():
    manager = BlockManager(4, KEY)
    for seed in (1, 2, 1):
        table = BlockTable(b"all")
        fill(manager, table, words(2, seed))
        manager.release(table)
    manager._evict(2)
    assert [manager.match(manager.chain(b"all", words(2, seed))) for seed in (1, 2)] == [2, 0]


def test_growing_over_the_pool_changes_nothing():
    manager = BlockManager(4, KEY)
    table = BlockTable()
    assert manager.grow(table, 2 * BLOCK_TOKENS)
    assert not manager.grow(table, 5 * BLOCK_TOKENS)
    assert len(table.blocks) == 2
    assert manager.available == 2


def test_events_tell_what_is_sharable_with_its_parent_and_its_tokens():
    told = []
    manager = BlockManager(4, KEY, told.append)
    fill(manager, BlockTable(b"all"), words(2))
    first, second = manager.chain(b"all", words(2))
    ids = [pack_ids(words(2)[:BLOCK_TOKENS]), pack_ids(words(2)[BLOCK_TOKENS:])]
    assert told == [
        BlockStored(first, b"", b"all", ids[0]),
        BlockStored(second, first, b"all", ids[1]),
    ]


def test_tables_that_grow_by_turns_stay_in_one_run_each():
    manager = BlockManager(64, KEY)
    tables = [BlockTable() for _ in range(4)]
    for tokens in range(1, 7 * BLOCK_TOKENS):
        for table in tables:
            assert manager.grow(table, tokens)
    assert [len(table.runs(7 * BLOCK_TOKENS - 1)) for table in tables] == [1, 1, 1, 1]


def test_runs_are_where_positions_lie():
    table = BlockTable(blocks=[2, 3, 1])
    assert table.runs(40) == [(32, 64), (16, 24)]
    assert table.runs(40, start=20) == [(52, 64), (16, 24)]
    assert table.runs(40, start=32) == [(16, 24)]
    assert table.runs(0) == []
    assert [table.slot(position) for position in (0, 17, 33)] == [32, 49, 17]


def test_scopes_of_requests():
    assert scope_of("none", b"alice") is None
    assert scope_of("session", b"") is None
    assert scope_of("session", b"alice") != scope_of("session", b"bob")
    assert scope_of("public", b"alice") == scope_of("public", b"bob") != scope_of("session", b"alice")


class BlockMachine(RuleBasedStateMachine):
    """Tables start, grow, fill and end in any order, over few different texts."""

    def __init__(self):
        super().__init__()
        self.told = []
        self.manager = BlockManager(12, KEY, self.told.append)
        self.tables = {}
        self.number = 0
        self.known = set()

    @rule(
        scope=st.sampled_from([None, b"a", b"b"]), texts=st.lists(st.integers(0, 2), min_size=1, max_size=5)
    )
    def start(self, scope, texts):
        tokens = [text * 100 + index for text in texts for index in range(BLOCK_TOKENS)]
        table = BlockTable(scope)
        chain = self.manager.chain(scope, tokens)
        known = chain[: self.manager.match(chain)]
        assert len(known) == 0 or scope is not None
        self.manager.share(table, known)
        if not self.manager.grow(table, len(tokens)):
            self.manager.release(table)
            return
        self.number += 1
        self.tables[self.number] = (table, tokens, len(known))

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def compute(self, data):
        number = data.draw(st.sampled_from(sorted(self.tables)))
        table, tokens, full = self.tables[number]
        if full < len(table.blocks):
            self.manager.fill(table, tokens[full * BLOCK_TOKENS : (full + 1) * BLOCK_TOKENS])
            self.tables[number] = (table, tokens, full + 1)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def end(self, data):
        table, _, _ = self.tables.pop(data.draw(st.sampled_from(sorted(self.tables))))
        self.manager.release(table)

    @invariant()
    def every_block_is_in_one_state(self):
        manager = self.manager
        held = Counter(block for table, _, _ in self.tables.values() for block in table.blocks)
        assert dict(manager._references) == dict(held)
        states = [*manager._free, *manager._kept, *held]
        assert sorted(states) == list(range(manager.count))

    @invariant()
    def hashes_and_blocks_are_one_to_one_and_events_tell_of_them(self):
        manager = self.manager
        assert {block: each for each, block in manager._by_hash.items()} == manager._hashes
        assert set(manager._kept) <= set(manager._hashes)
        told, self.told[:] = list(self.told), []
        for event in told:
            match event:
                case BlockStored(each, parent):
                    assert each not in self.known
                    self.known.add(each)
                    assert len(parent) in (0, 8)
                case BlockEvicted(each):
                    self.known.remove(each)
        assert self.known == set(manager._by_hash)

    @invariant()
    def sharers_have_the_same_tokens(self):
        content = {}
        for table, tokens, full in self.tables.values():
            for index in range(full):
                text = (table.scope, tuple(tokens[: (index + 1) * BLOCK_TOKENS]))
                assert content.setdefault(table.blocks[index], text) == text

    def teardown(self):
        for table, _, _ in self.tables.values():
            self.manager.release(table)
        assert self.manager.available == self.manager.count


BlockMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestBlocks = BlockMachine.TestCase
