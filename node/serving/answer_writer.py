"""One prompt through the engine, as the events that its author gets: text as it comes, how it ended, the receipt.

Tokens are signed as they go (`checkpoints.py`), the whole once more at its end.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, assert_never

from crypto.entropy import Entropy
from crypto.identity import IdentityKey
from node.engine.errors import (
    EngineBusyError,
    EngineCrashedError,
    EngineError,
    PromptRefusedError,
    PromptTooLongError,
    UnknownModelError,
)
from node.engine.events import (
    CacheScope,
    EngineEvent,
    GenerationFinished,
    ModelCard,
    PromptPrefilled,
    TextDecoded,
    TokensDecoded,
)
from node.serving.checkpoints import Checkpoints, signing
from overlay.wire.answer import (
    BUSY,
    AnswerEvent,
    AnswerFailed,
    AnswerFinished,
    ReceiptIssued,
    TokensGenerated,
)
from overlay.wire.answer_terms import UPSTREAM, SamplerTerms
from overlay.wire.checkpoint import Checkpoint, OutputHash, sign_checkpoint
from overlay.wire.prompt import Prompt, Task
from verify.receipt import Receipt, commit_prompt, round_logprob, sign_receipt
from verify.stated import StatedAnswer, commit_answer_text, commit_prompt_text

SERIAL_BYTES = 8
"""Serials are drawn at random, so that they tell nothing of how many prompts a node answers."""

Emit = Callable[[AnswerEvent], Awaitable[None]]


class AnsweringEngine(Protocol):
    """What answers prompts: a worker of ours, or an upstream engine."""

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The models that it serves now."""

    def generate(
        self, prompt: Prompt, *, cache: CacheScope, session: bytes, given_ids: tuple[int, ...]
    ) -> AbstractAsyncContextManager[AsyncIterator[EngineEvent]]:
        """Answer a prompt; the events end with GenerationFinished. Raises EngineError, on entering or from them."""


@dataclass(slots=True)
class _Trace:
    """What of an answer goes into its receipt. texts: of an engine that tells no ids."""

    card: ModelCard
    prefilled: PromptPrefilled | None = None
    texts: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    fingerprints: list[bytes] = field(default_factory=list)

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        if self.prefilled is None:
            raise EngineCrashedError("an answer without a prompt")
        return self.prefilled.prompt_ids

    def add(self, event: TokensDecoded) -> None:
        self.ids.extend(event.ids)
        self.logprobs.extend(event.logprobs)
        self.fingerprints.extend(event.fingerprints)


class AnswerWriter:
    """Answers prompts with this node's engine and signs for it."""

    def __init__(
        self,
        engine: AnsweringEngine,
        key: IdentityKey,
        *,
        entropy: Entropy,
        unix_time: Callable[[], float],
        count_tokens: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._engine = engine
        self._count_tokens = count_tokens
        self._key = key
        self._entropy = entropy
        self._unix_time = unix_time

    async def write(self, task: Task, emit: Emit, *, taken: Callable[[], None] = lambda: None) -> None:
        """Answer one prompt. What goes wrong is an AnswerFailed, too; cancelling frees what the engine holds.

        taken: called once the engine has it, and counts it in its load.
        """
        try:
            async with self._engine.generate(
                task.prompt, cache=task.cache, session=task.session, given_ids=task.given
            ) as events:
                taken()
                # Taken down now: a server that goes away right after an answer must not cost its receipt.
                trace = _Trace(self._card_of(task.prompt.model))

                def sign(output: OutputHash) -> bytes:
                    return self._sign_so_far(task, trace, output)

                async with signing(emit, sign, task.given) as checkpoints:
                    end = await self._pass_on(events, checkpoints, trace)
                await emit(_finished(end))
                await emit(ReceiptIssued(self._sign(task, trace, end)))
        except EngineError as error:
            await emit(explain_failure(error))

    async def _pass_on(
        self, events: AsyncIterator[EngineEvent], checkpoints: Checkpoints, trace: _Trace
    ) -> GenerationFinished:
        """Tell all tokens; how it ended."""
        end: GenerationFinished | None = None
        async for event in events:
            match event:
                case PromptPrefilled():
                    trace.prefilled = event
                case TokensDecoded(ids, text):
                    trace.add(event)
                    self._count_tokens(len(ids))
                    await checkpoints.tell(TokensGenerated(text, len(ids), event.told, ids))
                case TextDecoded(text, count):
                    trace.texts.append(text)
                    self._count_tokens(count)
                    await checkpoints.tell(TokensGenerated(text, count))
                case GenerationFinished():
                    end = event
                case _:
                    assert_never(event)
        if end is None:
            raise EngineCrashedError("an answer without an end")
        return end

    def _sign_so_far(self, task: Task, trace: _Trace, output: OutputHash) -> bytes:
        checkpoint = Checkpoint(
            model_id=trace.card.model_id,
            numerics_class=trace.card.numerics_class,
            sampler=SamplerTerms.of(task.prompt.sampler),
            nonce=task.prompt.nonce,
            commitment=commit_prompt(trace.prompt_ids, task.blinding),
            given=len(task.given),
            count=output.count,
            output_hash=output.digest(),
            issued_unix=int(self._unix_time()),
        )
        return sign_checkpoint(self._key, checkpoint)

    def _sign(self, task: Task, trace: _Trace, end: GenerationFinished) -> bytes:
        prompt = task.prompt
        commitment, stated = _commit(prompt, task.blinding, trace, end)
        receipt = Receipt(
            model_id=trace.card.model_id,
            numerics_class=trace.card.numerics_class,
            sampler=SamplerTerms.of(prompt.sampler),
            nonce=prompt.nonce,
            commitment=commitment,
            serial=int.from_bytes(self._entropy(SERIAL_BYTES), "big"),
            output_ids=(*task.given, *trace.ids),
            logprobs=tuple(round_logprob(value) for value in trace.logprobs),
            fingerprints=tuple(trace.fingerprints),
            finish_reason=end.reason,
            prompt_tokens=end.prompt_tokens,
            cached_tokens=end.cached_tokens,
            issued_unix=int(self._unix_time()),
            stated=stated,
            given=len(task.given),
        )
        return sign_receipt(self._key, receipt)

    def _card_of(self, model: str) -> ModelCard:
        for card in self._engine.cards:
            if model in (card.model_id, card.alias):
                return card
        raise UnknownModelError(model, tuple(card.alias for card in self._engine.cards))


def _commit(
    prompt: Prompt, blinding: bytes, trace: _Trace, end: GenerationFinished
) -> tuple[bytes, StatedAnswer | None]:
    """The commitment to the prompt, and what is stated of an answer that can't be replayed."""
    if trace.card.numerics_class == UPSTREAM:
        said = commit_answer_text("".join(trace.texts), blinding)
        return commit_prompt_text(prompt, blinding), StatedAnswer(end.completion_tokens, said)
    return commit_prompt(trace.prompt_ids, blinding), None


def _finished(event: GenerationFinished) -> AnswerFinished:
    return AnswerFinished(event.reason, event.prompt_tokens, event.completion_tokens, event.cached_tokens)


def explain_failure(error: EngineError) -> AnswerFailed:
    """What the author of a prompt is told about an engine's error."""
    match error:
        case EngineBusyError(retry_after_s=after):
            return AnswerFailed(BUSY, str(error), after)
        case PromptTooLongError():
            return AnswerFailed("context_length_exceeded", str(error))
        case PromptRefusedError():
            return AnswerFailed("prompt_refused", str(error))
        case UnknownModelError():
            return AnswerFailed("model_not_found", str(error))
        case EngineCrashedError(retry_after_s=after):
            return AnswerFailed("engine_down", "the model node's engine failed, and is not back yet", after)
        case _:
            return AnswerFailed("engine_failed", "the model node could not answer")
