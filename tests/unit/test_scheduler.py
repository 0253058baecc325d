"""Which tokens a step computes: everybody gets on, nobody gets more than there is."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.engine.scheduler import BatchLimits, Scheduler
from node.engine.sequence import Sequence
from node.engine.text import AnswerText
from overlay.wire.prompt import SamplerSpec

LIMITS = BatchLimits(sequences=3, cache_tokens=100, prefill_tokens=16, mixed_prefill_tokens=4)


def make_sequence(request, prompt=5, output=3, forced=None):
    return Sequence(
        request=request,
        prompt_ids=tuple(range(prompt)),
        prompt_hash=bytes(32),
        sampler=SamplerSpec(),
        nonce=bytes(32),
        max_output=output,
        text=AnswerText(lambda _: ""),
        forced_ids=forced,
    )


def perform(scheduler, chunks):
    """What the runner and the sampler do to sequences in a step."""
    done = []
    for chunk in chunks:
        sequence = chunk.sequence
        assert chunk.start == sequence.computed
        assert 0 < chunk.count <= sequence.length - sequence.computed
        sequence.computed += chunk.count
        if sequence.forced_ids is None and chunk.wanted:
            sequence.output_ids.append(900 + len(sequence.output_ids))
            finished = len(sequence.output_ids) == sequence.max_output
        else:
            finished = sequence.forced_ids is not None and sequence.computed == sequence.length
        if finished:
            scheduler.remove(sequence.request)
            done.append(sequence.request)
    return done


def run_all(scheduler):
    finished = []
    while not scheduler.is_idle:
        finished += perform(scheduler, scheduler.plan())
    return finished


def test_an_answer_takes_one_prefill_and_one_decode_less_than_it_has_tokens():
    scheduler = Scheduler(LIMITS)
    scheduler.add(make_sequence(1, prompt=5, output=3))
    kinds = []
    while not scheduler.is_idle:
        chunks = scheduler.plan()
        kinds.append([(chunk.start, chunk.count, chunk.wanted, chunk.is_decode) for chunk in chunks])
        perform(scheduler, chunks)
    assert kinds == [[(0, 5, 1, False)], [(5, 1, 1, True)], [(6, 1, 1, True)]]


def test_a_long_prompt_is_read_in_chunks_and_only_the_last_row_is_wanted():
    scheduler = Scheduler(LIMITS)
    scheduler.add(make_sequence(1, prompt=40, output=1))
    wanted = []
    while not scheduler.is_idle:
        chunks = scheduler.plan()
        wanted += [(chunk.count, chunk.wanted) for chunk in chunks]
        perform(scheduler, chunks)
    assert wanted == [(16, 0), (16, 0), (8, 1)]


def test_answers_go_on_beside_a_long_prompt_that_joins():
    scheduler = Scheduler(LIMITS)
    scheduler.add(make_sequence(1, prompt=2, output=5))
    perform(scheduler, scheduler.plan())
    scheduler.add(make_sequence(2, prompt=40, output=1))
    chunks = scheduler.plan()
    assert [(chunk.sequence.request, chunk.count) for chunk in chunks] == [(1, 1), (2, 4)]


def test_a_replay_wants_the_rows_that_predict_its_answer():
    scheduler = Scheduler(LIMITS)
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
    scheduler = Scheduler(LIMITS)
    scheduler.add(make_sequence(1, prompt=60, output=1))
    scheduler.add(make_sequence(2, prompt=60, output=1))
    scheduler.add(make_sequence(3, prompt=1, output=1))
    assert {chunk.sequence.request for chunk in scheduler.plan()} == {1}
    assert run_all(scheduler) == [1, 2, 3]


def test_a_sequence_that_can_never_fit_is_refused():
    with pytest.raises(ValueError, match="exceeds"):
        Scheduler(LIMITS).add(make_sequence(1, prompt=100, output=2))


def test_a_removed_request_leaves_its_room_at_once():
    scheduler = Scheduler(LIMITS)
    scheduler.add(make_sequence(1, prompt=90, output=9))
    scheduler.plan()
    scheduler.add(make_sequence(2, prompt=50))
    assert [chunk.sequence.request for chunk in scheduler.plan()] == [1]
    assert scheduler.remove(1) is not None
    assert scheduler.remove(1) is None
    assert [chunk.sequence.request for chunk in scheduler.plan()] == [2]


class SchedulerMachine(RuleBasedStateMachine):
    """Requests come, go and finish in any order; bounds hold, everyone ends once, and in the end nothing is left."""

    def __init__(self):
        super().__init__()
        self.scheduler = Scheduler(LIMITS)
        self.alive = set()
        self.number = 0

    @rule(prompt=st.integers(1, 60), output=st.integers(1, 20), forced=st.booleans())
    def submit(self, prompt, output, forced):
        self.number += 1
        answer = tuple(range(output)) if forced else None
        self.scheduler.add(make_sequence(self.number, prompt, output, answer))
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
        decodes = [chunk for chunk in chunks if chunk.is_decode]
        prefill_tokens = sum(chunk.count for chunk in chunks if not chunk.is_decode)
        assert prefill_tokens <= (LIMITS.mixed_prefill_tokens if decodes else LIMITS.prefill_tokens)
        requests = [chunk.sequence.request for chunk in chunks]
        assert len(requests) == len(set(requests)) <= LIMITS.sequences
        for request in perform(self.scheduler, chunks):
            self.alive.remove(request)

    @invariant()
    def reservations_fit(self):
        assert self.scheduler.reserved_tokens <= LIMITS.cache_tokens

    def teardown(self):
        assert sorted(run_all(self.scheduler)) == sorted(self.alive)
        assert self.scheduler.reserved_tokens == 0


SchedulerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestScheduler = SchedulerMachine.TestCase
