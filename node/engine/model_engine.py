"""One loaded model inside the worker: requests in, one step at a time, events out.

A step plans chunks, runs them in one forward pass, then takes one token for every answer whose newest row is there and
scores whatever rows of replays came along.
"""

import struct
from collections.abc import Callable
from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from pathlib import Path

import torch

from crypto.seeded import prompt_hash
from node.engine.block_manager import BLOCK_TOKENS, BlockManager, BlockTable
from node.engine.errors import PromptRefusedError, PromptTooLongError, UnsupportedModelError
from node.engine.events import (
    EngineEvent,
    FinishReason,
    GenerationFinished,
    ModelCard,
    PromptPrefilled,
    Replay,
    TokensDecoded,
)
from node.engine.manifest import read_manifest
from node.engine.model_runner import ModelRunner, top_candidates
from node.engine.replay import Scores, read_ending, score_rows
from node.engine.sampler import Candidates, SeededPosition, sample
from node.engine.scheduler import BatchLimits, Scheduler
from node.engine.sequence import Chunk, Sequence
from node.engine.settings import EngineSettings
from node.engine.text import AnswerText
from node.engine.tokenizer import PromptTokenizer
from overlay.wire.prompt import Prompt

_LOWEST_HALF = -65504.0

Clock = Callable[[], float]
Output = tuple[int, EngineEvent | Replay]


@dataclass(frozen=True, slots=True)
class _Row:
    """One hidden state, and the logits and candidates after it, of the sequence that asked for them."""

    sequence: Sequence
    logits: torch.Tensor
    candidates: Candidates
    fingerprint: bytes


class ModelEngine:
    """Scheduler, runner and tokenizer of one model. Not for threads: one caller submits, cancels and steps.

    settings.cache_bytes: for this model alone, at least memory_plan.FEWEST_BLOCKS.
    """

    def __init__(self, folder: Path, settings: EngineSettings, device: str, clock: Clock) -> None:
        manifest = read_manifest(folder)
        manifest.check_sizes(folder)
        self._runner = ModelRunner(folder, manifest.alias, device)
        self._tokenizer = _load_tokenizer(folder, manifest.alias)
        self._clock = clock
        block_bytes = BLOCK_TOKENS * self._runner.cache_bytes_per_token
        blocks = settings.cache_bytes // block_bytes
        self._runner.reserve(blocks)
        self._blocks = BlockManager(blocks, settings.cache_key)
        self._scheduler = Scheduler(BatchLimits(sequences=settings.max_batch), self._blocks)
        longest = self._runner.config.max_position_embeddings
        context = min(longest, settings.context_tokens, blocks * BLOCK_TOKENS)
        self._scores: dict[int, Scores] = {}
        self.card = ModelCard(manifest.model_id, manifest.alias, self._runner.numerics_class, context)

    @property
    def is_idle(self) -> bool:
        """There is nothing to compute."""
        return self._scheduler.is_idle

    def submit(
        self,
        request: int,
        prompt: Prompt,
        forced_ids: tuple[int, ...] | None = None,
        cache_scope: bytes | None = None,
    ) -> None:
        """Queue a prompt to answer or, with forced_ids, an answer to score.

        cache_scope: with whom what is computed may be shared; None: with nobody.

        Raises:
            PromptRefusedError: it is too long (PromptTooLongError), empty, or not for this model.
        """
        ids = self._tokenizer.encode(prompt)
        room = self.card.context_tokens - len(ids)
        if room < 1:
            raise PromptTooLongError(len(ids), self.card.context_tokens - 1)
        if forced_ids is not None:
            self._check_forced(forced_ids, room)
        self._scheduler.add(
            Sequence(
                request=request,
                prompt_ids=ids,
                prompt_hash=prompt_hash(ids),
                sampler=prompt.sampler,
                nonce=prompt.nonce,
                max_output=min(prompt.sampler.max_tokens, room),
                text=AnswerText(self._tokenizer.decode, prompt.sampler.stop),
                forced_ids=forced_ids,
                table=BlockTable(cache_scope),
                submitted_at=self._clock(),
            )
        )

    def cancel(self, request: int) -> None:
        """Forget a request; its cache is free at once. Unknown ones are over already."""
        self._scheduler.remove(request)
        self._scores.pop(request, None)

    def step(self) -> list[Output]:
        """Compute once; what there is to tell about which request."""
        chunks = self._scheduler.plan()
        now = self._clock()
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
        return self._decode(answers) + outputs

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
        hidden = torch.cat([rows for _, rows in answers])
        logits = self._runner.logits(hidden)
        fingerprints = self._runner.fingerprints(hidden)
        outputs: list[Output] = []
        for (sequence, _), row, found, mark in zip(
            answers, logits, top_candidates(logits), fingerprints, strict=True
        ):
            outputs += self._take_token(_Row(sequence, row, found, mark))
        return outputs

    def _take_token(self, row: _Row) -> list[Output]:
        sequence = row.sequence
        position = len(sequence.output_ids)
        seeded = SeededPosition(sequence.nonce, sequence.prompt_hash, position)
        index = sample(row.candidates, sequence.sampler, seeded)
        token = row.candidates.ids[index]
        sequence.output_ids.append(token)
        reason, text = self._advance_text(sequence, token)
        logprob = to_half(row.candidates.logits[index] - row.candidates.log_total)
        events: list[EngineEvent] = [] if position else [self._prefilled(sequence)]
        events.append(TokensDecoded((token,), text, (logprob,), (row.fingerprint,)))
        if reason is not None:
            events.append(self._finish(sequence, reason))
        return [(sequence.request, event) for event in events]

    def _advance_text(self, sequence: Sequence, token: int) -> tuple[FinishReason | None, str]:
        if token in self._tokenizer.end_ids:
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
            self._scores[sequence.request] = Scores()
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


def _load_tokenizer(folder: Path, alias: str) -> PromptTokenizer:
    try:
        return PromptTokenizer(folder)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"model {alias}: {error}; pull it again: clove models pull {alias}"
        ) from error


def to_half(logprob: float) -> float:
    """The nearest fp16 value that a receipt can carry: at most 0, and finite."""
    bounded = min(max(logprob, _LOWEST_HALF), 0.0)
    rounded: float = struct.unpack("<e", struct.pack("<e", bounded))[0]
    return rounded
