"""How long a step takes: this node's own speed, fitted from the steps that it computes. Pure: no torch, no clock.

    seconds = fixed + answers + prompt tokens up to NARROW + prompt tokens beyond + positions attended to

each at a cost that is never negative. A step's first prompt tokens have a cost of their own: products of a few rows are
computed otherwise than those of many, and a token of a few costs a CPU twice what it does in a long chunk.
Before anything was measured the costs are those of PRIOR. From then on each is the prior's times a factor, found by
least squares with forgetting. What makes it hold on a machine that others use, too:

- Rows are divided by what the prior gives for them, so that they count by relative error: else a long prompt's step
  would outweigh a hundred decodes. A row then says what shares of its time the costs have, which sum to 1.
- Steps with prompt tokens and steps without are forgotten by turns of their own kind, so that an hour of decoding does
  not make a node forget what prompts cost it (the wind-up of recursive least squares).
- A ridge pulls every factor toward the one factor that fits all rows. Where input is collinear, or a kind of step has
  never been seen, a machine that is ten times faster than the prior is taken to be that in all respects.
- The moments are solved by sweeps of coordinate descent, each factor held at zero or above, so a prediction never
  falls when work is added. The covariance form of recursive least squares can't hold a bound, and loses symmetry.
- A row's weight falls with its error beyond twice the usual one (Huber), whose running mean grows within some steps
  where a machine has really changed. One step that was held up leaves next to no trace.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from node.engine.sequence import Chunk

NARROW = 32
"""Prompt tokens. A CPU's int8 products change their way there, fp32 ones a little sooner."""
PRIOR = (0.03, 0.006, 0.001, 0.001, 4e-7)
"""Seconds of a step, of each answer in it, of one of its first prompt tokens, of one beyond, of a position attended to:
135M in fp32 on two cores.
"""

_COSTS = len(PRIOR)
_KEPT = 0.99
_RIDGE = 0.5
_SWEEPS = 8
_TOLERANCE = 2.0
_ERROR_GAIN = 0.1
_ERROR_STEP = 10.0
_SMALLEST_ERROR = 0.01
_LONGEST_STEP_S = 3600.0


@dataclass(frozen=True, slots=True)
class StepWork:
    """What a step computes: answers that get a token, prompt tokens read, and positions that all of them look at."""

    decodes: int
    prefill_tokens: int
    attended: float

    @classmethod
    def of(cls, chunks: Iterable[Chunk]) -> "StepWork":
        """The work of chunks that are not computed yet."""
        decodes, tokens, attended = 0, 0, 0.0
        for chunk in chunks:
            if chunk.sequence.is_decoding:
                decodes += 1
            else:
                tokens += chunk.count
            attended += chunk.count * (chunk.start + (chunk.count + 1) / 2)
        return cls(decodes, tokens, attended)

    @property
    def priors(self) -> tuple[float, ...]:
        """Seconds of each cost, by PRIOR."""
        narrow = min(self.prefill_tokens, NARROW)
        units = (1, self.decodes, narrow, self.prefill_tokens - narrow, self.attended)
        return tuple(unit * cost for unit, cost in zip(units, PRIOR, strict=True))


@dataclass(slots=True)
class _Moments:
    """Sums of x xT and of x y over the steps of one kind, older ones counting less."""

    xx: list[list[float]] = field(default_factory=lambda: [[0.0] * _COSTS for _ in range(_COSTS)])
    xy: list[float] = field(default_factory=lambda: [0.0] * _COSTS)

    def add(self, row: tuple[float, ...], value: float, weight: float) -> None:
        for i, left in enumerate(row):
            self.xy[i] = _KEPT * self.xy[i] + weight * left * value
            for j, right in enumerate(row):
                self.xx[i][j] = _KEPT * self.xx[i][j] + weight * left * right


class StepTime:
    """Predicts a step's seconds. Feed it each step that was measured."""

    def __init__(self) -> None:
        self._reading = _Moments()
        self._decoding = _Moments()
        self._factors = [1.0] * _COSTS
        self._usual_error: float | None = None

    def predict(self, work: StepWork) -> float:
        """Seconds; finite, not negative, and never less for more work."""
        return sum(factor * prior for factor, prior in zip(self._factors, work.priors, strict=True))

    def measured(self, work: StepWork, seconds: float) -> None:
        """A step took so long. What is no duration (negative, not finite) is passed over."""
        if not math.isfinite(seconds) or seconds < 0:
            return
        priors = work.priors
        total = sum(priors)
        row = tuple(prior / total for prior in priors)
        value = min(seconds, _LONGEST_STEP_S) / total
        moments = self._reading if work.prefill_tokens else self._decoding
        moments.add(row, value, self._weigh(row, value))
        self._solve()

    def _weigh(self, row: tuple[float, ...], value: float) -> float:
        expected = sum(factor * share for factor, share in zip(self._factors, row, strict=True))
        error = abs(value - expected)
        floor = _SMALLEST_ERROR * max(expected, _SMALLEST_ERROR)
        usual = self._usual_error
        if usual is None:  # the prior may be wrong by any factor
            self._usual_error = max(error, floor)
            return 1.0
        self._usual_error = max(usual + _ERROR_GAIN * (min(error, _ERROR_STEP * usual) - usual), floor)
        return min(1.0, _TOLERANCE * usual / error) if error else 1.0

    def _solve(self) -> None:
        both = (self._reading, self._decoding)
        xx = [[sum(each.xx[i][j] for each in both) for j in range(_COSTS)] for i in range(_COSTS)]
        xy = [sum(each.xy[i] for each in both) for i in range(_COSTS)]
        # A row's shares sum to 1, so these sums are those of all values and of all weights.
        common = sum(xy) / sum(map(sum, xx))
        factors = self._factors
        for _ in range(_SWEEPS):
            for i in range(_COSTS):
                others = sum(xx[i][j] * factors[j] for j in range(_COSTS) if j != i)
                factors[i] = max(0.0, (xy[i] - others + _RIDGE * common) / (xx[i][i] + _RIDGE))
