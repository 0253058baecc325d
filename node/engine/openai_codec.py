"""What an OpenAI-compatible server says, as values: chunks of a streamed answer, its list of models, its refusals.

The server is the operator's, but what it says is on its way to strangers: a value is what its place asks for, or a
DecodeError. Fields that we don't know are passed over, since every server adds some.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from crypto.errors import DecodeError

MAX_TOKENS = 1 << 24
MAX_MODELS = 4096
MAX_NAME_CHARACTERS = 512
_Object = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the server counted them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event of a streamed answer. is_error: the server gave up; its words may quote the prompt and are dropped."""

    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    is_error: bool = False


def decode_chunk(data: str) -> Chunk:
    """Reads one event of a chat or a plain completion. Raises DecodeError and nothing else."""
    fields = _object(_parse(data), "chunk")
    if fields.get("error") is not None:
        return Chunk(is_error=True)
    choices = fields.get("choices", [])
    if not isinstance(choices, list) or len(choices) > 1:
        raise DecodeError("chunk: choices is not an array of at most one")
    usage = _read_usage(fields.get("usage"))
    if not choices:
        return Chunk(usage=usage)
    choice = _object(choices[0], "choice")
    delta = choice.get("delta")
    said = choice if delta is None else _object(delta, "delta")
    text = _text(said.get("text" if delta is None else "content"), "text")
    reason = choice.get("finish_reason")
    return Chunk(text, None if reason is None else _name(reason, "finish_reason"), usage)


def decode_models(data: bytes) -> dict[str, int | None]:
    """The names of the models that are served, each with the tokens of its context where the server says them.

    Raises DecodeError and nothing else.
    """
    listed = _object(_parse(data), "list of models").get("data")
    if not isinstance(listed, list) or len(listed) > MAX_MODELS:
        raise DecodeError("list of models: data is not an array, or too long")
    models = [_object(item, "model") for item in listed]
    return {_name(model.get("id"), "id"): _context_tokens(model) for model in models}


def decode_complaint(data: bytes) -> str | None:
    """Why the server refused a request, in its own words, where it says so in a way that is known."""
    try:
        fields = _object(_parse(data), "error")
    except DecodeError:
        return None
    error = fields.get("error")
    inner = error if isinstance(error, Mapping) else fields
    said = [inner.get(name) for name in ("message", "detail")]
    return next((text for text in (*said, error) if isinstance(text, str) and text), None)


def _context_tokens(model: _Object) -> int | None:
    """A model's own context, or rather the one that the server runs it with, where it says that."""
    # max_model_len: vLLM, SGLang. meta: llama.cpp.
    meta = model.get("meta")
    inner: _Object = meta if isinstance(meta, Mapping) else {}
    said = (model.get("max_model_len"), inner.get("n_ctx"), inner.get("n_ctx_train"))
    return next((value for value in said if type(value) is int and 0 < value <= MAX_TOKENS), None)


def _read_usage(value: object) -> Usage | None:
    if value is None:
        return None
    fields = _object(value, "usage")
    prompt, completion = (_count(fields.get(name), name) for name in ("prompt_tokens", "completion_tokens"))
    details = fields.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    return Usage(prompt, completion, 0 if cached is None else min(prompt, _count(cached, "cached_tokens")))


def _parse(data: str | bytes) -> object:
    try:
        parsed: object = json.loads(data)
    except (ValueError, RecursionError) as error:  # UnicodeError is a ValueError
        raise DecodeError("not JSON") from error
    return parsed


def _object(value: object, name: str) -> _Object:
    if not isinstance(value, dict):
        raise DecodeError(f"{name}: not an object")
    return value


def _text(value: object, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DecodeError(f"{name}: not a text")
    try:
        value.encode("utf-8")  # an escaped lone surrogate is valid JSON, but no text
    except UnicodeEncodeError as error:
        raise DecodeError(f"{name}: not Unicode text") from error
    return value


def _name(value: object, name: str) -> str:
    text = _text(value, name)
    if not 0 < len(text) <= MAX_NAME_CHARACTERS:
        raise DecodeError(f"{name}: missing or too long")
    return text


def _count(value: object, name: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_TOKENS:
        raise DecodeError(f"{name}: not a count of tokens")
    return value
