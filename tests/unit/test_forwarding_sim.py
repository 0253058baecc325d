"""The simulation of forwarding: nobody's prompt is lost, whatever the router, and a node's log gives its costs."""

import json
from dataclasses import astuple

import pytest

from benchmarks.forwarding.play import Failure, Run
from benchmarks.forwarding.routers import ROUTERS
from benchmarks.forwarding.step_costs import StepCosts, fit_steps
from benchmarks.forwarding.workloads import BURST_EVERY_S, BURST_S, in_bursts, make_zipf

SPEEDS = (1.0, 1.0, 0.5)


def played(router, **options):
    return Run(ROUTERS[router], 2, 1.0, SPEEDS, seed=1, **options).play(make_zipf(60, 10.0, 1))


@pytest.mark.parametrize("router", ROUTERS)
def test_every_prompt_is_answered_once_although_a_node_dies(router):
    run = played(router, failures=[Failure(0, 2.0, 5.0)])
    assert len(run.first) == len(run.whole) == 60
    assert min(run.first) > 0


def test_the_same_seed_gives_the_same_figures():
    assert played("ours").first == played("ours").first


def test_bursts_are_the_same_prompts_in_the_same_minutes():
    calm = make_zipf(3000, 10.0, 1)
    bursts = in_bursts(calm)
    assert [each.chain for each in bursts] == [each.chain for each in calm]
    assert [each.at // BURST_EVERY_S for each in bursts] == [each.at // BURST_EVERY_S for each in calm]
    inside = sum(each.at % BURST_EVERY_S < BURST_S for each in bursts)
    assert inside == pytest.approx(1500, rel=0.1)


def write_log(path, costs, works):
    keys = ("answers", "prompt_tokens", "attended")
    lines = [dict(zip(keys, work, strict=True)) | {"seconds": costs.seconds(*work)} for work in works]
    path.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    return path


WORKS = [
    (1, 0, 300),
    (8, 0, 4000),
    (3, 0, 9000),
    (0, 512, 131000),
    (4, 128, 60000),
    (0, 64, 2000),
    (2, 16, 1500),
    (2, 512, 9e5),
]


def test_costs_are_found_in_a_log_of_steps(tmp_path):
    costs = StepCosts(step_s=0.03, answer_s=0.006, narrow_s=0.002, token_s=0.001, attended_s=4e-7)
    found = fit_steps(write_log(tmp_path / "steps", costs, WORKS))
    assert astuple(found) == pytest.approx(astuple(costs), rel=1e-3)


def test_a_cost_that_would_be_negative_is_none(tmp_path):
    costs = StepCosts(step_s=0.03, answer_s=-0.001, narrow_s=0.001, token_s=0.001, attended_s=0.0)
    assert fit_steps(write_log(tmp_path / "steps", costs, WORKS)).answer_s == 0.0


@pytest.mark.parametrize("text", ["", "no JSON", "{}", '{"answers": 1}', "[]"])
def test_what_is_no_log_is_refused(tmp_path, text):
    (tmp_path / "steps").write_text(text, "utf-8")
    with pytest.raises(ValueError, match="step"):
        fit_steps(tmp_path / "steps")
