"""What is told of a cache: public blocks only, and in the end exactly those that are there, however slow the reader."""

import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from node.engine.block_manager import (
    BLOCK_TOKENS,
    BlockEvicted,
    BlockManager,
    BlockStored,
    BlockTable,
    scope_of,
)
from node.engine.cache_feed import MOST_REPORTS, CacheFeeds
from node.engine.events import CacheReport
from node.engine.public_blocks import CHANGES_PER_REPORT, PublicBlocks
from overlay.wire.prompt import ModelId

MODEL = ModelId("m-one")
PUBLIC, SESSION = scope_of("public", b""), scope_of("session", b"alice")


def name(number):
    return number.to_bytes(8, "big")


def stored(number, scope=PUBLIC):
    return BlockStored(name(number), b"", scope)


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
            self.wanted.append(command.is_wanted)
            (self.blocks.begin if command.is_wanted else self.blocks.cease)()
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
        self.known |= {found for found, _ in report.stored}
        self.known -= set(report.evicted)


async def test_nothing_is_told_before_somebody_asks_and_then_all_that_is_there(autojump_clock):
    worker = Worker()
    worker.step(stored(1), stored(2), BlockEvicted(name(1)))
    assert list(worker.blocks.reports()) == []
    with worker.feeds.opened(MODEL) as feed:
        reader = Reader(feed)
        await reader.read_all(worker)
        assert reader.known == {name(2)}
        worker.step(stored(3), BlockEvicted(name(2)))
        await reader.read_all(worker)
        assert reader.known == {name(3)}
    assert worker.wanted == [True, False]


def test_blocks_of_sessions_are_never_told():
    blocks = PublicBlocks(MODEL)
    blocks.begin()
    blocks.note(stored(1, SESSION))
    blocks.note(stored(2))
    blocks.note(BlockEvicted(name(1)))
    assert list(blocks.reports()) == [CacheReport(MODEL, begins=True, stored=((name(2), b""),))]


def test_what_came_and_went_between_two_tellings_is_told_as_it_is():
    blocks = PublicBlocks(MODEL)
    blocks.begin()
    list(blocks.reports())
    for event in (stored(1), BlockEvicted(name(1)), stored(2), BlockEvicted(name(2)), stored(2)):
        blocks.note(event)
    assert list(blocks.reports()) == [
        CacheReport(MODEL, begins=False, stored=((name(2), b""),), evicted=(name(1),))
    ]
    assert list(blocks.reports()) == []


def test_an_empty_cache_is_told_too_and_a_large_one_in_parts():
    blocks = PublicBlocks(MODEL)
    blocks.begin()
    assert list(blocks.reports()) == [CacheReport(MODEL, begins=True)]
    for number in range(CHANGES_PER_REPORT + 1):
        blocks.note(stored(number))
    blocks.begin()
    first, second = blocks.reports()
    assert (first.begins, len(first.stored), second.begins, len(second.stored)) == (True, 512, False, 1)


async def test_a_reader_who_was_away_gets_the_whole_anew_and_nothing_was_kept_for_him(autojump_clock):
    worker = Worker()
    with worker.feeds.opened(MODEL) as feed:
        reader = Reader(feed)
        await reader.read_all(worker)
        for number in range(3 * MOST_REPORTS):
            worker.step(stored(number))
            assert len(feed._reports) <= MOST_REPORTS
        await reader.read_all(worker)
        assert reader.known == {name(number) for number in range(3 * MOST_REPORTS)}
    assert worker.wanted == [True, True, False]


async def test_the_cache_of_a_worker_that_died_is_forgotten_and_its_successor_s_is_asked_for(autojump_clock):
    worker = Worker()
    with worker.feeds.opened(MODEL) as feed:
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


class FeedMachine(RuleBasedStateMachine):
    """A pool fills and empties, workers die, a reader comes when he likes: once he has read, he is right."""

    def __init__(self):
        super().__init__()
        self.worker = Worker()
        self.pool = BlockManager(6, bytes(16), self.note)
        self.context = self.worker.feeds.opened(MODEL)
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
        assert self.reader.known == set(self.worker.blocks._parents)

    def teardown(self):
        self.read()
        self.context.__exit__(None, None, None)


FeedMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestFeed = FeedMachine.TestCase
