"""What the engine tells its caller, as values."""

from dataclasses import dataclass
from typing import Literal

from overlay.wire.answer import TokenLogprobs
from overlay.wire.prompt import ModelId

CacheScope = Literal["none", "session", "public"]
FinishReason = Literal["stop", "length"]
Ending = Literal["eos", "stop", "length", "early", "overrun"]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model that the engine has loaded, as a node advertises it."""

    model_id: ModelId
    alias: str
    numerics_class: str
    context_tokens: int


@dataclass(frozen=True, slots=True)
class PromptPrefilled:
    """The prompt has been read; tokens follow. prompt_hash is `crypto.seeded.prompt_hash` of prompt_ids."""

    prompt_tokens: int
    cached_tokens: int
    prompt_hash: bytes
    prompt_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokensDecoded:
    """More tokens, one entry each in ids, logprobs (already rounded to fp16) and fingerprints (18 B each).

    text is whole code points, holds no part of a stop string, and lags behind the ids where it has to. told: one entry
    a token, where the prompt asks for log-probabilities; else none.
    """

    ids: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...]
    fingerprints: tuple[bytes, ...]
    told: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationFinished:
    """The answer is whole. completion_tokens counts every sampled token, the closing one too."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float


EngineEvent = PromptPrefilled | TokensDecoded | GenerationFinished


@dataclass(frozen=True, slots=True)
class Replay:
    """A teacher-forced pass over prompt and answer by this engine, one entry per answer token in each tuple.

    margins: how far the token fell short of the one that this engine would have sampled; 0 where they agree.
    reference_ids: the token that this engine would have sampled after the same beginning.
    text: what the ids say under the sampler's stop strings. ending: how the ids end: properly (eos, stop, length),
    before they should (early), or after (overrun).
    """

    model_id: ModelId
    numerics_class: str
    prompt_ids: tuple[int, ...]
    prompt_hash: bytes
    text: str
    ending: Ending
    margins: tuple[float, ...]
    logprobs: tuple[float, ...]
    fingerprints: tuple[bytes, ...]
    reference_ids: tuple[int, ...]
