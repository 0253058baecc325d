"""Seconds of a model node's step: assumed, or fitted to a log of a node's own steps."""

import json
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from node.engine.step_time import NARROW

SWEEPS = 10_000


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Seconds of a step, of each answer, of its first prompt tokens and those beyond, and of a position attended to.

    As the engine has them (`node.engine.step_time`).
    """

    step_s: float
    answer_s: float
    narrow_s: float
    token_s: float
    attended_s: float

    def seconds(self, answers: int, prompt_tokens: int, attended: float) -> float:
        """Of one step."""
        _, _, narrow, beyond, _ = units(answers, prompt_tokens, attended)
        tokens_s = self.narrow_s * narrow + self.token_s * beyond
        return self.step_s + self.answer_s * answers + tokens_s + self.attended_s * attended

    def times(self, factor: float) -> "StepCosts":
        """Of a node so many times slower."""
        return StepCosts(*(factor * cost for cost in astuple(self)))


def units(answers: float, prompt_tokens: float, attended: float) -> tuple[float, ...]:
    """How much of each cost a step has."""
    narrow = min(prompt_tokens, NARROW)
    return (1.0, answers, narrow, prompt_tokens - narrow, attended)


ASSUMED = StepCosts(step_s=0.008, answer_s=1e-4, narrow_s=6e-5, token_s=6e-5, attended_s=1e-9)
"""An 8B model on one GPU."""


def fit_steps(path: Path) -> StepCosts:
    """Fit the costs to a log of steps: lines of {"answers", "prompt_tokens", "attended", "seconds"}.

    Non-negative least squares over relative errors, so that long steps do not outweigh the many short ones, by
    coordinate descent. A cost that no step of the log shows comes out as 0.

    Raises:
        ValueError: a line is no such record, or there is none with a time above 0.
    """
    rows = [_read(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    rows = [row for row in rows if row[-1] > 0]
    if not rows:
        raise ValueError(f"{path} has no steps: expected lines like " + json.dumps(dict.fromkeys(KEYS, 1)))
    table = np.array(rows)
    shares = table[:, :-1] / table[:, -1:]
    scale = np.maximum(shares.max(axis=0), 1e-300)
    shares /= scale
    gram, target = shares.T @ shares, shares.sum(axis=0)
    found = np.zeros(len(scale))
    for _ in range(SWEEPS):
        before = found.copy()
        for i in range(len(found)):
            if gram[i, i]:
                found[i] = max(0.0, found[i] + (target[i] - gram[i] @ found) / gram[i, i])
        if np.abs(found - before).max() < 1e-12:
            break
    return StepCosts(*(float(each) for each in found / scale))


KEYS = ("answers", "prompt_tokens", "attended", "seconds")


def _read(line: str) -> tuple[float, ...]:
    try:
        row = json.loads(line)
        answers, tokens, attended, seconds = (float(row[key]) for key in KEYS)
        return (*units(answers, tokens, attended), seconds)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"no record of a step ({error!r}): {line[:100]}") from error
