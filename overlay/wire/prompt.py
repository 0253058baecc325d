"""What a client asks of a model node: the message M that cloves carry, as values."""

from dataclasses import dataclass, field
from typing import Literal, NewType

from crypto.identity import NodeId

ModelId = NewType("ModelId", str)
"""Hash of what decides a model's output: weights, tokenizer, chat template. `m-` and 40 hex digits."""

MAX_TOP_K = 64
LOWEST_REPETITION_PENALTY, HIGHEST_REPETITION_PENALTY = 0.5, 2.0
MAX_PENALTY = 2.0
"""Presence and frequency penalties reach from its negative to it."""
MAX_BIAS = 100.0
MAX_BIASED_TOKENS = 64
MAX_ALTERNATIVES = 20
SESSION_BYTES = 16
MAX_GIVEN_TOKENS = 1 << 15
"""Tokens of an answer that can be gone on with, as many as a receipt can state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSpec:
    """How tokens are drawn, exactly as docs/spec/sampling.md says, and what is told of them.

    temperature: 0 is plain argmax. top_k: 1..64; noise is keyed by token id and drawn for these candidates only.
    min_tokens: before so many neither an end token nor a stop string ends the answer. repetition_penalty: divides the
    logits of tokens in prompt and answer; 1 changes nothing. presence_penalty: taken from the logits of tokens in the
    answer; frequency_penalty: the same, times how often each is there. logit_bias: (token id, what is added to its
    logit), by rising id. logprobs: so many of the likeliest tokens are told beside each one taken, whose
    log-probability is told too; None: nothing is told.
    """

    temperature: float = 0.8
    top_p: float = 1.0
    top_k: int = MAX_TOP_K
    max_tokens: int = 256
    min_tokens: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop: tuple[str, ...] = ()
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation; role is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is asked: a conversation or, for plain completion, a text; exactly one of the two is given.

    nonce: 32 bytes, keys the sampler's noise. model: a model id or an alias.
    """

    model: str
    messages: tuple[ChatMessage, ...] = ()
    text: str | None = None
    sampler: SamplerSpec
    nonce: bytes


@dataclass(frozen=True, slots=True)
class ReplyPath:
    """Where answer cells of one path go: its proxy and the token by which that proxy finds the circuit."""

    proxy: NodeId
    token: bytes


Cache = Literal["none", "session", "public"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What an engine has to do for a prompt, without a word of where the answer goes. Fields as in `PromptMessage`."""

    prompt: Prompt
    blinding: bytes = field(repr=False)
    cache: Cache = "session"
    session: bytes = field(default=b"", repr=False)
    given: tuple[int, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptMessage:
    """M, the whole request as the model node reads it. response_secret and blinding are 32 bytes.

    session: names what cache "session" shares with, SESSION_BYTES long; empty where nothing is shared, or with all.
    given: ids of the answer's first tokens, of one that another node has begun and did not end; the rest is wanted.
    """

    prompt: Prompt
    expires_unix: int
    response_secret: bytes = field(repr=False)
    blinding: bytes = field(repr=False)
    paths: tuple[ReplyPath, ...]
    k: int
    forward: Literal["none", "group"] = "none"
    cache: Cache = "session"
    session: bytes = field(default=b"", repr=False)
    given: tuple[int, ...] = field(default=(), repr=False)

    @property
    def task(self) -> Task:
        """What of it is for the engine."""
        return Task(
            prompt=self.prompt,
            blinding=self.blinding,
            cache=self.cache,
            session=self.session,
            given=self.given,
        )
