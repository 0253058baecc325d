"""What a node logs of its steps is what a model of it can be fitted to."""

import json

import pytest

from benchmarks.forwarding.step_costs import fit_steps
from node.engine import step_log
from node.engine.step_log import StepLog
from node.engine.step_time import StepWork

STEP_S, ANSWER_S, TOKEN_S, ATTENDED_S = 0.004, 0.0005, 0.0002, 1e-7


def seconds_of(work):
    return STEP_S + ANSWER_S * work.decodes + TOKEN_S * work.prefill_tokens + ATTENDED_S * work.attended


def works():
    return [
        StepWork(answers, tokens, 100.0 * answers + 50.0 * tokens + number * 37 % 1000)
        for number, (answers, tokens) in enumerate((a, t) for a in range(5) for t in (0, 1, 16, 200, 512))
    ]


def test_costs_are_found_again_in_the_log_of_a_node(tmp_path):
    log = StepLog(tmp_path / "steps.jsonl")
    for work in works():
        log.measured(work, seconds_of(work))
    assert json.loads((tmp_path / "steps.jsonl").read_text().splitlines()[0]) == {
        "answers": 0,
        "prompt_tokens": 0,
        "attended": 0.0,
        "seconds": STEP_S,
    }
    found = fit_steps(tmp_path / "steps.jsonl")
    assert found.token_s == pytest.approx(TOKEN_S, rel=0.05)


def test_a_log_ends_at_its_bound_and_a_later_run_goes_on_from_there(tmp_path, monkeypatch):
    monkeypatch.setattr(step_log, "MOST_BYTES", 300)
    path = tmp_path / "steps.jsonl"
    for _ in range(3):
        log = StepLog(path)
        for work in works():
            log.measured(work, 0.01)
    assert 300 <= path.stat().st_size < 400


def test_a_log_that_can_not_be_written_costs_nothing(tmp_path):
    StepLog(tmp_path / "missing" / "steps.jsonl").measured(works()[0], 0.01)
