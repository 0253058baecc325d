"""A prompt as a request to an OpenAI-compatible server, and what its status says when it refuses one."""

import math
from hashlib import blake2b
from typing import Any

from node.engine.errors import (
    EngineBusyError,
    EngineError,
    PromptRefusedError,
    UnknownModelError,
    UpstreamDeniedError,
    UpstreamDownError,
    UpstreamMalformedError,
)
from node.engine.openai_codec import decode_complaint
from overlay.wire.prompt import MAX_TOP_K, Prompt, SamplerSpec

MAX_COMPLAINT_CHARACTERS = 300
LONGEST_RETRY_S = 3600.0
_SEED_MASK = (1 << 31) - 1
"""31 bits: every server takes so many, and some take no more."""


def request_of(prompt: Prompt, name: str, context_tokens: int) -> tuple[str, dict[str, Any]]:
    """The path under the base URL and the body, for the model that the server knows by this name.

    The seed is fixed by the nonce: a server that heeds it answers alike when it is asked alike. What asks for nothing
    is left out: top_k, min_tokens and the repetition penalty are no part of OpenAI's API, and some servers refuse them.

    Raises:
        PromptRefusedError: it asks for log-probabilities.
    """
    sampler = prompt.sampler
    if sampler.logprobs is not None:
        raise PromptRefusedError("the model node's engine is another server's: it gives no log-probabilities")
    # No server takes 0 for top_p; it leaves the likeliest token alone, which temperature 0 does.
    is_greedy = sampler.temperature == 0 or sampler.top_p == 0
    body: dict[str, Any] = {
        "model": name,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.0 if is_greedy else sampler.temperature,
        "top_p": 1.0 if is_greedy else sampler.top_p,
        "max_tokens": min(sampler.max_tokens, context_tokens),
        "seed": seed_of(prompt.nonce),
    }
    if sampler.stop:
        body["stop"] = list(sampler.stop)
    if sampler.top_k < MAX_TOP_K and not is_greedy:
        body["top_k"] = sampler.top_k
    body |= {name: value for name, (value, neutral) in _adjustments(sampler).items() if value != neutral}
    if prompt.text is not None:
        return "completions", {**body, "prompt": prompt.text}
    turns = [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
    return "chat/completions", {**body, "messages": turns}


def _adjustments(sampler: SamplerSpec) -> dict[str, tuple[object, object]]:
    """What changes the odds of single tokens, each with the value that changes nothing."""
    return {
        "presence_penalty": (sampler.presence_penalty, 0.0),
        "frequency_penalty": (sampler.frequency_penalty, 0.0),
        "repetition_penalty": (sampler.repetition_penalty, 1.0),
        "min_tokens": (sampler.min_tokens, 0),
        "logit_bias": ({str(token): bias for token, bias in sampler.logit_bias}, {}),
    }


def seed_of(nonce: bytes) -> int:
    """A seed of 31 bits from a prompt's nonce."""
    return int.from_bytes(blake2b(nonce, digest_size=4).digest(), "big") & _SEED_MASK


def refusal_of(
    status: int, body: bytes, *, alias: str, retry_after: str | None, guess_s: float, secret: str | None
) -> EngineError:
    """What a status other than 200 means. guess_s: when to ask a busy server again that doesn't say.

    Only what the server says of the prompt itself goes to who asked; secret is cut out of that.
    """
    match status:
        case 400 | 413 | 422:
            return PromptRefusedError(_complaint(body, secret))
        case 401 | 403:
            return denied(status)
        case 404:
            return UnknownModelError(alias)
        case 429 | 503:
            return EngineBusyError(read_retry_after(retry_after, guess_s))
        case _ if status >= 500:
            return UpstreamDownError(f"it answers {status}")
        case _:
            return UpstreamMalformedError(f"it answers {status}")


def denied(status: int) -> UpstreamDeniedError:
    """It does not know us."""
    return UpstreamDeniedError(f"it answers {status}; set engine.upstream_key to a key that it takes")


def read_retry_after(value: str | None, guess_s: float) -> float:
    """A Retry-After in seconds, within reason; a date, or nothing, is answered by the guess."""
    try:
        seconds = float(value or "")
    except ValueError:
        seconds = math.nan
    return min(LONGEST_RETRY_S, max(1.0, seconds)) if math.isfinite(seconds) else guess_s


def _complaint(body: bytes, secret: str | None) -> str:
    said = decode_complaint(body)
    if said is None:
        return "the model node's engine refuses this prompt"
    if secret:
        said = said.replace(secret, "[redacted]")
    shown = "".join(character if character.isprintable() else " " for character in said)
    return f"the model node's engine refuses this prompt: {shown[:MAX_COMPLAINT_CHARACTERS]}"
