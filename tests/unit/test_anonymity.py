"""The anonymity formulas agree with the table of the threat model and with simulated adversaries."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from overlay.routing.anonymity import (
    anonymity_left,
    cloves_read,
    cloves_read_unlayered,
    delivered,
    entropy_hidden,
    entropy_known,
    timing_link,
    timing_link_with_model,
)
from overlay.routing.directory import Directory
from overlay.routing.diversity import Diversity
from tests.support.descriptors import network, relay

SHARES = (0.01, 0.05, 0.1, 0.2, 0.33)
ENTROPY_SHARES = (0.01, 0.05, 0.1, 0.2, 0.3)
NODES = 10_000
RUNS = 200_000
N, K, HOPS = 4, 2, 3

TABLE = [
    (lambda f: cloves_read(f, k=3), SHARES, (4e-6, 0.0005, 0.0037, 0.027, 0.108)),
    (lambda f: cloves_read_unlayered(f, k=3), SHARES, (1e-4, 0.0104, 0.063, 0.295, 0.650)),
    (timing_link, SHARES, (0.0004, 0.010, 0.039, 0.151, 0.370)),
    (timing_link_with_model, SHARES, (0.039, 0.186, 0.344, 0.590, 0.799)),
    (lambda f: delivered(f, k=3), SHARES, (0.995, 0.900, 0.702, 0.331, 0.084)),
    (lambda f: entropy_hidden(f, NODES), ENTROPY_SHARES, (0.968, 0.845, 0.708, 0.483, 0.313)),
    (lambda f: entropy_known(f, NODES), ENTROPY_SHARES, (0.960, 0.810, 0.649, 0.400, 0.231)),
    (cloves_read, SHARES, (0.0006, 0.014, 0.052, 0.181, 0.401)),
    (delivered, SHARES, (0.9999, 0.990, 0.937, 0.705, 0.350)),
]


@pytest.mark.parametrize(("formula", "shares", "row"), TABLE)
def test_formulas_give_the_table(formula, shares, row):
    for share, stated in zip(shares, row, strict=True):
        digits = 6 if stated < 5e-5 else 4 if stated < 0.0009 or stated > 0.999 else 3
        assert formula(share) == pytest.approx(stated, abs=0.55 * 10**-digits)


def draw_bad(f, seed=7):
    """Which relays are bad: runs x paths x hops."""
    return np.random.default_rng(seed).random((RUNS, N, HOPS)) < f


def assert_frequency(happened, expected):
    """The share of runs is the expected chance, within five standard deviations."""
    deviation = math.sqrt(expected * (1 - expected) / len(happened)) + 1e-9
    assert abs(happened.mean() - expected) < 5 * deviation


@pytest.mark.parametrize("f", SHARES)
def test_simulated_adversaries_agree_with_the_formulas(f):
    bad = draw_bad(f)
    guard, proxy = bad[:, :, 0], bad[:, :, -1]
    assert_frequency(proxy.sum(axis=1) >= K, cloves_read(f))
    assert_frequency(proxy.sum(axis=1) >= 3, cloves_read(f, k=3))
    assert_frequency(bad.any(axis=2).sum(axis=1) >= K, cloves_read_unlayered(f))
    assert_frequency((guard & proxy).any(axis=1), timing_link(f))
    assert_frequency(guard.any(axis=1), timing_link_with_model(f))
    assert_frequency((~bad.any(axis=2)).sum(axis=1) >= K, delivered(f))
    assert_frequency((~bad.any(axis=2)).sum(axis=1) >= 3, delivered(f, k=3))


@pytest.mark.parametrize("f", ENTROPY_SHARES)
def test_entropy_where_position_is_known_agrees_with_simulation(f):
    bits = np.where(draw_bad(f)[:, :, 0].any(axis=1), 0.0, math.log2((1 - f) * NODES))
    assert bits.mean() / math.log2(NODES) == pytest.approx(entropy_known(f, NODES), abs=0.005)


def observe(f, nodes, runs, seed=11):
    """Simulates what colluding relays see: the predecessor of the first bad relay of each touched path.

    The client is node 0 of the honest ones. Returns, per run, how many paths were touched and which
    predecessors were seen.
    """
    generator = np.random.default_rng(seed)
    honest = round((1 - f) * nodes)
    bad = generator.random((runs, N, HOPS)) < f
    relays = generator.integers(1, honest, (runs, N, HOPS))
    before = np.concatenate([np.zeros((runs, N, 1), dtype=int), relays[:, :, :-1]], axis=2)
    seen = np.take_along_axis(before, bad.argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
    return bad.any(axis=2), np.where(bad.any(axis=2), seen, -1), honest


@pytest.mark.parametrize("f", ENTROPY_SHARES)
def test_entropy_where_position_is_hidden_agrees_with_simulation(f):
    """The posterior is taken from the simulation itself, by counting, and not from the formula."""
    touched, seen, honest = observe(f, NODES, RUNS)
    counts = touched.sum(axis=1)
    shown = (touched & (seen == 0)).sum(axis=1)
    bits = 0.0
    for c in range(N + 1):
        runs = counts == c
        if not runs.any():
            continue
        hidden = runs & (shown < 2)  # twice the same predecessor: that is the client
        suspects = shown[hidden].mean() / c if c else 0.0
        others = 1 - c * suspects
        spread = [suspects] * c
        entropy = -sum(p * math.log2(p) for p in spread if p > 0)
        entropy -= others * math.log2(others / (honest - c)) if others > 0 else 0.0
        bits += hidden.sum() / RUNS * entropy
    assert bits / math.log2(NODES) == pytest.approx(entropy_hidden(f, NODES), abs=0.006)


def test_no_adversary_leaves_everything_and_a_total_one_nothing():
    assert entropy_hidden(0.0, NODES) == 1.0
    assert entropy_hidden(0.999999, 2) == entropy_known(0.9999999, 2) == 0.0
    assert timing_link(1.0) == timing_link_with_model(1.0) == 1.0


def test_a_network_on_one_machine_hides_nothing_and_says_so():
    local = Directory(
        relay(number, address=f"/ip4/127.0.0.1/tcp/{4000 + number}", operator="") for number in range(20)
    )
    left = anonymity_left(local, diversity=Diversity.LOCAL, is_relay=False)
    assert left.is_enough
    assert (left.relays, left.networks) == (20, 1)
    worst = max(left.exposures, key=lambda exposure: exposure.share)
    assert (worst.linked, worst.entropy) == (1.0, 0.0)
    assert any("one network" in warning for warning in left.warnings)
    assert any("guards know it" in warning for warning in left.warnings)
    assert not anonymity_left(local, diversity=Diversity.STRICT, is_relay=False).is_enough


def test_a_wide_directory_leaves_what_is_claimed():
    left = anonymity_left(network(300), diversity=Diversity.STRICT, is_relay=True)
    assert left.is_enough
    assert left.warnings == ()
    tenth = next(exposure for exposure in left.exposures if exposure.share == 0.1)
    assert tenth.linked == pytest.approx(0.039, abs=0.001)
    assert tenth.entropy == pytest.approx(entropy_hidden(0.1, 301))


def test_too_few_relays_come_first_among_the_warnings():
    left = anonymity_left(network(7), diversity=Diversity.STRICT, is_relay=True)
    assert not left.is_enough
    assert left.warnings[0] == "paths need 12 relays that may be used together, there are 7 at most"


def test_largest_operator_counts_where_diversity_is_relaxed():
    relays = [
        replace(found, operator="acme") if number < 10 else found
        for number, found in enumerate(network(40).relays())
    ]
    left = anonymity_left(Directory(relays), diversity=Diversity.LOCAL, is_relay=True)
    acme = next(exposure for exposure in left.exposures if "acme" in exposure.who)
    assert acme.share == 0.25
    assert Counter(warning.split()[0] for warning in left.warnings)["diversity"] == 1


def test_an_empty_directory_is_no_accident():
    left = anonymity_left(Directory(), diversity=Diversity.LOCAL, is_relay=False)
    assert not left.is_enough
