"""What is measured of real engines: times of answers, and how busy the engines were meanwhile."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from benchmarks.forwarding.cpu_cap import cpu_s
from node.engine.supervisor import Engine
from overlay.wire.answer import AnswerEvent, AnswerFailed, AnswerFinished, TokensGenerated

LOOK_S = 0.02


@dataclass(slots=True)
class Answer:
    """What became of one prompt, in seconds from when it was due."""

    due: float
    first_s: float | None = None
    whole_s: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    failure: str | None = None

    async def note(self, event: AnswerEvent) -> None:
        """An event of the answer has come to who asked."""
        passed = trio.current_time() - self.due
        match event:
            case TokensGenerated():
                self.first_s = passed if self.first_s is None else self.first_s
            case AnswerFinished():
                self.whole_s = passed
                self.prompt_tokens, self.cached_tokens = event.prompt_tokens, event.cached_tokens
            case AnswerFailed():
                self.failure = event.code


@dataclass(slots=True)
class Busyness:
    """How much the engines had to do, by looks at them, and the CPU time that they took."""

    engines: Sequence[Engine]
    busy: list[int] = field(init=False)
    looks: int = 0
    cpu: float = 0.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.busy = [0] * len(self.engines)

    async def watch(self, scope: trio.CancelScope) -> None:
        """Look until the scope is cancelled."""
        began, before = trio.current_time(), self._spent()
        with scope:
            while True:
                await trio.sleep(LOOK_S)
                self.looks += 1
                for number, engine in enumerate(self.engines):
                    self.busy[number] += engine.active_requests > 0
        self.seconds = trio.current_time() - began
        self.cpu = self._spent() - before

    def _spent(self) -> float:
        return sum(_cpu_of(engine) for engine in self.engines)

    def summary(self) -> dict[str, object]:
        """busy: of each engine; share: of a core while they had work."""
        parts = [each / max(1, self.looks) for each in self.busy]
        share = self.cpu / max(1e-9, sum(parts) * self.seconds)
        return {
            "busy": round(statistics.fmean(parts), 3),
            "busy_each": [round(each, 2) for each in parts],
            "share": round(share, 3),
        }


def _cpu_of(engine: Engine) -> float:
    if engine.worker_pid is None:
        raise RuntimeError("an engine has died; see its log")
    return cpu_s(engine.worker_pid)


def describe(answers: Sequence[Answer]) -> dict[str, object]:
    """Seconds to the first token and the last, and the part of prompt tokens that were cached."""
    done = [each for each in answers if each.first_s is not None and each.whole_s is not None]
    first = [each.first_s for each in done if each.first_s is not None]
    whole = [each.whole_s for each in done if each.whole_s is not None]
    cuts = statistics.quantiles(first, n=100)
    return {
        "mean_s": round(statistics.fmean(first), 3),
        "p50_s": round(cuts[49], 3),
        "p90_s": round(cuts[89], 3),
        "whole_s": round(statistics.fmean(whole), 3),
        "hits": round(sum(each.cached_tokens for each in done) / sum(each.prompt_tokens for each in done), 3),
        "counted": len(done),
        "failed": len(answers) - len(done),
        "longest_prompt": max(each.prompt_tokens for each in done),
    }


def average(found: Sequence[dict[str, object]]) -> dict[str, object]:
    """Means over the rounds, and all rounds' means of the first token's time where there are several."""
    keys = [key for key, value in found[0].items() if isinstance(value, int | float)]
    means: dict[str, object] = {key: round(statistics.fmean(each[key] for each in found), 3) for key in keys}
    return means | {"mean_s_each": [each["mean_s"] for each in found], "busy_each": found[0]["busy_each"]}
