"""What the engine tells its caller, as values."""

from dataclasses import dataclass, field
from typing import Literal

from overlay.wire.answer import TokenLogprobs
from overlay.wire.group import BlockHash
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
class TextDecoded:
    """More of an answer by an engine that tells no ids, in the place of TokensDecoded.

    text is never empty and holds no part of a stop string; count is how many tokens it is likely to be.
    """

    text: str
    count: int


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


EngineEvent = PromptPrefilled | TokensDecoded | TextDecoded | GenerationFinished


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


@dataclass(frozen=True, slots=True)
class CacheReport:
    """Blocks of a model's cache that anybody may share. begins: what was told before is void, and this starts anew.

    key: the group key that names are under. stored: names of blocks that are there now; evicted: of those that are not.
    Each is in one report once, as it was at the end, in no order.
    """

    model_id: ModelId
    key: bytes = field(repr=False)
    begins: bool
    stored: tuple[BlockHash, ...] = ()
    evicted: tuple[BlockHash, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """How busy a model is, and how fast: what a router or an operator wants to know of it.

    waiting, reading, decoding: requests by what becomes of them now. queued_tokens: prompt tokens that are still to be
    computed, cached ones not counted. prefill_token_s, decode_step_s: seconds of a prompt token in a long chunk and of
    a step of the present answers, as measured here; attended_s: of a token looking at one position.
    mixed_tokens: prompt tokens read in a step beside answers; mixed_step_s: of such a step. decoding_s: until the
    present answers are over, all steps being such. free_slots: answers that could begin at once.
    wait_s: until a prompt of one token would have its first; 0 on an idle model.
    answer_s: until its answer, if of usual length, would be whole.
    """

    model_id: ModelId
    alias: str
    waiting: int
    reading: int
    decoding: int
    queued_tokens: int
    prefill_token_s: float
    decode_step_s: float
    attended_s: float
    mixed_tokens: int
    mixed_step_s: float
    decoding_s: float
    free_slots: int
    wait_s: float
    answer_s: float
