"""The rules that the benchmark of reputation compares: PlanetServe's by hand, audits at the power that they claim."""

import random  # noqa: TID251 - the same draws in every run

import pytest

from benchmarks.reputation import play
from benchmarks.reputation_rules import (
    FAILS_FROM,
    FLIPS,
    INT8,
    TOKENS,
    Credit,
    Ours,
    PlanetServe,
    exceedance_rate,
)

SURE = Credit("no spread", 0.7, 0.2, 0.0)


def test_planetserve_moves_as_its_code_does():
    node = PlanetServe(SURE, random.Random(1))
    node.live([True])
    assert node.score == pytest.approx(0.4 * 0.5 + 6 / 12 * 0.2)  # one abnormal of one
    node.live([True])
    assert node.score == pytest.approx(0.4 * 0.3 + 6 / 17 * 0.2)
    assert node.excluded


def test_planetserve_lets_one_epoch_in_six_pass():
    node = PlanetServe(SURE, random.Random(1))
    for epoch in range(60):
        node.live([epoch % 6 == 5])
        assert not node.excluded


def test_audits_of_flips_fail_as_often_as_their_power_says():
    draw = random.Random(1)
    rate = exceedance_rate(FLIPS.power)
    failed = sum(sum(draw.random() < rate for _ in range(TOKENS)) >= FAILS_FROM for _ in range(4000))
    assert failed / 4000 == pytest.approx(FLIPS.power, abs=0.03)


def test_a_newcomer_gets_no_more_than_its_cap_and_a_proof_excludes_it():
    node = Ours(INT8, random.Random(1))
    assert node.live([True] * 60) == 20
    assert node.excluded


def test_the_same_seed_gives_the_same_run():
    assert play("slow decline", FLIPS.name, 3) == play("slow decline", FLIPS.name, 3)
    assert play("slow decline", FLIPS.name, 3) != play("slow decline", FLIPS.name, 4)
