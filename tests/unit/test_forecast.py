"""Forecasts: what the scheduler then really does, when answers become as long as they were thought to."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.engine.answer_length import AnswerLengths
from node.engine.block_manager import BlockManager
from node.engine.forecast import Job, Machine, forecast
from node.engine.scheduler import BatchLimits, Scheduler
from node.engine.step_time import StepTime, StepWork
from tests.support.scheduling import make_sequence, perform

LIMITS = BatchLimits(sequences=3, prefill_tokens=512, mixed_prefill_tokens=64)
BLOCKS = 2000
TIME = StepTime()


def job(sequence):
    """A sequence as a forecast sees it that knows how long the answer will be."""
    unread = 0 if sequence.is_decoding else sequence.length - sequence.computed
    output = sequence.max_output - len(sequence.output_ids)
    return Job(unread, sequence.length - unread, output)


def play(scheduler, request):
    """Seconds until the request's first token and its end, by the steps that the scheduler plans."""
    clock, first = 0.0, None
    while True:
        chunks = scheduler.plan()
        clock += TIME.predict(StepWork.of(chunks))
        is_first = any(each.sequence.request == request and each.wanted for each in chunks)
        first = clock if first is None and is_first else first
        if request in perform(scheduler, chunks):
            return first, clock


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 1500), st.integers(1, 60)), min_size=1, max_size=8),
    st.integers(0, 20),
)
def test_a_forecast_is_what_the_scheduler_then_does(requests, steps):
    scheduler = Scheduler(LIMITS, BlockManager(BLOCKS, bytes(16)))
    for number, (prompt, output) in enumerate(requests):
        scheduler.add(make_sequence(number, prompt, output))
    for _ in range(steps):
        perform(scheduler, scheduler.plan())
    scheduler.add(make_sequence(99, 300, 20))
    machine = Machine(LIMITS, TIME, BLOCKS)
    told = forecast(
        machine, [job(each) for each in scheduler.running], [job(each) for each in scheduler.waiting]
    )
    first, end = play(scheduler, 99)
    # Off by the steps in which a prompt's last, smaller part is read: at most one for each.
    assert told.first_token_s == pytest.approx(first, rel=0.1, abs=0.1)
    assert told.end_s == pytest.approx(end, rel=0.1, abs=0.1)


def test_an_empty_machine_reads_at_once():
    told = forecast(Machine(LIMITS, TIME, BLOCKS), [], [Job(512, 0, 1)])
    assert (
        told.first_token_s == told.end_s == pytest.approx(TIME.predict(StepWork(0, 512, 512 * 256)), rel=0.01)
    )


def test_who_finds_the_batch_full_waits_for_an_answer_to_end():
    running = [Job(0, 100, output) for output in (40, 50, 60)]
    told = forecast(Machine(LIMITS, TIME, BLOCKS), running, [Job(10, 0, 5)])
    assert told.first_token_s > 39 * TIME.predict(StepWork(3, 0, 300))


def test_who_finds_no_blocks_waits_though_there_is_a_place():
    running = [Job(0, 100, 40, blocks=7)]
    roomy = forecast(Machine(LIMITS, TIME, 5), running, [Job(60, 0, 5, blocks=4)])
    tight = forecast(Machine(LIMITS, TIME, 3), running, [Job(60, 0, 5, blocks=4)])
    assert roomy.first_token_s < tight.first_token_s > 39 * TIME.predict(StepWork(1, 0, 100))


def test_another_model_s_steps_are_waited_for_too():
    alone, beside = (
        forecast(Machine(LIMITS, TIME, BLOCKS, beside_s=beside_s), [], [Job(1000, 0, 5)])
        for beside_s in (0, 1)
    )
    assert beside.first_token_s == pytest.approx(alone.first_token_s + 2)


def test_a_backlog_without_end_is_not_played_to_its_end():
    waiting = [Job(100_000, 0, 100_000) for _ in range(5000)]
    assert forecast(Machine(LIMITS, TIME, BLOCKS), [], waiting).first_token_s > 3600


def test_answers_are_expected_to_become_as_long_as_the_last_ones():
    lengths = AnswerLengths()
    assert lengths.expect(0, 1000) == 128
    for tokens in (10, 20, 30):
        lengths.ended(tokens)
    assert lengths.expect(0, 1000) == 20
    assert lengths.expect(15, 1000) == 10
    assert lengths.expect(0, 5) == 5


def test_an_answer_that_outlived_all_others_has_as_much_before_it_as_behind_it():
    lengths = AnswerLengths()
    lengths.ended(10)
    assert lengths.expect(40, 1000) == 40


@settings(deadline=None)
@given(st.lists(st.integers(1, 10_000)), st.integers(0, 10_000), st.integers(1, 10_000))
def test_an_answer_under_way_always_has_a_token_to_come_and_none_beyond_its_bound(past, produced, more):
    lengths = AnswerLengths()
    for tokens in past:
        lengths.ended(tokens)
    assert 1 <= lengths.expect(produced, produced + more) <= more
