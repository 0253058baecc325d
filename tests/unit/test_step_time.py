"""Predicted step times: sensible before anything is known, right soon after, and not led astray."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.engine.step_time import NARROW, PRIOR, StepTime, StepWork

TRUE = (0.01, 0.004, 0.001, 0.0005, 3e-7)
"""A machine whose costs are not in the prior's proportions."""

works = st.builds(
    StepWork,
    decodes=st.integers(0, 256),
    prefill_tokens=st.integers(0, 4096),
    attended=st.floats(0, 1e8),
)
measurements = st.tuples(works, st.floats(allow_nan=True, allow_infinity=True))


def seconds(work, costs=TRUE):
    narrow = min(work.prefill_tokens, NARROW)
    units = (1, work.decodes, narrow, work.prefill_tokens - narrow, work.attended)
    return sum(a * b for a, b in zip(units, costs, strict=True))


def typical(draw):
    """A step as a scheduler plans it: answers alone, a prompt alone, or both."""
    decodes, context = int(draw.integers(9)), int(draw.integers(50, 1500))
    tokens = int(draw.choice([0, 64, 64])) if decodes else 512
    return StepWork(decodes, tokens, decodes * context + tokens * (context + tokens / 2))


def trained(steps=400, noise=0.05, costs=TRUE, seed=1):
    draw, model = np.random.default_rng(seed), StepTime()
    for _ in range(steps):
        work = typical(draw)
        model.measured(work, seconds(work, costs) * draw.normal(1, noise))
    return model


def error(model, costs=TRUE, seed=2):
    """The median relative error over typical steps."""
    draw = np.random.default_rng(seed)
    each = [typical(draw) for _ in range(101)]
    return sorted(abs(model.predict(work) / seconds(work, costs) - 1) for work in each)[50]


def test_before_any_measurement_the_prior_holds():
    work = StepWork(8, 64, 12000)
    assert StepTime().predict(work) == pytest.approx(seconds(work, PRIOR))


def test_it_learns_a_machine_of_other_proportions_from_noisy_steps():
    assert error(trained()) < 0.05


@pytest.mark.parametrize("factor", [0.001, 30.0])
def test_one_measurement_is_enough_to_know_the_order_of_magnitude(factor):
    model = StepTime()
    work = StepWork(1, 0, 100)
    model.measured(work, factor * seconds(work, PRIOR))
    unseen = StepWork(0, 512, 512 * 256)
    assert 0.3 < model.predict(unseen) / (factor * seconds(unseen, PRIOR)) < 3


def test_short_prompts_do_not_make_long_ones_seem_slow():
    """Measured on one thread: 33 prompt tokens take 5.3 ms each, 400 take 3.0."""
    draw, model = np.random.default_rng(5), StepTime()
    for step in range(300):
        tokens = 400 if step % 40 == 0 else int(draw.integers(17, 50))
        work = StepWork(0, tokens, tokens * 300)
        model.measured(work, 0.01 + 0.005 * min(tokens, 32) + 0.0028 * max(0, tokens - 32))
    assert model.predict(StepWork(0, 400, 400 * 300)) == pytest.approx(1.2, rel=0.1)
    assert model.predict(StepWork(0, 20, 20 * 300)) == pytest.approx(0.11, rel=0.15)


def test_steps_that_were_held_up_leave_next_to_no_trace():
    model = trained()
    before = error(model)
    draw = np.random.default_rng(3)
    for step in range(60):
        work = typical(draw)
        model.measured(work, seconds(work) * (50 if step % 20 == 0 else 1))
    assert error(model) < before + 0.05


def test_a_machine_that_slows_down_for_good_is_followed_within_a_minute_of_steps():
    model = trained()
    slower = tuple(4 * cost for cost in TRUE)
    draw = np.random.default_rng(4)
    for _ in range(300):
        work = typical(draw)
        model.measured(work, seconds(work, slower))
    assert error(model, slower) < 0.15


def test_an_hour_of_decoding_does_not_make_it_forget_what_prompts_cost():
    model = trained()
    prompt = StepWork(0, 512, 512 * 256)
    before = model.predict(prompt)
    for _ in range(20_000):
        work = StepWork(4, 0, 2000)
        model.measured(work, seconds(work))
    assert model.predict(prompt) == pytest.approx(before, rel=0.1)


def test_input_that_never_varies_is_predicted_and_does_not_run_away():
    model = StepTime()
    work = StepWork(4, 0, 2000)
    for _ in range(2000):
        model.measured(work, 0.25)
    assert model.predict(work) == pytest.approx(0.25, rel=0.02)
    assert model.predict(StepWork(8, 0, 4000)) < 1.0


@settings(deadline=None)
@given(st.lists(measurements, max_size=30), works)
def test_predictions_are_finite_and_not_negative_whatever_was_measured(past, work):
    model = StepTime()
    for done, took in past:
        model.measured(done, took)
    predicted = model.predict(work)
    assert math.isfinite(predicted)
    assert predicted >= 0


@settings(deadline=None)
@given(st.lists(measurements, max_size=30), works, works)
def test_more_work_never_takes_less_time(past, less, more):
    model = StepTime()
    for done, took in past:
        model.measured(done, took)
    both = StepWork(
        less.decodes + more.decodes, less.prefill_tokens + more.prefill_tokens, less.attended + more.attended
    )
    assert model.predict(both) >= model.predict(less)
