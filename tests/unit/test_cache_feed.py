"""What is told of a cache: public blocks only, and in the end exactly those that are there, however slow the reader."""

import pytest
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from node.engine.block_manager import (
    BLOCK_TOKENS,
    PUBLIC_SCOPE,
    BlockEvicted,
    BlockManager,
    BlockStored,
    BlockTable,
    scope_of,
)
from node.engine.block_names import name_block, name_chain
from node.engine.cache_feed import MOST_REPORTS, CacheFeeds
from node.engine.events import CacheReport
from node.engine.public_blocks import CHANGES_PER_REPORT, PublicBlocks
from overlay.wire.prompt import ModelId

MODEL = ModelId("m-one")
PUBLIC, SESSION = scope_of("public", b""), scope_of("session", b"alice")


KEY, NEXT_KEY = bytes(16), bytes(range(16))


def own(number):
    """The worker's own hash of a block, and what stands for its tokens."""
    return number.to_bytes(8, "big")


def stored(number, scope=PUBLIC, parent=b""):
    return BlockStored(own(number), parent, scope, own(number))


def gone(number):
    return BlockEvicted(own(number))


def name(*numbers, key=KEY):
    """What the group calls the last block of this chain."""
    before = PUBLIC_SCOPE
    for number in numbers:
        before = name_block(key, before, own(number))
    return before


class Worker:
    """The worker's side of the pipe: blocks, and whether they are told."""

    def __init__(self):
        self.blocks = PublicBlocks(MODEL)
        self.feeds = CacheFeeds(self.post)
        self.wanted = []
        self.is_alive = True

    def post(self, command):
        assert command.model_id == MODEL
        if self.is_alive:
            self.wanted.append(command.key)
            if command.key:
                self.blocks.begin(command.key)
            else:
                self.blocks.cease()
        return self.is_alive

    def step(self, *events):
        for event in events:
            self.blocks.note(event)
        for report in self.blocks.reports():
            self.feeds.put(report)

    def replace(self):
        self.blocks = PublicBlocks(MODEL)
        self.feeds.worker_gone()
        self.feeds.worker_ready()


class Reader:
    """Does what reports say."""

    def __init__(self, feed):
        self.feed = feed
        self.known = set()

    async def read_all(self, worker):
        """Everything that comes until nothing does."""
        while True:
            with trio.move_on_after(0.01) as patience:
                self.take(await self.feed.receive())
            worker.step()
            if patience.cancelled_caught and not self.feed._reports:
                return

    def take(self, report):
        if report.begins:
            self.known.clear()
        self.known |= set(report.stored)
        self.known -= set(report.evicted)


async def test_nothing_is_told_before_somebody_asks_and_then_all_that_is_there(autojump_clock):
    worker = Worker()
    worker.step(stored(1), stored(2), gone(1))
    assert list(worker.blocks.reports()) == []
    with worker.feeds.opened(MODEL, KEY) as feed:
        reader = Reader(feed)
        await reader.read_all(worker)
        assert reader.known == {name(2)}
        worker.step(stored(3), gone(2))
        await reader.read_all(worker)
        assert reader.known == {name(3)}
    assert worker.wanted == [KEY, b""]


def test_blocks_of_sessions_are_never_told():
    blocks = PublicBlocks(MODEL)
    blocks.begin(KEY)
    blocks.note(stored(1, SESSION))
    blocks.note(stored(2))
    blocks.note(gone(1))
    assert list(blocks.reports()) == [CacheReport(MODEL, KEY, begins=True, stored=(name(2),))]


def test_what_came_and_went_between_two_tellings_is_told_as_it_is():
    blocks = PublicBlocks(MODEL)
    blocks.begin(KEY)
    list(blocks.reports())
    for event in (stored(1), gone(1), stored(2), gone(2), stored(2)):
        blocks.note(event)
    assert list(blocks.reports()) == [
        CacheReport(MODEL, KEY, begins=False, stored=(name(2),), evicted=(name(1),))
    ]
    assert list(blocks.reports()) == []


def test_an_empty_cache_is_told_too_and_a_large_one_in_parts():
    blocks = PublicBlocks(MODEL)
    blocks.begin(KEY)
    assert list(blocks.reports()) == [CacheReport(MODEL, KEY, begins=True)]
    for number in range(CHANGES_PER_REPORT + 1):
        blocks.note(stored(number))
    blocks.begin(KEY)
    first, second = blocks.reports()
    assert (first.begins, len(first.stored), second.begins, len(second.stored)) == (True, 512, False, 1)


async def test_a_reader_who_was_away_gets_the_whole_anew_and_nothing_was_kept_for_him(autojump_clock):
    worker = Worker()
    with worker.feeds.opened(MODEL, KEY) as feed:
        reader = Reader(feed)
        await reader.read_all(worker)
        for number in range(3 * MOST_REPORTS):
            worker.step(stored(number))
            assert len(feed._reports) <= MOST_REPORTS
        await reader.read_all(worker)
        assert reader.known == {name(number) for number in range(3 * MOST_REPORTS)}
    assert worker.wanted == [KEY, KEY, b""]


async def test_the_cache_of_a_worker_that_died_is_forgotten_and_its_successor_s_is_asked_for(autojump_clock):
    worker = Worker()
    with worker.feeds.opened(MODEL, KEY) as feed:
        reader = Reader(feed)
        worker.step(stored(1))
        await reader.read_all(worker)
        assert reader.known == {name(1)}
        worker.is_alive = False
        worker.feeds.worker_gone()
        await reader.read_all(worker)
        assert reader.known == set()
        worker.is_alive = True
        worker.replace()
        worker.step(stored(7))
        await reader.read_all(worker)
        assert reader.known == {name(7)}


def test_a_block_is_named_as_a_prompt_s_is_that_holds_it():
    tokens = list(range(3 * BLOCK_TOKENS))
    blocks = PublicBlocks(MODEL)
    pool, table = BlockManager(3, b"the worker's own", blocks.note), BlockTable(PUBLIC)
    pool.grow(table, len(tokens))
    for start in range(0, len(tokens), BLOCK_TOKENS):
        pool.fill(table, tokens[start : start + BLOCK_TOKENS])
    blocks.begin(KEY)
    (report,) = blocks.reports()
    assert report.stored == name_chain(KEY, PUBLIC_SCOPE, tokens)
    assert set(report.stored).isdisjoint(table.hashes)


def test_under_another_key_all_is_told_anew_in_other_names():
    blocks = PublicBlocks(MODEL)
    blocks.begin(KEY)
    blocks.note(stored(1))
    blocks.note(stored(2, parent=own(1)))
    blocks.begin(NEXT_KEY)
    names = (name(1, key=NEXT_KEY), name(1, 2, key=NEXT_KEY))
    assert list(blocks.reports()) == [CacheReport(MODEL, NEXT_KEY, begins=True, stored=names)]
    blocks.note(gone(2))
    assert list(blocks.reports()) == [CacheReport(MODEL, NEXT_KEY, begins=False, evicted=names[1:])]


def test_a_block_whose_beginning_is_gone_keeps_its_name_but_gets_no_new_one():
    blocks = PublicBlocks(MODEL)
    blocks.begin(KEY)
    for event in (stored(1), stored(2, parent=own(1)), stored(3, parent=own(2)), gone(1)):
        blocks.note(event)
    assert set(next(blocks.reports()).stored) == {name(1, 2), name(1, 2, 3)}
    blocks.begin(NEXT_KEY)
    assert list(blocks.reports()) == [CacheReport(MODEL, NEXT_KEY, begins=True)]
    for event in (stored(4, parent=own(3)), gone(4), stored(1)):
        blocks.note(event)
    assert next(blocks.reports()).stored == (name(1, key=NEXT_KEY),)
    blocks.begin(NEXT_KEY)
    assert len(next(blocks.reports()).stored) == 3


@pytest.mark.parametrize("key", [b"", bytes(65)])
def test_a_key_that_would_end_the_worker_is_not_sent(key):
    feeds = Worker().feeds
    with pytest.raises(ValueError, match="bytes"), feeds.opened(MODEL, key):
        pass


class FeedMachine(RuleBasedStateMachine):
    """A pool fills and empties, workers die, a reader comes when he likes: once he has read, he is right."""

    def __init__(self):
        super().__init__()
        self.worker = Worker()
        self.pool = BlockManager(6, bytes(16), self.note)
        self.context = self.worker.feeds.opened(MODEL, KEY)
        self.reader = Reader(self.context.__enter__())

    def note(self, event):
        self.worker.blocks.note(event)

    @rule(
        scope=st.sampled_from([PUBLIC, SESSION, None]),
        texts=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    )
    def answer(self, scope, texts):
        tokens = [text * 100 + index for text in texts for index in range(BLOCK_TOKENS)]
        table, chain = BlockTable(scope), self.pool.chain(scope, tokens)
        known = chain[: self.pool.match(chain)]
        self.pool.share(table, known)
        if self.pool.grow(table, len(tokens)):
            for index in range(len(known), len(texts)):
                self.pool.fill(table, tokens[index * BLOCK_TOKENS : (index + 1) * BLOCK_TOKENS])
        self.pool.release(table)
        self.worker.step()

    @rule(times=st.integers(1, 2 * MOST_REPORTS))
    def churn(self, times):
        for _ in range(times):
            self.worker.step(stored(1), stored(2))

    @rule()
    def die(self):
        self.pool = BlockManager(6, bytes(16), self.note)
        self.worker.replace()

    @rule()
    def read(self):
        trio.run(self.reader.read_all, self.worker, clock=trio.testing.MockClock(autojump_threshold=0))
        blocks = self.worker.blocks
        assert self.reader.known == set(blocks._names.values())
        assert all(each in blocks._contents for each in blocks._names)
        public = {name_block(KEY, *self.place_of(each)) for each in blocks._names}
        assert self.reader.known == public

    def place_of(self, found):
        blocks = self.worker.blocks
        content = blocks._contents[found]
        return (blocks._names[content.parent] if content.parent else PUBLIC_SCOPE, content.ids)

    def teardown(self):
        self.read()
        self.context.__exit__(None, None, None)


FeedMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestFeed = FeedMachine.TestCase
