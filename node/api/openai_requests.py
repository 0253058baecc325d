"""OpenAI's completion requests: checked, and turned into a `Prompt`.

What this network can't do (several choices, tools, images) is refused by name rather than passed over, since an
answer without it would look like one with it. Fields that only label a request are ignored.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from node.api.problem import Problem, invalid
from overlay.wire.prompt import (
    HIGHEST_REPETITION_PENALTY,
    LOWEST_REPETITION_PENALTY,
    MAX_ALTERNATIVES,
    MAX_BIAS,
    MAX_BIASED_TOKENS,
    MAX_PENALTY,
    MAX_TOP_K,
    Cache,
    ChatMessage,
    Prompt,
    SamplerSpec,
)
from overlay.wire.prompt_codec import (
    MAX_CHAT_MESSAGES,
    MAX_COMPLETION_TOKENS,
    MAX_LOGPROBS_TOLD,
    MAX_MODEL_BYTES,
    MAX_STOP_BYTES,
    MAX_STOPS,
    MAX_TEMPERATURE,
)

NONCE_BYTES = 32
DEFAULT_MAX_TOKENS = 256
DEFAULT_TEMPERATURE = 0.8
_LARGEST_TOKEN_ID = (1 << 32) - 1
_SEED_LABEL = b"clove-seed/1"
_Body = TypeVar("_Body", bound=BaseModel)

_IGNORED = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "prompt_cache_key",
        "safety_identifier",
        "parallel_tool_calls",
    }
)
"""Labels that change no token."""

_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "top_logprobs": (),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": (),
    "verbosity": (),
}
"""Known fields that are not supported, with the values that ask for nothing; null is always one."""


def _join_parts(content: object) -> object:
    """Text given as a list of parts; any other part is refused by name."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError("only parts of type text are supported")
        texts.append(part["text"])
    return "".join(texts)


def _one_text(prompt: object) -> object:
    return prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt


def _as_list(stop: object) -> object:
    if stop is None:
        return []
    return [stop] if isinstance(stop, str) else stop


def _stop_text(stop: object) -> object:
    if isinstance(stop, str) and len(stop.encode("utf-8")) > MAX_STOP_BYTES:
        raise ValueError(f"a stop text is at most {MAX_STOP_BYTES} bytes")
    return stop


def _check_token_id(text: str) -> str:
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(_LARGEST_TOKEN_ID))
    if not is_number or str(int(text)) != text or int(text) > _LARGEST_TOKEN_ID:
        raise ValueError("not the id of a token")
    return text


def _none_for_false(value: object) -> object:
    return None if value is False else value


StopText = Annotated[str, Field(min_length=1), BeforeValidator(_stop_text)]
TokenText = Annotated[str, AfterValidator(_check_token_id)]
Alternatives = Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)]
Bias = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class StreamOptions(_Strict):
    """`stream_options`."""

    include_usage: bool = False


class Turn(_Strict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_join_parts)]
    tool_calls: None = None
    function_call: None = None

    def to_message(self) -> ChatMessage:
        """OpenAI's newer name for system is the older one on the wire."""
        return ChatMessage("system" if self.role == "developer" else self.role, self.content)


class _Sampled(_Strict):
    """What both kinds of completion have in common."""

    model: str = Field(min_length=1, max_length=MAX_MODEL_BYTES)
    temperature: float | None = Field(default=None, ge=0, le=MAX_TEMPERATURE)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1, le=MAX_TOP_K)
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_COMPLETION_TOKENS)
    min_tokens: int | None = Field(default=None, ge=0, le=MAX_COMPLETION_TOKENS)
    repetition_penalty: float | None = Field(
        default=None, ge=LOWEST_REPETITION_PENALTY, le=HIGHEST_REPETITION_PENALTY
    )
    presence_penalty: float | None = Field(default=None, ge=-MAX_PENALTY, le=MAX_PENALTY)
    frequency_penalty: float | None = Field(default=None, ge=-MAX_PENALTY, le=MAX_PENALTY)
    logit_bias: Annotated[dict[TokenText, Bias], Field(max_length=MAX_BIASED_TOKENS)] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Annotated[list[StopText], BeforeValidator(_as_list), Field(max_length=MAX_STOPS)] = []
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    cache: Literal["none", "session", "public"] | None = None

    def sampler(self, max_tokens: int | None, logprobs: int | None) -> SamplerSpec:
        """How tokens are drawn, with our defaults where the request says nothing.

        Raises:
            Problem: 400, naming the field that another one rules out.
        """
        most = DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens
        if (self.min_tokens or 0) > most:
            raise invalid(f"min_tokens: more than the {most} that the answer may have at most", "min_tokens")
        if logprobs is not None and most * (logprobs + 1) > MAX_LOGPROBS_TOLD:
            fit = MAX_LOGPROBS_TOLD // (logprobs + 1)
            raise invalid(
                f"logprobs: with {logprobs} alternatives at most {fit} tokens can be asked for", "logprobs"
            )
        # + 0.0: a request may say -0.0, which is not sent
        return SamplerSpec(
            temperature=_or_default(self.temperature, DEFAULT_TEMPERATURE) + 0.0,
            top_p=_or_default(self.top_p, 1.0),
            top_k=MAX_TOP_K if self.top_k is None else self.top_k,
            max_tokens=most,
            min_tokens=self.min_tokens or 0,
            repetition_penalty=_or_default(self.repetition_penalty, 1.0),
            presence_penalty=_or_default(self.presence_penalty, 0.0) + 0.0,
            frequency_penalty=_or_default(self.frequency_penalty, 0.0) + 0.0,
            logit_bias=tuple(
                sorted((int(text), bias + 0.0) for text, bias in (self.logit_bias or {}).items())
            ),
            stop=tuple(self.stop),
            logprobs=logprobs,
        )


class ChatRequest(_Sampled):
    """Body of `POST /v1/chat/completions`."""

    messages: list[Turn] = Field(min_length=1, max_length=MAX_CHAT_MESSAGES)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_COMPLETION_TOKENS)
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None

    @property
    def alternatives(self) -> int | None:
        """As in `SamplerSpec.logprobs`."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @model_validator(mode="after")
    def _check_not_empty(self) -> Self:
        if not any(turn.content.strip() for turn in self.messages):
            raise ValueError("the prompt is empty")
        return self

    @model_validator(mode="after")
    def _check_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self


class TextRequest(_Sampled):
    """Body of `POST /v1/completions`."""

    prompt: Annotated[str, BeforeValidator(_one_text)] = Field(min_length=1)
    logprobs: Annotated[Alternatives | None, BeforeValidator(_none_for_false)] = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the rest of the API needs it. cache: None leaves it to the configuration."""

    prompt: Prompt
    stream: bool
    include_usage: bool
    cache: Cache | None = None


def parse_chat(body: Mapping[str, Any], entropy: Callable[[int], bytes] = os.urandom) -> Asked:
    """A conversation to complete.

    Raises:
        Problem: 400, naming the field.
    """
    _refuse_unsupported(body, ChatRequest)
    asked = _validate(ChatRequest, body)
    sampler = asked.sampler(asked.max_completion_tokens or asked.max_tokens, asked.alternatives)
    messages = tuple(turn.to_message() for turn in asked.messages)
    nonce = nonce_for(asked.seed, entropy)
    return _asked(asked, Prompt(model=asked.model, messages=messages, sampler=sampler, nonce=nonce))


def parse_text(body: Mapping[str, Any], entropy: Callable[[int], bytes] = os.urandom) -> Asked:
    """A text to complete.

    Raises:
        Problem: 400, naming the field.
    """
    _refuse_unsupported(body, TextRequest)
    asked = _validate(TextRequest, body)
    nonce = nonce_for(asked.seed, entropy)
    sampler = asked.sampler(asked.max_tokens, asked.logprobs)
    return _asked(asked, Prompt(model=asked.model, text=asked.prompt, sampler=sampler, nonce=nonce))


def nonce_for(seed: int | None, entropy: Callable[[int], bytes]) -> bytes:
    """The nonce that keys the sampler: the same for the same seed, else fresh."""
    if seed is None:
        return entropy(NONCE_BYTES)
    return hashlib.blake2b(_SEED_LABEL + str(seed).encode("ascii"), digest_size=NONCE_BYTES).digest()


def _or_default(value: float | None, default: float) -> float:
    return default if value is None else float(value)


def _asked(request: _Sampled, prompt: Prompt) -> Asked:
    include_usage = request.stream_options is not None and request.stream_options.include_usage
    return Asked(prompt, bool(request.stream), include_usage, request.cache)


def _refuse_unsupported(body: Mapping[str, Any], model: type[BaseModel]) -> None:
    for name, value in body.items():
        if name in model.model_fields or name in _IGNORED:
            continue
        if name not in _NEUTRAL:
            raise invalid(f"unrecognized request argument: {name[:64]}", name[:64], "unknown_parameter")
        if value is not None and not any(value == neutral for neutral in _NEUTRAL[name]):
            raise invalid(f"{name} is not supported by this network", name, "unsupported_parameter")


def _validate(model: type[_Body], body: Mapping[str, Any]) -> _Body:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _first_fault(error) from None


def _first_fault(error: ValidationError) -> Problem:
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(str(part) for part in fault["loc"]) or None
    reason = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "missing":
        return invalid(f"missing required field {field}", field, "missing_required_parameter")
    return invalid(f"{field}: {reason}" if field else reason, field)
