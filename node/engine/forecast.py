"""When a request's first token will be there, and its last: the scheduler, run ahead on paper. Pure.

Steps are not played one by one. Between two events (a prompt is read, an answer ends) every step does the same, so a
phase of any length is one prediction of its middle step, times its steps. Left out: answers that give up their blocks
to others, and prompts that wait for another's beginning.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from node.engine.scheduler import BatchLimits, share_budget
from node.engine.step_time import StepTime, StepWork

LONGEST_FORECAST_S = 3600.0
_MOST_LOOKS = 8192
"""At jobs, a phase looking at each that is read: some milliseconds. What is left then is taken to be merely read."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is left of a request: tokens to read after so many that are there, then tokens to give.

    output 0: a replay, which is over once it is read. blocks: what it holds of the pool, or will take when it begins.
    """

    unread: int
    context: int
    output: int
    blocks: int = 0


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds from now. Where more lies ahead than was looked at, both are only the least that it takes."""

    first_token_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Machine:
    """What the jobs run on. available_blocks: of the pool, not held by anyone.

    beside_s: what the worker spends on other models between two steps of this one.
    """

    limits: BatchLimits
    step_time: StepTime
    available_blocks: int
    beside_s: float = 0.0


def forecast(machine: Machine, running: Sequence[Job], waiting: Sequence[Job]) -> Forecast:
    """The future of the last of the waiting jobs, which there must be. Others are served as the scheduler does."""
    return _Play(machine, running, waiting).run()


@dataclass(slots=True, eq=False)
class _Reader:
    """A job whose prompt is being read."""

    job: Job
    left: int
    context: int


class _Play:
    """The jobs on their way. Answers are a heap of (step at whose end it is over, number, its context then, job)."""

    def __init__(self, machine: Machine, running: Sequence[Job], waiting: Sequence[Job]) -> None:
        self._machine = machine
        self._waiting = list(reversed(waiting))
        self._subject = waiting[-1]
        self._readers = [_Reader(job, job.unread, job.context) for job in running if job.unread]
        self._answers: list[tuple[int, int, int, Job]] = []
        self._attended = 0
        self._available = machine.available_blocks
        self._clock_s = 0.0
        self._steps = 0
        self._first_token_s: float | None = None
        self._end_s: float | None = None
        self._number = 0
        for job in running:
            if not job.unread:
                self._begin_answer(job, job.context, job.output)

    def run(self) -> Forecast:
        looks = 0
        while looks < _MOST_LOOKS and self._end_s is None and self._clock_s < LONGEST_FORECAST_S:
            self._admit()
            self._play_phase()
            looks += 1 + len(self._readers)
        end_s = self._clock_s + self._read_rest_s() if self._end_s is None else self._end_s
        return Forecast(end_s if self._first_token_s is None else self._first_token_s, end_s)

    def _read_rest_s(self) -> float:
        tokens = sum(job.unread for job in self._waiting) + sum(reader.left for reader in self._readers)
        chunk = self._machine.limits.prefill_tokens
        return tokens / chunk * self._machine.step_time.predict(StepWork(0, chunk, chunk * chunk / 2))

    def _admit(self) -> None:
        while self._waiting and len(self._readers) + len(self._answers) < self._machine.limits.sequences:
            job = self._waiting[-1]
            if job.blocks > self._available and (self._readers or self._answers):
                return
            self._waiting.pop()
            self._available -= job.blocks
            self._readers.append(_Reader(job, job.unread, job.context))

    def _play_phase(self) -> None:
        limits, readers = self._machine.limits, self._readers
        budget = limits.mixed_prefill_tokens if self._answers else limits.prefill_tokens
        shares = share_budget([reader.left for reader in readers], budget)
        steps = [max(1, reader.left // share) for reader, share in zip(readers, shares, strict=True) if share]
        if self._answers:
            steps.append(max(1, self._answers[0][0] - self._steps))
        count = min(steps)
        self._clock_s += count * self._step_s(shares, count)
        self._steps += count
        self._attended += count * len(self._answers)
        for reader, share in zip(readers, shares, strict=True):
            reader.left = max(0, reader.left - count * share)
            reader.context += count * share
        self._end_answers()
        self._end_reading()

    def _step_s(self, shares: Sequence[int], count: int) -> float:
        """The seconds of a phase's middle step."""
        answers = len(self._answers)
        attended = self._attended + answers * (count + 1) / 2
        for reader, share in zip(self._readers, shares, strict=True):
            attended += share * (reader.context + count * share / 2)
        work = StepWork(answers, sum(shares), attended)
        return self._machine.step_time.predict(work) + self._machine.beside_s

    def _end_answers(self) -> None:
        while self._answers and self._answers[0][0] <= self._steps:
            _, _, context, job = heapq.heappop(self._answers)
            self._attended -= context
            self._end(job)

    def _end_reading(self) -> None:
        for reader in [each for each in self._readers if not each.left]:
            self._readers.remove(reader)
            if reader.job is self._subject:
                self._first_token_s = self._clock_s
            if reader.job.output > 1:
                self._begin_answer(reader.job, reader.context, reader.job.output - 1)
            else:
                self._end(reader.job)

    def _begin_answer(self, job: Job, context: int, steps: int) -> None:
        self._number += 1
        self._attended += context
        heapq.heappush(self._answers, (self._steps + steps, self._number, context + steps, job))

    def _end(self, job: Job) -> None:
        self._available += job.blocks
        if job is self._subject:
            self._end_s = self._clock_s
