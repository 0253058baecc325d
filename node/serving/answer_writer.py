"""One prompt through the engine, as the events that its author gets: text as it comes, how it ended, the receipt."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

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
    TokensDecoded,
)
from node.engine.supervisor import Engine
from overlay.wire.answer import (
    AnswerEvent,
    AnswerFailed,
    AnswerFinished,
    ReceiptIssued,
    TokensGenerated,
)
from overlay.wire.prompt import Prompt
from verify.receipt import Receipt, SamplerTerms, commit_prompt, round_logprob, sign_receipt

SERIAL_BYTES = 8
"""Serials are drawn at random, so that they tell nothing of how many prompts a node answers."""

Emit = Callable[[AnswerEvent], Awaitable[None]]


@dataclass(slots=True)
class _Trace:
    """What of an answer goes into its receipt."""

    prefilled: PromptPrefilled | None = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    fingerprints: list[bytes] = field(default_factory=list)

    def add(self, event: TokensDecoded) -> None:
        self.ids.extend(event.ids)
        self.logprobs.extend(event.logprobs)
        self.fingerprints.extend(event.fingerprints)


class AnswerWriter:
    """Answers prompts with this node's engine and signs for it."""

    def __init__(
        self,
        engine: Engine,
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

    async def write(
        self, prompt: Prompt, blinding: bytes, emit: Emit, *, cache: CacheScope, session: bytes
    ) -> None:
        """Answer one prompt. What goes wrong is an AnswerFailed, too; cancelling frees what the engine holds.

        cache, session: as in `PromptMessage`.
        """
        try:
            async with self._engine.generate(prompt, cache=cache, session=session) as events:
                await self._pass_on(prompt, blinding, events, emit)
        except EngineError as error:
            await emit(explain_failure(error))

    async def _pass_on(
        self, prompt: Prompt, blinding: bytes, events: AsyncIterator[EngineEvent], emit: Emit
    ) -> None:
        trace = _Trace()
        async for event in events:
            match event:
                case PromptPrefilled():
                    trace.prefilled = event
                case TokensDecoded(ids, text):
                    trace.add(event)
                    self._count_tokens(len(ids))
                    await emit(TokensGenerated(text, len(ids), event.told))
                case GenerationFinished():
                    await emit(_finished(event))
                    await emit(ReceiptIssued(self._sign(prompt, blinding, trace, event)))

    def _sign(self, prompt: Prompt, blinding: bytes, trace: _Trace, end: GenerationFinished) -> bytes:
        if trace.prefilled is None:
            raise EngineCrashedError("an answer without a prompt")
        card = self._card_of(prompt.model)
        receipt = Receipt(
            model_id=card.model_id,
            numerics_class=card.numerics_class,
            sampler=SamplerTerms.of(prompt.sampler),
            nonce=prompt.nonce,
            commitment=commit_prompt(trace.prefilled.prompt_ids, blinding),
            serial=int.from_bytes(self._entropy(SERIAL_BYTES), "big"),
            output_ids=tuple(trace.ids),
            logprobs=tuple(round_logprob(value) for value in trace.logprobs),
            fingerprints=tuple(trace.fingerprints),
            finish_reason=end.reason,
            prompt_tokens=end.prompt_tokens,
            cached_tokens=end.cached_tokens,
            issued_unix=int(self._unix_time()),
        )
        return sign_receipt(self._key, receipt)

    def _card_of(self, model: str) -> ModelCard:
        for card in self._engine.cards:
            if model in (card.model_id, card.alias):
                return card
        raise UnknownModelError(model, tuple(card.alias for card in self._engine.cards))


def _finished(event: GenerationFinished) -> AnswerFinished:
    return AnswerFinished(event.reason, event.prompt_tokens, event.completion_tokens, event.cached_tokens)


def explain_failure(error: EngineError) -> AnswerFailed:
    """What the author of a prompt is told about an engine's error."""
    match error:
        case EngineBusyError(retry_after_s=after):
            return AnswerFailed("busy", str(error), after)
        case PromptTooLongError():
            return AnswerFailed("context_length_exceeded", str(error))
        case PromptRefusedError():
            return AnswerFailed("prompt_refused", str(error))
        case UnknownModelError():
            return AnswerFailed("model_not_found", str(error))
        case EngineCrashedError(retry_after_s=after):
            return AnswerFailed(
                "engine_down", "the model node's engine failed; it is being started again", after
            )
        case _:
            return AnswerFailed("engine_failed", "the model node could not answer")
