"""What a rate is at least, from so much good and so much bad evidence: the 5 % quantile of a Beta distribution.

Every verifier must find the same integer, on whatever machine, so no float takes part: libm's last bits differ between
platforms, and a bound that is one unit off splits a committee. Arithmetic is of integers and of `decimal`, whose every
operation, `ln` and `exp` included, is specified to the last digit (correctly rounded, half to even), in a context of
our own that the caller's can't change.

That settles agreement. Truth takes a bound on the error: the distribution is summed as a series of positive terms
whose ratios fall, until the rest is under 1e-20 of the sum; ln Gamma is Stirling's series from 32 on, whose error is
under the first term left out, 1e-31. The result is rounded down to 1e-6, and two neighbours on that grid differ by far
more than all this in probability.
"""

from decimal import (
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
    localcontext,
)
from functools import lru_cache

UNIT = 1_000_000
"""Fixed point: 1e-6. Weights, scores and rates are integers in it."""
TAIL = Decimal("0.05")
HIGHEST = 1_000_000 * UNIT
"""Parameters above are refused: the series would be long, and no evidence amounts to so much."""
_CONTEXT = Context(
    prec=40,
    rounding=ROUND_HALF_EVEN,
    Emin=-999_999,
    Emax=999_999,
    capitals=1,
    clamp=0,
    flags=[],
    traps=[InvalidOperation, DivisionByZero, Overflow],
)
_PLACES = 128
_NEGLIGIBLE = 70
"""The rest of a series is left out when it is under 2**-70 of its sum."""
_HALF_LN_TWO_PI = Decimal("0.9189385332046727417803297364056176398613974736377834")
_STIRLING_FROM = 32
_STIRLING = (
    (1, 12),
    (-1, 360),
    (1, 1260),
    (-1, 1680),
    (1, 1188),
    (-691, 360_360),
    (1, 156),
    (-3617, 122_400),
    (43_867, 244_188),
    (-174_611, 125_400),
    (77_683, 5796),
    (-236_364_091, 1_506_960),
)
"""B_2k / (2k (2k - 1)), for k = 1 to 12."""


@lru_cache(maxsize=1 << 16)
def lower_bound(alpha: int, beta: int) -> int:
    """The 5 % quantile of Beta(alpha, beta), rounded down; parameters and result in units of 1e-6.

    Raises ValueError for parameters under 1, where the density has no single peak, or absurdly large ones.
    """
    if not (UNIT <= alpha <= HIGHEST and UNIT <= beta <= HIGHEST):
        raise ValueError("a Beta distribution's parameters must be from 1 to a million")
    with localcontext(_CONTEXT):
        return _Distribution(alpha, beta).quantile()


class _Distribution:
    """Beta(alpha, beta), parameters in units of 1e-6; to be used within the module's context."""

    def __init__(self, alpha: int, beta: int) -> None:
        self.alpha, self.beta = alpha, beta
        a, b = self.a, self.b = Decimal(alpha) / UNIT, Decimal(beta) / UNIT
        self.log_beta = _ln_gamma(a) + _ln_gamma(b) - _ln_gamma(a + b)

    def quantile(self) -> int:
        """The greatest x in units below which at most 5 % lie.

        Newton's method for ln F over ln x, from the mean. That function is concave, so steps from above land below the
        root, and those from below don't pass it. How it gets there doesn't matter: it ends between two units, one on
        either side of the root.
        """
        low, high = 0, UNIT
        x = max(1, self.alpha * UNIT // (self.alpha + self.beta))
        while high - low > 1:
            probability, slope = self._below(x)
            if probability > TAIL:
                high = x
            else:
                low = x
            newton = int(x * (-(probability / TAIL).ln() * probability / slope).exp())
            x = min(max(newton, low + 1), high - 1)
        return low

    def _below(self, x_units: int) -> tuple[Decimal, Decimal]:
        """F(x) and x F'(x), from the tail whose series is shorter."""
        x, rest_units = Decimal(x_units) / UNIT, UNIT - x_units
        rest = 1 - x
        power = (self.a * x.ln() + self.b * rest.ln() - self.log_beta).exp()
        if x_units <= UNIT // 2:
            below = power * _series(x_units, self.alpha, self.beta) / self.a
        else:
            below = 1 - power * _series(rest_units, self.beta, self.alpha) / self.b
        return below, power / rest


def _series(x: int, a: int, b: int) -> Decimal:
    """The sum over n of x^n (a + b)_n / (a + 1)_n, for x up to 1/2: I_x(a, b) a B(a, b) / (x^a (1 - x)^b).

    The ratio of a term to the one before, x (a + b + n) / (a + 1 + n), falls with n, since b is at least 1. So what is
    left out after a term is less than that term times r / (1 - r). Integers with 128 binary places: a term loses less
    than one of the last place to each rounding.
    """
    term = total = 1 << _PLACES
    above, below = x * (a + b), UNIT * (a + UNIT)
    above_step, below_step = x * UNIT, UNIT * UNIT
    while above >= below or term * above > (total >> _NEGLIGIBLE) * (below - above):
        term = term * above // below
        total += term
        above += above_step
        below += below_step
    return Decimal(total) / (1 << _PLACES)


def _ln_gamma(z: Decimal) -> Decimal:
    """The logarithm of Gamma(z), for z of at least 1."""
    shift = Decimal(1)
    while z < _STIRLING_FROM:
        shift *= z
        z += 1
    square, power = z * z, z
    series = Decimal(0)
    for numerator, denominator in _STIRLING:
        series += numerator / (denominator * power)
        power *= square
    return (z - Decimal("0.5")) * z.ln() - z + _HALF_LN_TWO_PI + series - shift.ln()
