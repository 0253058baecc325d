"""Who is taken on: nobody who would wait too long, everybody where there is nothing to wait for."""

from dataclasses import fields, replace

import pytest

from node.engine.admission import Admission
from node.engine.block_manager import BLOCK_TOKENS, BlockManager
from node.engine.errors import EngineBusyError
from node.engine.events import EngineLoad, ModelCard, PromptPrefilled
from node.engine.gate import Gate
from node.engine.load_reporter import REPORT_EVERY_S, LoadReporter
from node.engine.protocol import Cancel, LoadReport, Submit
from node.engine.scheduler import BatchLimits, Scheduler
from node.engine.settings import EngineSettings
from node.engine.step_time import PRIOR, StepTime, StepWork
from overlay.routing.cost import Sent, predict_wait
from overlay.wire.group import Load, Speed
from overlay.wire.prompt import ModelId, Prompt, SamplerSpec
from tests.support.scheduling import make_sequence, perform

LIMITS = BatchLimits(sequences=2)
MODEL, OTHER = ModelId("m-one"), ModelId("m-two")
TOKEN_S = PRIOR[2]
"""What a prompt token costs before anything was measured, attention left out."""


class Model:
    """A scheduler with its admission, and no weights."""

    def __init__(self, max_wait_s, limits=LIMITS):
        blocks = BlockManager(4000, bytes(16))
        self.scheduler = Scheduler(limits, blocks)
        self.admission = Admission(self.scheduler, blocks, limits, max_wait_s)
        self.number = 0

    def submit(self, prompt, output=4, **terms):
        self.number += 1
        self.scheduler.add(make_sequence(self.number, prompt, output, **terms))
        self.admission.check()

    def step(self):
        perform(self.scheduler, self.scheduler.plan())

    @property
    def is_idle(self):
        return self.scheduler.is_idle

    @property
    def load(self):
        return self.admission.load(ModelCard(MODEL, "one", "torch-fp32", 8192))


def test_an_idle_model_takes_a_prompt_however_long():
    Model(max_wait_s=0.1).submit(20_000)


def test_a_prompt_that_would_wait_too_long_is_refused_until_the_backlog_has_shrunk():
    model = Model(max_wait_s=3.0)
    model.submit(2000)
    with pytest.raises(EngineBusyError) as refused:
        model.submit(2000)
    error = refused.value
    assert error.wait_s > 3.0
    assert error.retry_after_s == pytest.approx(max(1.0, error.wait_s - 3.0))
    assert "first token" in str(error)


def test_a_short_prompt_passes_where_a_long_one_is_refused():
    model = Model(max_wait_s=3.0)
    model.submit(2000)
    model.submit(20)


def test_a_prompt_whose_beginning_is_cached_passes_where_a_new_one_is_refused():
    model = Model(max_wait_s=3.0)
    model.submit(2000, output=1, scope=b"alice")
    while not model.scheduler.is_idle:
        model.step()
    model.submit(1000, scope=b"bob")
    with pytest.raises(EngineBusyError):
        model.submit(2000, scope=b"carol")
    model.scheduler.remove(model.number)
    model.submit(2000, scope=b"alice")


def test_a_beginning_that_is_being_computed_counts_as_cached():
    model = Model(max_wait_s=1e9)
    model.submit(1600, scope=b"alice")
    model.step()
    before = model.load.queued_tokens
    model.submit(1632, scope=b"alice")
    # The first one's last token is not in a block that can be shared.
    assert model.load.queued_tokens - before == 1632 - (1600 - BLOCK_TOKENS)


def test_an_idle_model_says_that_nobody_waits():
    load = Model(max_wait_s=1.0).load
    assert (load.waiting, load.reading, load.decoding, load.queued_tokens, load.wait_s) == (0, 0, 0, 0, 0.0)
    assert load.answer_s > 0
    assert load.prefill_token_s > TOKEN_S


def test_a_load_counts_who_waits_who_is_read_and_who_answers():
    model = Model(max_wait_s=1e9)
    model.submit(10, output=50)
    model.step()
    model.submit(1000)
    model.step()
    model.submit(500)
    load = model.load
    assert (load.waiting, load.reading, load.decoding) == (1, 1, 1)
    assert load.queued_tokens == 1000 - LIMITS.mixed_prefill_tokens + 500
    assert load.wait_s > 1000 * TOKEN_S


def told(known, kind):
    return {each.name: getattr(known, each.name) for each in fields(kind)}


def test_a_load_tells_how_long_the_present_answers_go_on_and_what_reading_beside_them_takes():
    model = Model(max_wait_s=1e9)
    assert model.load.decoding_s == 0.0
    model.submit(10, output=50)
    model.step()
    model.submit(10, output=20)
    model.step()
    load, mixed = model.load, LIMITS.mixed_prefill_tokens
    assert load.decoding == 2
    assert load.decoding_s == pytest.approx(48 * load.mixed_step_s)  # the longer one, which has two tokens
    assert load.mixed_step_s > load.decode_step_s + 0.9 * mixed * TOKEN_S
    assert load.mixed_tokens == mixed


@pytest.mark.parametrize("answer", [1, 4, 8, 12, 40])
@pytest.mark.parametrize("prompt", [40, 300])
def test_what_others_predict_of_a_load_is_what_the_scheduler_then_makes_of_it(answer, prompt):
    """A prompt is read 16 tokens at a time while an answer runs, and then the rest at once."""
    model = Model(max_wait_s=1e9, limits=replace(LIMITS, mixed_prefill_tokens=16))
    model.submit(10, output=answer + 1)
    model.step()
    known = model.load
    speed = Speed(**told(known, Speed))
    load = Load(**told(known, Load) | {"answer_s": 0.0})
    wait = predict_wait(speed, load, Sent(), tokens=prompt, cached=0)
    model.submit(prompt)
    sequence, waited_s = model.scheduler.waiting[-1], 0.0
    while not sequence.output_ids:
        chunks = model.scheduler.plan()
        waited_s += StepTime().predict(StepWork.of(chunks))
        perform(model.scheduler, chunks)
    assert wait.total_s == pytest.approx(waited_s, abs=2 * PRIOR[0])  # of two steps


def test_measured_steps_change_what_is_predicted():
    model = Model(max_wait_s=1e9)
    model.submit(1000)
    before = model.load
    for _ in range(20):
        model.admission.measured(StepWork(0, 512, 512 * 256), 10.0)
    assert model.load.wait_s > 10 * before.wait_s
    assert model.load.prefill_token_s == pytest.approx(10 / 512, rel=0.3)


# --- when it is said ----------------------------------------------------------------------------------


class Reports:
    """What a worker with one model says of its load, on a clock that stands still until it is moved."""

    def __init__(self, model):
        self.now = 100.0
        self.told = []
        self.reporter = LoadReporter({MODEL: model}, self.told.append, lambda: self.now)


def submitted(request, model_id=MODEL):
    return Submit(request, model_id, prompt(10))


def test_what_commands_changed_is_said_before_the_step_with_the_last_request_that_it_counts():
    model = Model(max_wait_s=1e9)
    reports = Reports(model)
    model.submit(1000)
    for command in (submitted(4), submitted(5), submitted(6, OTHER), Cancel(4)):
        reports.reporter.note(command)
    reports.reporter.commands_taken()
    (report,) = reports.told
    assert report.taken == 5
    assert report.load.queued_tokens == 1000


def test_a_model_at_work_is_reported_on_a_few_times_a_second_and_at_once_when_it_is_done():
    model = Model(max_wait_s=1e9)
    reports = Reports(model)
    model.submit(10, output=100)
    for _ in range(50):
        model.step()
        reports.now += 0.02
        reports.reporter.step_done(MODEL)
    assert len(reports.told) == 1.0 / REPORT_EVERY_S
    model.scheduler.remove(1)
    reports.reporter.step_done(MODEL)
    assert reports.told[-1].load.wait_s == 0.0
    assert len(reports.told) == 1.0 / REPORT_EVERY_S + 1


# --- the daemon's look ahead of it -------------------------------------------------------------------

LOAD = EngineLoad(
    model_id=MODEL,
    alias="one",
    waiting=0,
    reading=1,
    decoding=0,
    queued_tokens=5000,
    prefill_token_s=0.001,
    decode_step_s=0.03,
    attended_s=1e-8,
    mixed_tokens=16,
    mixed_step_s=0.1,
    decoding_s=3.0,
    free_slots=4,
    wait_s=5.0,
    answer_s=9.0,
)


def prompt(characters):
    return Prompt(model="one", text="x" * characters, sampler=SamplerSpec(), nonce=bytes(32))


def make_gate(**settings):
    return Gate(EngineSettings(**settings))


def test_a_gate_that_was_told_nothing_lets_pass():
    make_gate(max_wait_s=0.1).check_wait(MODEL, now=10.0)


def test_a_gate_refuses_by_what_was_said_last_less_the_time_since():
    gate = make_gate(max_wait_s=3.0)
    gate.take(LoadReport(LOAD, taken=1), now=10.0)
    with pytest.raises(EngineBusyError) as refused:
        gate.check_wait(MODEL, now=10.5)
    assert refused.value.retry_after_s == pytest.approx(1.5)
    gate.check_wait(MODEL, now=12.1)
    gate.check_wait(OTHER, now=10.5)
    assert gate.refusals == {"queue": 0, "wait": 1}


def test_a_gate_counts_what_was_sent_since_the_report_and_no_more_once_it_is_gone():
    gate = make_gate(max_wait_s=6.0)
    gate.take(LoadReport(LOAD, taken=1), now=0.0)
    gate.sent(1, MODEL, prompt(50_000))
    gate.check_wait(MODEL, now=0.0)
    gate.sent(2, MODEL, prompt(50_000))
    with pytest.raises(EngineBusyError):
        gate.check_wait(MODEL, now=0.0)
    gate.gone(2)
    gate.check_wait(MODEL, now=0.0)


def test_a_gate_learns_what_characters_come_to():
    gate = make_gate(max_wait_s=6.0)
    gate.take(LoadReport(replace(LOAD, wait_s=0.0), taken=0), now=0.0)
    for request in range(1, 60):
        gate.sent(request, MODEL, prompt(1000))
        gate.read(request, PromptPrefilled(500, 400, bytes(32), ()))
    gate.sent(99, MODEL, prompt(1000))
    assert gate.wait_s(MODEL, now=0.0) == pytest.approx(100 * LOAD.prefill_token_s, rel=0.1)


def test_a_gate_forgets_a_worker_that_is_gone():
    gate = make_gate(max_wait_s=1.0)
    gate.take(LoadReport(LOAD, taken=0), now=0.0)
    gate.forget()
    gate.check_wait(MODEL, now=0.0)
    assert gate.loads == ()


def test_a_full_house_is_refused_until_a_request_should_have_ended():
    gate = make_gate(max_batch=2, max_queue=1)
    gate.check_place(2, unsent=0)
    for took_s in [8.0] * 50:
        gate.answered(took_s)
    with pytest.raises(EngineBusyError, match="queue is full") as refused:
        gate.check_place(3, unsent=0)
    assert refused.value.retry_after_s == pytest.approx(4.0, rel=0.01)
    with pytest.raises(EngineBusyError):
        gate.check_place(0, unsent=7)
