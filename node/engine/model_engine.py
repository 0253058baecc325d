"""One loaded model inside the worker: requests in, one step at a time, events out.

A step plans chunks, runs them in one forward pass, then takes one token for every answer whose newest row is there and
scores whatever rows of replays came along.
"""

from collections.abc import Callable
from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from pathlib import Path

import torch

from crypto.seeded import prompt_hash
from node.engine.admission import Admission
from node.engine.block_manager import BLOCK_TOKENS, BlockManager, BlockTable
from node.engine.errors import EngineError, PromptRefusedError, PromptTooLongError, UnsupportedModelError
from node.engine.events import (
    EngineEvent,
    EngineLoad,
    FinishReason,
    GenerationFinished,
    ModelCard,
    PromptPrefilled,
    Replay,
    TokensDecoded,
)
from node.engine.logprobs import log_probabilities, tell_likeliest, to_half
from node.engine.manifest import read_manifest
from node.engine.model_runner import ModelRunner, adjust_logits, top_candidates
from node.engine.penalties import Penalties
from node.engine.public_blocks import PublicBlocks
from node.engine.replay import Scores, read_ending, score_rows
from node.engine.sampler import SeededPosition, sample
from node.engine.scheduler import BatchLimits, Scheduler
from node.engine.sequence import Chunk, Sequence
from node.engine.settings import EngineSettings
from node.engine.step_log import StepLog
from node.engine.step_time import StepWork
from node.engine.text import AnswerText
from node.engine.tokenizer import PromptTokenizer
from overlay.wire.answer import TokenLogprobs
from overlay.wire.prompt import Prompt, SamplerSpec

Clock = Callable[[], float]
Output = tuple[int, EngineEvent | Replay]


@dataclass(frozen=True, slots=True)
class _Taken:
    """One token that was taken, and what is said of it. told: none unless the prompt asks for it."""

    token: int
    logprob: float
    fingerprint: bytes
    told: tuple[TokenLogprobs, ...]


class ModelEngine:
    """Scheduler, runner and tokenizer of one model. Not for threads: one caller submits, cancels and steps.

    settings.cache_bytes: for this model alone, at least memory_plan.FEWEST_BLOCKS.
    """

    def __init__(self, folder: Path, settings: EngineSettings, device: str, clock: Clock) -> None:
        manifest = read_manifest(folder)
        manifest.check_sizes(folder)
        self._runner = ModelRunner(folder, manifest.alias, device, settings.weights)
        self._tokenizer = _load_tokenizer(folder, manifest.alias)
        self._clock = clock
        block_bytes = BLOCK_TOKENS * self._runner.cache_bytes_per_token
        blocks = settings.cache_bytes // block_bytes
        self._runner.reserve(blocks)
        self.public_blocks = PublicBlocks(manifest.model_id)
        self._blocks = BlockManager(blocks, settings.cache_key, self.public_blocks.note)
        mixed = self._runner.mixed_prefill_tokens
        limits = BatchLimits(sequences=settings.max_batch, mixed_prefill_tokens=mixed)
        self._scheduler = Scheduler(limits, self._blocks)
        self.admission = Admission(self._scheduler, self._blocks, limits, settings.max_wait_s)
        longest = self._runner.config.max_position_embeddings
        context = min(longest, settings.context_tokens, blocks * BLOCK_TOKENS)
        self._step_log = StepLog(Path(settings.step_log)) if settings.step_log else None
        self._scores: dict[int, Scores] = {}
        self.card = ModelCard(manifest.model_id, manifest.alias, self._runner.numerics_class, context)

    @property
    def is_idle(self) -> bool:
        """There is nothing to compute."""
        return self._scheduler.is_idle

    @property
    def load(self) -> EngineLoad:
        """How busy it is."""
        return self.admission.load(self.card)

    @property
    def _known_end_ids(self) -> frozenset[int]:
        """A configuration may declare ends that the vocabulary doesn't reach; they have no logits."""
        return frozenset(each for each in self._tokenizer.end_ids if each < self._runner.config.vocab_size)

    def submit(
        self,
        request: int,
        prompt: Prompt,
        forced_ids: tuple[int, ...] | None = None,
        cache_scope: bytes | None = None,
        given_ids: tuple[int, ...] = (),
    ) -> list[Output]:
        """Queue a prompt to answer or, with forced_ids, an answer to score.

        cache_scope: with whom what is computed may be shared; None: with nobody. given_ids: the answer's first tokens,
        which another node gave: a sequence like one that was thrown out and is to be read again. Where they end the
        answer, that is returned, and nothing is queued.

        Raises:
            PromptRefusedError: it is too long (PromptTooLongError), empty, or not for this model.
            EngineBusyError: it would wait too long for its first token.
        """
        ids = self._tokenizer.encode(prompt)
        room = self.card.context_tokens - len(ids)
        if room < 1:
            raise PromptTooLongError(len(ids), self.card.context_tokens - 1)
        self._check_biases(prompt.sampler)
        if forced_ids is not None:
            self._check_forced(forced_ids, room)
        sequence = Sequence(
            request=request,
            prompt_ids=ids,
            prompt_hash=prompt_hash(ids),
            sampler=prompt.sampler,
            nonce=prompt.nonce,
            max_output=min(prompt.sampler.max_tokens, room),
            text=AnswerText(self._tokenizer.decode, prompt.sampler.stop, prompt.sampler.min_tokens),
            penalties=Penalties.of(prompt.sampler, ids, self._known_end_ids),
            forced_ids=forced_ids,
            table=BlockTable(cache_scope),
            submitted_at=self._clock(),
        )
        if (reason := self._go_through(sequence, given_ids)) is not None:
            return self._end_at_once(sequence, reason)
        self._scheduler.add(sequence)
        if forced_ids is None:
            try:
                self.admission.check()
            except EngineError:
                self._scheduler.remove(request)
                raise
        return []

    def _go_through(self, sequence: Sequence, given_ids: Tokens[int]) -> FinishReason | None:
        """Bring a sequence to where its given tokens leave it; the reason, where they end the answer."""
        vocabulary, reason = self._runner.config.vocab_size, None
        for token in given_ids:
            if reason is not None or not 0 <= token < vocabulary:
                raise PromptRefusedError(
                    "the answer to go on with has ended already, or is not of this model"
                )
            sequence.output_ids.append(token)
            sequence.penalties = sequence.penalties and sequence.penalties.after(token)
            reason, _known = self._advance_text(sequence, token)
        sequence.given = len(given_ids)
        return reason

    def _end_at_once(self, sequence: Sequence, reason: FinishReason) -> list[Output]:
        """The node before gave every token and not its receipt: there is nothing to compute."""
        sequence.started_at = sequence.submitted_at
        prefilled = self._prefilled(sequence)
        return [(sequence.request, prefilled), (sequence.request, self._finish(sequence, reason))]

    def cancel(self, request: int) -> None:
        """Forget a request; its cache is free at once. Unknown ones are over already."""
        sequence = self._scheduler.remove(request)
        if sequence is not None:
            self.admission.ended(sequence)
        self._scores.pop(request, None)

    def step(self) -> list[Output]:
        """Compute once; what there is to tell about which request."""
        now = self._clock()
        chunks = self._scheduler.plan()
        work = StepWork.of(chunks)
        for chunk in chunks:
            chunk.sequence.started_at = chunk.sequence.started_at or now
        hidden = self._runner.run(chunks)
        self._scheduler.computed(chunks)
        outputs, answers, first = [], [], 0
        for chunk in chunks:
            rows = hidden[first : first + chunk.wanted]
            first += chunk.wanted
            if chunk.sequence.forced_ids is not None:
                outputs += self._score(chunk, rows)
            elif chunk.wanted:
                answers.append((chunk.sequence, rows))
        outputs = self._decode(answers) + outputs
        seconds = self._clock() - now
        self.admission.measured(work, seconds)
        if self._step_log is not None:
            self._step_log.measured(work, seconds)
        return outputs

    def _check_biases(self, sampler: SamplerSpec) -> None:
        vocabulary = self._runner.config.vocab_size
        for token, _ in sampler.logit_bias:
            if token >= vocabulary:
                raise PromptRefusedError(
                    f"logit_bias names token {token}; this model's tokens are 0 to {vocabulary - 1}"
                )

    def _check_forced(self, forced_ids: Tokens[int], room: int) -> None:
        vocabulary = self._runner.config.vocab_size
        if not forced_ids or any(not 0 <= token < vocabulary for token in forced_ids):
            raise PromptRefusedError("the answer to check is empty or holds ids that this model doesn't have")
        if len(forced_ids) > room:
            raise PromptRefusedError(
                f"the answer to check has {len(forced_ids)} tokens; {room} fit after its prompt"
            )

    def _decode(self, answers: list[tuple[Sequence, torch.Tensor]]) -> list[Output]:
        if not answers:
            return []
        sequences = [sequence for sequence, _ in answers]
        hidden = torch.cat([rows for _, rows in answers])
        logits = self._runner.logits(hidden)
        tokens = draw_tokens(logits, sequences)
        columns = (tokens, log_probabilities(logits, tokens), self._runner.fingerprints(hidden), logits)
        outputs: list[Output] = []
        for sequence, token, logprob, fingerprint, row in zip(sequences, *columns, strict=True):
            told = self._tell(sequence.sampler.logprobs, row, (token, logprob))
            outputs += self._take(sequence, _Taken(token, to_half(logprob), fingerprint, told))
        return outputs

    def _tell(
        self, count: int | None, row: torch.Tensor, taken: tuple[int, float]
    ) -> tuple[TokenLogprobs, ...]:
        if count is None:
            return ()
        return (tell_likeliest(row, taken, count, self._tokenizer.token_bytes),)

    def _take(self, sequence: Sequence, taken: _Taken) -> list[Output]:
        position = len(sequence.output_ids)
        sequence.output_ids.append(taken.token)
        sequence.penalties = sequence.penalties and sequence.penalties.after(taken.token)
        reason, text = self._advance_text(sequence, taken.token)
        events: list[EngineEvent] = [] if position > sequence.given else [self._prefilled(sequence)]
        events.append(TokensDecoded((taken.token,), text, (taken.logprob,), (taken.fingerprint,), taken.told))
        if reason is not None:
            events.append(self._finish(sequence, reason))
        return [(sequence.request, event) for event in events]

    def _advance_text(self, sequence: Sequence, token: int) -> tuple[FinishReason | None, str]:
        if token in self._tokenizer.end_ids and len(sequence.output_ids) > sequence.sampler.min_tokens:
            return "stop", sequence.text.finish()
        text = sequence.text.push(token)
        if sequence.text.stopped:
            return "stop", text
        if len(sequence.output_ids) < sequence.max_output:
            return None, text
        text += sequence.text.finish()
        return ("stop" if sequence.text.stopped else "length"), text

    def _prefilled(self, sequence: Sequence) -> PromptPrefilled:
        sequence.prefilled_at = self._clock()
        cached = sequence.cached_tokens
        return PromptPrefilled(len(sequence.prompt_ids), cached, sequence.prompt_hash, sequence.prompt_ids)

    def _finish(self, sequence: Sequence, reason: FinishReason) -> GenerationFinished:
        self.cancel(sequence.request)
        return GenerationFinished(
            reason=reason,
            prompt_tokens=len(sequence.prompt_ids),
            completion_tokens=len(sequence.output_ids),
            cached_tokens=sequence.cached_tokens,
            queue_s=sequence.started_at - sequence.submitted_at,
            prefill_s=sequence.prefilled_at - sequence.started_at,
            decode_s=self._clock() - sequence.prefilled_at,
        )

    def _score(self, chunk: Chunk, rows: torch.Tensor) -> list[Output]:
        sequence = chunk.sequence
        if chunk.start == 0:  # it may have been thrown out, and begin anew
            self._scores[sequence.request] = Scores(sequence.penalties)
        scores = self._scores[sequence.request]
        score_rows(scores, sequence, rows, self._runner)
        if sequence.computed < sequence.length:
            return []
        text, ending = read_ending(sequence, self._tokenizer.end_ids)
        replay = Replay(
            model_id=self.card.model_id,
            numerics_class=self.card.numerics_class,
            prompt_ids=sequence.prompt_ids,
            prompt_hash=sequence.prompt_hash,
            text=text,
            ending=ending,
            margins=tuple(scores.margins),
            logprobs=tuple(to_half(value) for value in scores.logprobs),
            fingerprints=tuple(scores.fingerprints),
            reference_ids=tuple(scores.reference_ids),
        )
        self.cancel(sequence.request)
        return [(sequence.request, replay)]


def draw_tokens(logits: torch.Tensor, sequences: Tokens[Sequence]) -> list[int]:
    """The next token of each answer, given its row of raw logits."""
    found = top_candidates(adjust_logits(logits, [sequence.penalties for sequence in sequences]))
    tokens = []
    for sequence, candidates in zip(sequences, found, strict=True):
        seeded = SeededPosition(sequence.nonce, sequence.prompt_hash, len(sequence.output_ids))
        tokens.append(candidates.ids[sample(candidates, sequence.sampler, seeded)])
    return tokens


def _load_tokenizer(folder: Path, alias: str) -> PromptTokenizer:
    try:
        return PromptTokenizer(folder)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"model {alias}: {error}; pull it again: clove models pull {alias}"
        ) from error
