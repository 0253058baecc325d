"""The audit: honest arithmetic passes, each way of cheating fails by the test that is meant for it."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.receipts import fingerprint, honest_replay, make_receipt
from verify.audit import ALPHA, FIXED_TABLE, audit, log10_e
from verify.verdict import Finding

BARS = FIXED_TABLE["torch-fp32", "torch-fp32"]


def test_an_honest_answer_is_accepted_with_figures():
    receipt = make_receipt(64)
    verdict = audit(receipt, honest_replay(receipt))
    assert verdict.accepted
    assert verdict.reasons == verdict.notes == ()
    assert verdict.figures.tokens == 64
    assert (verdict.figures.exceedances, verdict.figures.fingerprint_distance) == (0, 0.0)


def test_margins_within_epsilon_do_not_count():
    receipt = make_receipt(64)
    verdict = audit(receipt, honest_replay(receipt, margins=(BARS.epsilon,) * 64))
    assert verdict.accepted
    assert verdict.figures.exceedances == 0


def test_one_stray_token_in_many_is_forgiven():
    receipt = make_receipt(64)
    verdict = audit(receipt, honest_replay(receipt, margins=(*[0.0] * 40, 1.0, *[0.0] * 23)))
    assert verdict.accepted
    assert verdict.figures.exceedances == 1


@pytest.mark.parametrize("wrong", [1.0, math.inf, math.nan])
def test_tokens_of_another_seed_or_temperature_are_rejected(wrong):
    receipt = make_receipt(16)
    verdict = audit(receipt, honest_replay(receipt, margins=(0.0, wrong) * 8))
    assert verdict.findings == {Finding.MARGINS}
    assert verdict.figures.exceedances == 8
    assert verdict.figures.log10_e > 4


def test_cheating_that_stops_does_not_wash_out():
    cheated, honest = [True] * 4, [False] * 3000
    assert log10_e([*cheated, *honest], BARS.q0) == log10_e(cheated, BARS.q0)


def test_another_models_hidden_states_are_rejected():
    receipt = make_receipt(16)
    forged = tuple(fingerprint(position, shift=9) for position in range(16))
    verdict = audit(receipt, honest_replay(receipt, fingerprints=forged))
    assert verdict.findings == {Finding.FINGERPRINTS}


def test_other_log_probabilities_are_rejected():
    receipt = make_receipt(16)
    verdict = audit(
        receipt, honest_replay(receipt, logprobs=tuple(value - 0.05 for value in receipt.logprobs))
    )
    assert verdict.findings == {Finding.LOGPROBS}
    assert verdict.figures.logprob_gap == pytest.approx(0.05, abs=0.01)


def test_rounding_a_log_probability_is_no_gap():
    receipt = make_receipt(16)
    unrounded = tuple(-0.1 - 0.37 * position for position in range(16))
    assert audit(receipt, honest_replay(receipt, logprobs=unrounded)).figures.logprob_gap == 0.0


def test_all_reasons_are_given_at_once():
    receipt = make_receipt(16)
    replay = honest_replay(
        receipt,
        margins=(3.0,) * 16,
        logprobs=(-9.0,) * 16,
        fingerprints=tuple(fingerprint(position, shift=20) for position in range(16)),
    )
    verdict = audit(receipt, replay)
    assert verdict.findings == {Finding.MARGINS, Finding.FINGERPRINTS, Finding.LOGPROBS}
    assert all(str(reason).startswith(reason.finding) for reason in verdict.reasons)


def test_unknown_arithmetic_is_not_accepted():
    receipt = make_receipt(4, numerics_class="abacus")
    verdict = audit(receipt, honest_replay(receipt))
    assert verdict.findings == {Finding.NUMERICS}
    assert verdict.figures is None


def test_guessed_bars_are_marked():
    receipt = make_receipt(4, numerics_class="torch-bf16")
    verdict = audit(receipt, honest_replay(receipt))
    assert verdict.accepted
    assert "not calibrated" in verdict.notes[0]
    assert not FIXED_TABLE["torch-bf16", "torch-fp32"].calibrated


def test_no_tokens_prove_nothing_either_way():
    receipt = make_receipt(0)
    verdict = audit(receipt, honest_replay(receipt))
    assert verdict.accepted
    assert verdict.figures.tokens == 0


def test_a_replay_of_other_tokens_is_a_mistake_of_ours():
    receipt = make_receipt(4)
    with pytest.raises(ValueError, match="4 tokens"):
        audit(receipt, replace(honest_replay(receipt), margins=()))


@given(st.lists(st.booleans(), max_size=200))
def test_evidence_never_shrinks_as_tokens_come_in(exceeds):
    values = [log10_e(exceeds[:end], 0.002) for end in range(0, len(exceeds) + 1, 10)]
    assert values == sorted(values)


def test_e_process_is_the_product_that_it_is_said_to_be():
    q0, up, down = 0.01, 3, 5
    direct = sum((q1 / q0) ** up * ((1 - q1) / (1 - q0)) ** 0 for q1 in (0.02, 0.05, 0.2, 0.6)) / 4
    assert 10 ** log10_e([True] * up + [False] * down, q0) == pytest.approx(direct)


def test_honest_nodes_are_rejected_no_more_often_than_promised():
    """Ville's bound at a looser alpha, where 20,000 answers show it: exceedances at q0, looked at after each token."""
    generator = np.random.default_rng(3)
    q0, alpha, runs = 0.05, 0.02, 20_000
    exceeds = generator.random((runs, 128)) < q0
    ups = np.log(np.array((0.02, 0.05, 0.2, 0.6)) / q0)
    downs = np.log((1 - np.array((0.02, 0.05, 0.2, 0.6))) / (1 - q0))
    logs = np.cumsum(np.where(exceeds[:, :, None], ups, downs), axis=1)
    greatest = np.exp(logs).mean(axis=2).max(axis=1)
    assert (greatest >= 1 / alpha).mean() <= alpha
    one = [bool(value) for value in exceeds[0]]
    assert log10_e(one, q0) == pytest.approx(max(0.0, math.log10(greatest[0])))


def test_a_wrong_seed_is_seen_within_a_few_tokens():
    generator = np.random.default_rng(5)
    caught = [log10_e(generator.random(16) < 0.5, BARS.q0) >= -math.log10(ALPHA) for _ in range(500)]
    assert sum(caught) > 490
