"""Which prompts a model takes on, by how long they would wait, and how busy it says it is. Pure.

Here, in the worker, prompts have been counted in tokens and the cache is at hand, so a prompt that continues a
conversation is known to be cheap. The daemon's side looks before (`node.engine.gate`), with less knowledge but sooner.
"""

from collections.abc import Iterator

from node.engine.answer_length import AnswerLengths
from node.engine.block_manager import BLOCK_TOKENS, BlockManager
from node.engine.errors import EngineBusyError
from node.engine.events import EngineLoad, ModelCard
from node.engine.forecast import Forecast, Job, Machine, forecast
from node.engine.scheduler import BatchLimits, Scheduler
from node.engine.sequence import Sequence
from node.engine.step_time import StepTime, StepWork

_EXACT = 64
"""So many waiting prompts are held against the cache; those behind them are taken to be new in full."""


class Admission:
    """Watches one scheduler. beside_s: what the worker spends on other models between two steps of this one."""

    def __init__(
        self, scheduler: Scheduler, blocks: BlockManager, limits: BatchLimits, max_wait_s: float
    ) -> None:
        self._scheduler = scheduler
        self._blocks = blocks
        self._limits = limits
        self._max_wait_s = max_wait_s
        self._step_time = StepTime()
        self._lengths = AnswerLengths()
        self.beside_s = 0.0
        self.step_s = 0.0
        """What the last step took."""

    def check(self) -> None:
        """Refuse the prompt that was added last if its first token is too far off. One that is alone never is.

        Raises:
            EngineBusyError: with the time after which the backlog will have shrunk enough.
        """
        if len(self._scheduler.waiting) + len(self._scheduler.running) == 1:
            return
        wait_s = self._forecast(list(self._waiting())).first_token_s
        if wait_s > self._max_wait_s:
            raise EngineBusyError(max(1.0, wait_s - self._max_wait_s), wait_s)

    def measured(self, work: StepWork, seconds: float) -> None:
        """A step took so long."""
        self.step_s = seconds
        self._step_time.measured(work, seconds)

    def ended(self, sequence: Sequence) -> None:
        """A request is over, or was given up."""
        if sequence.output_ids:
            self._lengths.ended(len(sequence.output_ids))

    def load(self, card: ModelCard) -> EngineLoad:
        """How busy the model, which this card is of, is now."""
        waiting, running = list(self._waiting()), self._running()
        reading = sum(bool(job.unread) for job in running)
        decoding, predict = len(running) - reading, self._step_time.predict
        chunk = self._limits.prefill_tokens
        answers = [job for job in running if not job.unread]
        context = sum(job.context for job in answers)
        decode_step_s = predict(StepWork(max(decoding, 1), 0, context))
        mixed = self._limits.mixed_prefill_tokens
        mixed_step_s = predict(StepWork(max(decoding, 1), mixed, context + mixed * mixed / 2))
        usual = self._lengths.expect(0, self._blocks.count * BLOCK_TOKENS)
        probe = Job(1, 0, usual)
        ahead = self._forecast([*waiting, probe])
        return EngineLoad(
            model_id=card.model_id,
            alias=card.alias,
            waiting=len(waiting),
            reading=reading,
            decoding=decoding,
            queued_tokens=sum(job.unread for job in (*running, *waiting)),
            prefill_token_s=predict(StepWork(0, chunk, chunk * chunk / 2)) / chunk,
            decode_step_s=decode_step_s,
            attended_s=(predict(StepWork(0, chunk, chunk * chunk)) - predict(StepWork(0, chunk, 0.0)))
            / chunk**2,
            mixed_tokens=mixed,
            mixed_step_s=mixed_step_s,
            decoding_s=max((job.output for job in answers), default=0) * mixed_step_s,
            free_slots=max(0, self._limits.sequences - len(running) - len(waiting)),
            wait_s=0.0 if self._scheduler.is_idle else ahead.first_token_s,
            answer_s=ahead.end_s,
        )

    def _forecast(self, waiting: list[Job]) -> Forecast:
        machine = Machine(self._limits, self._step_time, self._blocks.available, self.beside_s)
        return forecast(machine, self._running(), waiting)

    def _running(self) -> list[Job]:
        return [
            self._job(each, 0 if each.is_decoding else each.length - each.computed, len(each.table.blocks))
            for each in self._scheduler.running
        ]

    def _waiting(self) -> Iterator[Job]:
        """What waits, less what is in the cache or will be: a beginning that another one computes is as good."""
        running = self._scheduler.running
        expected = {each for sequence in running if not sequence.is_decoding for each in sequence.chain}
        waiting = self._scheduler.waiting
        last = len(waiting) - 1
        for index, sequence in enumerate(waiting):
            blocks, known = -(-sequence.length // BLOCK_TOKENS), 0
            if index < _EXACT or index == last:
                known = self._known(sequence, expected)
                expected.update(sequence.chain)
            yield self._job(sequence, sequence.length - known * BLOCK_TOKENS, blocks - known)

    def _known(self, sequence: Sequence, expected: set[bytes]) -> int:
        known = self._blocks.match(sequence.chain)
        for each in sequence.chain[known:]:
            if each not in expected:
                break
            known += 1
        return known

    def _job(self, sequence: Sequence, unread: int, blocks: int) -> Job:
        output = 0
        if sequence.forced_ids is None:
            output = self._lengths.expect(len(sequence.output_ids), sequence.max_output)
        return Job(unread, sequence.length - unread, output, blocks)
