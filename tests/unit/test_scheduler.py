"""Which tokens a step computes: everybody gets on, nobody gets more than there is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.engine.block_manager import BlockManager
from node.engine.scheduler import BatchLimits, Scheduler, share_budget
from tests.support.scheduling import make_sequence, perform

LIMITS = BatchLimits(sequences=3, prefill_tokens=16, mixed_prefill_tokens=4)
BLOCKS = 7


def make_scheduler(blocks=BLOCKS):
    return Scheduler(LIMITS, BlockManager(blocks, bytes(16)))


def run_all(scheduler):
    finished = []
    while not scheduler.is_idle:
        finished += perform(scheduler, scheduler.plan())
    return finished


def test_an_answer_takes_one_prefill_and_one_decode_less_than_it_has_tokens():
    scheduler = make_scheduler()
    scheduler.add(make_sequence(1, prompt=5, output=3))
    kinds = []
    while not scheduler.is_idle:
        chunks = scheduler.plan()
        kinds.append([(chunk.start, chunk.count, chunk.wanted) for chunk in chunks])
        perform(scheduler, chunks)
    assert kinds == [[(0, 5, 1)], [(5, 1, 1)], [(6, 1, 1)]]


def test_a_long_prompt_is_read_in_chunks_and_only_the_last_row_is_wanted():
    scheduler = make_scheduler()
    scheduler.add(make_sequence(1, prompt=40, output=1))
    wanted = []
    while not scheduler.is_idle:
        chunks = scheduler.plan()
        wanted += [(chunk.count, chunk.wanted) for chunk in chunks]
        perform(scheduler, chunks)
    assert wanted == [(16, 0), (16, 0), (8, 1)]


def test_answers_go_on_beside_a_long_prompt_that_joins():
    scheduler = make_scheduler()
    scheduler.add(make_sequence(1, prompt=2, output=5))
    perform(scheduler, scheduler.plan())
    scheduler.add(make_sequence(2, prompt=40, output=1))
    chunks = scheduler.plan()
    assert [(chunk.sequence.request, chunk.count) for chunk in chunks] == [(1, 1), (2, 4)]


def test_a_replay_wants_the_rows_that_predict_its_answer():
    scheduler = make_scheduler()
    scheduler.add(make_sequence(1, prompt=20, forced=tuple(range(500, 510))))
    rows, tokens = [], []
    while not scheduler.is_idle:
        chunks = scheduler.plan()
        for chunk in chunks:
            rows.append(chunk.wanted)
            tokens += chunk.sequence.tokens(chunk.start, chunk.count)
        perform(scheduler, chunks)
    assert rows == [0, 10]
    assert tokens == [*range(20), *range(500, 509)]


def test_none_overtakes_one_that_waits_for_room():
    scheduler = make_scheduler()
    scheduler.add(make_sequence(1, prompt=60, output=1))
    scheduler.add(make_sequence(2, prompt=60, output=1))
    scheduler.add(make_sequence(3, prompt=1, output=1))
    assert {chunk.sequence.request for chunk in scheduler.plan()} == {1}
    assert run_all(scheduler) == [1, 3, 2]  # the short one joins with the second, not before it


def test_a_sequence_that_can_never_fit_is_refused():
    with pytest.raises(ValueError, match="exceeds"):
        make_scheduler().add(make_sequence(1, prompt=100, output=20))


def test_a_removed_request_leaves_its_room_at_once():
    scheduler = make_scheduler()
    scheduler.add(make_sequence(1, prompt=90, output=9))
    scheduler.plan()
    scheduler.add(make_sequence(2, prompt=50))
    assert [chunk.sequence.request for chunk in scheduler.plan()] == [1]
    assert scheduler.remove(1) is not None
    assert scheduler.remove(1) is None
    assert [chunk.sequence.request for chunk in scheduler.plan()] == [2]


@settings(deadline=None)
@given(st.lists(st.integers(1, 2000), max_size=20), st.integers(1, 512))
def test_a_step_s_budget_is_spent_while_there_is_something_to_read(unread, budget):
    shares = share_budget(unread, budget)
    assert sum(shares) == min(sum(unread), budget)
    assert all(0 <= share <= left for share, left in zip(shares, unread, strict=True))
    assert not unread or shares[0] >= min(unread[0], budget / 2)


def test_a_short_prompt_is_not_kept_waiting_by_a_long_one():
    scheduler = make_scheduler()
    scheduler.add(make_sequence(1, prompt=60))
    scheduler.add(make_sequence(2, prompt=3))
    assert [(chunk.sequence.request, chunk.count) for chunk in scheduler.plan()] == [(1, 13), (2, 3)]


def test_a_long_prompt_gets_half_however_many_short_ones_come():
    scheduler = make_scheduler()
    scheduler.add(make_sequence(1, prompt=60))
    scheduler.add(make_sequence(2, prompt=12))
    scheduler.add(make_sequence(3, prompt=12))
    counts = {chunk.sequence.request: chunk.count for chunk in scheduler.plan()}
    assert counts == {1: 8, 2: 8}


def test_the_last_admitted_gives_way_when_blocks_run_out_and_loses_nothing():
    scheduler = make_scheduler(blocks=4)
    first, second = make_sequence(1, prompt=14, output=30), make_sequence(2, prompt=14, output=30)
    scheduler.add(first)
    scheduler.add(second)
    finished = []
    while not scheduler.preemptions:
        finished += perform(scheduler, scheduler.plan())
    assert not finished
    assert not second.table.blocks
    kept = list(second.output_ids)
    assert len(kept) > 10
    assert run_all(scheduler) == [1, 2]
    assert second.output_ids[: len(kept)] == kept
    assert len(second.output_ids) == 30


def test_a_known_beginning_is_not_computed_again():
    scheduler = make_scheduler()
    for request in (1, 2):
        scheduler.add(make_sequence(request, prompt=40, output=1, scope=b"all"))
        chunks = scheduler.plan()
        sequence = chunks[0].sequence
        assert chunks[0].start == sequence.cached_tokens == (0 if request == 1 else 32)
        perform(scheduler, chunks)
        run_all(scheduler)


def test_a_prompt_that_is_known_to_its_end_has_its_last_block_computed():
    scheduler = make_scheduler()
    for _ in range(2):
        scheduler.add(make_sequence(1, prompt=32, output=1, scope=b"all"))
        last = scheduler.plan()
        told = [(chunk.start, chunk.count, chunk.wanted) for chunk in last]
        perform(scheduler, last)
        run_all(scheduler)
    assert told == [(16, 16, 1)]


@pytest.mark.parametrize("given", range(1, 34))
def test_an_answer_that_is_known_as_far_as_it_was_given_goes_on_at_once(given):
    scheduler = make_scheduler()
    scheduler.add(make_sequence(1, prompt=16, output=40, scope=b"all"))
    run_all(scheduler)
    sequence = make_sequence(2, prompt=16, output=40, scope=b"all", given=given)
    scheduler.add(sequence)
    perform(scheduler, scheduler.plan())
    assert len(sequence.output_ids) == given + 1
    assert run_all(scheduler) == [2]


def test_a_beginning_that_another_is_computing_is_waited_for_and_others_pass():
    scheduler = make_scheduler(blocks=12)
    scheduler.add(make_sequence(1, prompt=40, output=4, scope=b"all"))
    scheduler.add(make_sequence(2, prompt=40, output=4, scope=b"all"))
    scheduler.add(make_sequence(3, prompt=6, output=4))
    assert {chunk.sequence.request for chunk in scheduler.plan()} == {1, 3}
    waiting = scheduler._waiting[0]
    run_all(scheduler)
    assert waiting.cached_tokens == 32


def test_one_that_waited_for_another_goes_on_when_that_is_cancelled():
    scheduler = make_scheduler()
    scheduler.add(make_sequence(1, prompt=40, scope=b"all"))
    scheduler.add(make_sequence(2, prompt=40, scope=b"all"))
    scheduler.plan()
    scheduler.remove(1)
    assert [chunk.sequence.request for chunk in scheduler.plan()] == [2]


class SchedulerMachine(RuleBasedStateMachine):
    """Requests come, go and finish in any order; bounds hold, everyone ends once, and in the end nothing is left."""

    def __init__(self):
        super().__init__()
        self.scheduler = make_scheduler()
        self.alive = set()
        self.number = 0

    @rule(
        prompt=st.integers(1, 60),
        output=st.integers(1, 50),
        forced=st.booleans(),
        scope=st.sampled_from([None, b"a", b"b"]),
        given=st.integers(0, 50),
    )
    def submit(self, prompt, output, forced, scope, given):
        self.number += 1
        if forced:
            sequence = make_sequence(self.number, prompt, output, tuple(range(output)))
        else:
            sequence = make_sequence(self.number, prompt, output, None, scope, min(given, output - 1))
        self.scheduler.add(sequence)
        self.alive.add(self.number)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def cancel(self, data):
        request = data.draw(st.sampled_from(sorted(self.alive)))
        assert self.scheduler.remove(request) is not None
        self.alive.remove(request)

    @rule()
    def step(self):
        chunks = self.scheduler.plan()
        assert bool(chunks) == bool(self.alive)
        decodes = [chunk for chunk in chunks if chunk.sequence.is_decoding]
        prefill_tokens = sum(chunk.count for chunk in chunks if not chunk.sequence.is_decoding)
        assert prefill_tokens <= (LIMITS.mixed_prefill_tokens if decodes else LIMITS.prefill_tokens)
        requests = [chunk.sequence.request for chunk in chunks]
        assert len(requests) == len(set(requests)) <= LIMITS.sequences
        for request in perform(self.scheduler, chunks):
            self.alive.remove(request)

    @invariant()
    def blocks_are_those_of_the_running(self):
        blocks = self.scheduler._blocks
        running, waiting = self.scheduler._running, self.scheduler._waiting
        held = {block for sequence in running for block in sequence.table.blocks}
        assert len(held) + blocks.available == blocks.count
        assert not any(sequence.table.blocks for sequence in waiting)
        assert {sequence.request for sequence in (*running, *waiting)} == self.alive

    def teardown(self):
        assert sorted(run_all(self.scheduler)) == sorted(self.alive)
        assert self.scheduler._blocks.available == BLOCKS


SchedulerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestScheduler = SchedulerMachine.TestCase
