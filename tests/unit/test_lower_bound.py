"""What a rate is at least: the exact quantile, rounded down, whatever the machine's floats and the caller's context."""

from decimal import ROUND_UP, Context, localcontext
from fractions import Fraction
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verify.lower_bound import HIGHEST, UNIT, lower_bound

PARAMETERS = st.integers(UNIT, 2500 * UNIT)


def below(x, a, b):
    """That Beta(a, b) is at most x, exactly: for whole a and b, that of a + b - 1 draws at least a hit."""
    n = a + b - 1
    return sum(comb(n, i) * x**i * (1 - x) ** (n - i) for i in range(a, n + 1))


@given(st.integers(1, 40), st.integers(1, 40))
@settings(deadline=None)
def test_bound_is_the_quantile_rounded_down(a, b):
    found = lower_bound(a * UNIT, b * UNIT)
    assert below(Fraction(found, UNIT), a, b) <= Fraction(1, 20) < below(Fraction(found + 1, UNIT), a, b)


@pytest.mark.parametrize(
    ("alpha", "beta", "quantile"),
    [
        (1500000, 3250000, 49239),
        (2718281, 3141592, 158525),
        (47123456, 3000000, 877327),
        (120000001, 13999999, 849093),
        (200999999, 103000000, 615999),
        (201000000, 2003000000, 81328),
        (64000000, 64000000, 427549),
        (9999999, 20003000000, 271),
    ],
)
def test_bound_is_what_a_library_of_arbitrary_precision_gives(alpha, beta, quantile):
    assert lower_bound(alpha, beta) == quantile


@given(PARAMETERS, PARAMETERS, st.integers(0, 10 * UNIT))
@settings(deadline=None)
def test_good_never_lowers_and_bad_never_raises_it(alpha, beta, more):
    assert lower_bound(alpha + more, beta) >= lower_bound(alpha, beta) >= lower_bound(alpha, beta + more)


def test_callers_arithmetic_changes_nothing():
    with localcontext(Context(prec=3, rounding=ROUND_UP)):
        assert lower_bound.__wrapped__(47_123_456, 3_000_000) == lower_bound(47_123_456, 3_000_000)


@pytest.mark.parametrize(("alpha", "beta"), [(UNIT, HIGHEST), (HIGHEST, UNIT)])
def test_bound_ends_at_the_extremes(alpha, beta):
    assert 0 <= lower_bound(alpha, beta) < UNIT


@pytest.mark.parametrize("wrong", [UNIT - 1, 0, -UNIT, HIGHEST + 1])
def test_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="from 1 to a million"):
        lower_bound(wrong, UNIT)
    with pytest.raises(ValueError, match="from 1 to a million"):
        lower_bound(UNIT, wrong)
