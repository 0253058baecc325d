"""Answer records as JSON: what `clove ask --save` writes, `clove verify` reads and the daemon stores.

People may edit the file, and may be handed one by a stranger: a file that is not exactly a record is a
DecodeError.
"""

import base64
import binascii
import dataclasses
import json
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from itertools import pairwise
from typing import TypeVar

from crypto.errors import DecodeError
from crypto.identity import decode_node_id
from overlay.wire.limits import MAX_ATTEMPTS, MAX_CHECKPOINT_BYTES, MAX_UNIX_TIME
from overlay.wire.prompt import (
    HIGHEST_REPETITION_PENALTY,
    LOWEST_REPETITION_PENALTY,
    MAX_ALTERNATIVES,
    MAX_BIAS,
    MAX_BIASED_TOKENS,
    MAX_PENALTY,
    MAX_TOP_K,
    ChatMessage,
    ModelId,
    Prompt,
    SamplerSpec,
)
from overlay.wire.prompt_codec import (
    MAX_CHAT_MESSAGES,
    MAX_COMPLETION_TOKENS,
    MAX_MODEL_BYTES,
    MAX_STOP_BYTES,
    MAX_STOPS,
    MAX_TEMPERATURE,
    ROLES,
)
from verify.answer import AnswerRecord
from verify.parts import KeptPart
from verify.receipt import MAX_OUTPUT_TOKENS, MAX_RECEIPT_BYTES

FORMAT = "clove-answer/4"
_WITHOUT_PARTS = "clove-answer/3"
"""Still read: who signed what of an answer was not kept then."""
MAX_RECORD_BYTES = 8 * 1024 * 1024
_MAX_TEXT_CHARACTERS = 2 * 1024 * 1024
_MAX_NAME_CHARACTERS = 64
_U32_MAX = (1 << 32) - 1
_FIELDS = frozenset(
    {
        "format",
        "created_unix",
        "node_id",
        "model_id",
        "numerics_class",
        "prompt",
        "blinding",
        "text",
        "given",
        "receipt",
    }
)
_T = TypeVar("_T")
_Object = Mapping[str, object]


def encode_record(record: AnswerRecord) -> str:
    """Returns the record as JSON, indented for people."""
    prompt = record.prompt
    asked: dict[str, object] = {"model": prompt.model}
    if prompt.text is not None:
        asked["text"] = prompt.text
    else:
        asked["messages"] = [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
    asked["sampler"] = dataclasses.asdict(prompt.sampler)
    asked["nonce"] = prompt.nonce.hex()
    fields = {
        "format": FORMAT,
        "created_unix": record.created_unix,
        "node_id": record.node_id.hex(),
        "model_id": record.model_id,
        "numerics_class": record.numerics_class,
        "prompt": asked,
        "blinding": record.blinding.hex(),
        "text": record.text,
        "given": record.given,
        "parts": [_part_fields(part) for part in record.parts],
        "receipt": base64.b64encode(record.receipt).decode("ascii"),
    }
    return json.dumps(fields, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _part_fields(part: KeptPart) -> dict[str, object]:
    return {
        "node_id": part.node_id.hex(),
        "until": part.until,
        "blinding": part.blinding.hex(),
        "checkpoint": base64.b64encode(part.checkpoint).decode("ascii"),
    }


def decode_record(data: str | bytes) -> AnswerRecord:
    """Reads a record. Raises DecodeError, which names the field, and nothing else."""
    fields = _object(_parse(data), "record")
    has_parts = fields.get("format") != _WITHOUT_PARTS
    _expect_keys(fields, "record", _FIELDS | {"parts"} if has_parts else _FIELDS)
    if has_parts and fields["format"] != FORMAT:
        raise DecodeError(f"answer record: not of the format {FORMAT}")
    given = _integer(fields["given"], "given", 0, MAX_OUTPUT_TOKENS)
    return AnswerRecord(
        prompt=_read_prompt(fields["prompt"]),
        blinding=_hex(fields["blinding"], "blinding", 32),
        text=_text(fields["text"], "text", _MAX_TEXT_CHARACTERS),
        node_id=decode_node_id(_hex(fields["node_id"], "node_id", 32)),
        model_id=ModelId(_text(fields["model_id"], "model_id", _MAX_NAME_CHARACTERS)),
        numerics_class=_text(fields["numerics_class"], "numerics_class", _MAX_NAME_CHARACTERS),
        given=given,
        parts=_read_parts(fields["parts"], given) if has_parts else (),
        receipt=_base64(fields["receipt"], "receipt", MAX_RECEIPT_BYTES),
        created_unix=_integer(fields["created_unix"], "created_unix", 0, MAX_UNIX_TIME),
    )


def _parse(data: str | bytes) -> object:
    if len(data) > MAX_RECORD_BYTES:
        raise DecodeError(f"answer record: longer than {MAX_RECORD_BYTES} bytes")
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        text.encode("utf-8")
        parsed: object = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_distinct_keys)
    except (ValueError, RecursionError) as error:  # UnicodeError is a ValueError
        raise DecodeError("answer record: not JSON") from error
    return parsed


def _refuse_constant(name: str) -> object:
    raise DecodeError(f"answer record: {name} is no number")


def _distinct_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise DecodeError("answer record: a field given twice")
    return found


def _read_parts(value: object, given: int) -> tuple[KeptPart, ...]:
    parts = _array(value, "parts", MAX_ATTEMPTS - 1, _read_part)
    ends = [0, *(part.until for part in parts)]
    if any(one >= other for one, other in pairwise(ends)) or ends[-1] > given:
        raise DecodeError("answer record: parts don't end one after the other, within what was given")
    return parts


def _read_part(value: object) -> KeptPart:
    fields = _object(value, "parts")
    _expect_keys(fields, "parts", {"node_id", "until", "blinding", "checkpoint"})
    return KeptPart(
        node_id=decode_node_id(_hex(fields["node_id"], "parts.node_id", 32)),
        until=_integer(fields["until"], "parts.until", 1, MAX_OUTPUT_TOKENS),
        blinding=_hex(fields["blinding"], "parts.blinding", 32),
        checkpoint=_base64(fields["checkpoint"], "parts.checkpoint", MAX_CHECKPOINT_BYTES),
    )


def _read_prompt(value: object) -> Prompt:
    fields = _object(value, "prompt")
    content = "text" if "text" in fields else "messages"
    _expect_keys(fields, "prompt", {"model", content, "sampler", "nonce"})
    text: str | None = None
    messages: tuple[ChatMessage, ...] = ()
    if content == "text":
        text = _text(fields["text"], "prompt.text", _MAX_TEXT_CHARACTERS)
    else:
        messages = _array(fields["messages"], "prompt.messages", MAX_CHAT_MESSAGES, _read_message)
        if not messages:
            raise DecodeError("answer record: prompt.messages is empty")
    return Prompt(
        model=_text(fields["model"], "prompt.model", MAX_MODEL_BYTES),
        messages=messages,
        text=text,
        sampler=_read_sampler(fields["sampler"]),
        nonce=_hex(fields["nonce"], "prompt.nonce", 32),
    )


def _read_message(value: object) -> ChatMessage:
    fields = _object(value, "prompt.messages")
    _expect_keys(fields, "prompt.messages", {"role", "content"})
    role = _text(fields["role"], "prompt.messages.role", _MAX_NAME_CHARACTERS)
    if role not in ROLES:
        raise DecodeError(f"answer record: prompt.messages.role is none of {', '.join(ROLES)}")
    return ChatMessage(role, _text(fields["content"], "prompt.messages.content", _MAX_TEXT_CHARACTERS))


def _read_sampler(value: object) -> SamplerSpec:
    part = _object(value, "prompt.sampler")
    _expect_keys(part, "prompt.sampler", {field.name for field in dataclasses.fields(SamplerSpec)})
    most = _sampler_integer(part, "max_tokens", 1, MAX_COMPLETION_TOKENS)
    return SamplerSpec(
        temperature=_sampler_number(part, "temperature", 0.0, MAX_TEMPERATURE),
        top_p=_sampler_number(part, "top_p", 0.0, 1.0),
        top_k=_sampler_integer(part, "top_k", 1, MAX_TOP_K),
        max_tokens=most,
        min_tokens=_sampler_integer(part, "min_tokens", 0, most),
        repetition_penalty=_sampler_number(
            part, "repetition_penalty", LOWEST_REPETITION_PENALTY, HIGHEST_REPETITION_PENALTY
        ),
        presence_penalty=_sampler_number(part, "presence_penalty", -MAX_PENALTY, MAX_PENALTY),
        frequency_penalty=_sampler_number(part, "frequency_penalty", -MAX_PENALTY, MAX_PENALTY),
        logit_bias=_read_biases(part["logit_bias"]),
        stop=_array(
            part["stop"],
            "prompt.sampler.stop",
            MAX_STOPS,
            lambda item: _text(item, "prompt.sampler.stop", MAX_STOP_BYTES),
        ),
        logprobs=None
        if part["logprobs"] is None
        else _sampler_integer(part, "logprobs", 0, MAX_ALTERNATIVES),
    )


def _sampler_integer(part: _Object, name: str, low: int, high: int) -> int:
    return _integer(part[name], f"prompt.sampler.{name}", low, high)


def _sampler_number(part: _Object, name: str, low: float, high: float) -> float:
    return _number(part[name], f"prompt.sampler.{name}", low, high)


def _read_biases(value: object) -> tuple[tuple[int, float], ...]:
    name = "prompt.sampler.logit_bias"
    biases = _array(value, name, MAX_BIASED_TOKENS, _read_bias)
    if any(one[0] >= other[0] for one, other in pairwise(biases)):
        raise DecodeError(f"answer record: {name} is not by rising id")
    return biases


def _read_bias(value: object) -> tuple[int, float]:
    name = "prompt.sampler.logit_bias"
    if not isinstance(value, list) or len(value) != 2:
        raise DecodeError(f"answer record: {name} is not made of pairs")
    return _integer(value[0], name, 0, _U32_MAX), _number(value[1], name, -MAX_BIAS, MAX_BIAS)


def _object(value: object, name: str) -> _Object:
    if not isinstance(value, dict):
        raise DecodeError(f"answer record: {name} is not an object")
    return value


def _expect_keys(fields: _Object, name: str, expected: AbstractSet[str]) -> None:
    if fields.keys() != expected:
        wrong = ", ".join(sorted(key[:_MAX_NAME_CHARACTERS] for key in fields.keys() ^ expected))
        raise DecodeError(f"answer record: {name} has missing or unknown fields: {wrong}")


def _array(value: object, name: str, max_length: int, read: Callable[[object], _T]) -> tuple[_T, ...]:
    if not isinstance(value, list) or len(value) > max_length:
        raise DecodeError(f"answer record: {name} is not an array, or too long")
    return tuple(read(item) for item in value)


def _text(value: object, name: str, max_characters: int) -> str:
    if not isinstance(value, str) or len(value) > max_characters:
        raise DecodeError(f"answer record: {name} is not a text, or too long")
    try:
        value.encode("utf-8")  # an escaped lone surrogate is valid JSON, but no text
    except UnicodeEncodeError as error:
        raise DecodeError(f"answer record: {name} is not Unicode text") from error
    return value


def _integer(value: object, name: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise DecodeError(f"answer record: {name} is not an integer of {low} to {high}")
    return value


def _number(value: object, name: str, low: float, high: float) -> float:
    # A person may well write 1 for 1.0.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise DecodeError(f"answer record: {name} is not a number of {low:g} to {high:g}")
    return float(value) + 0.0  # -0.0 is 0.0


def _hex(value: object, name: str, size: int) -> bytes:
    try:
        found = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        found = b""
    if len(found) != size:
        raise DecodeError(f"answer record: {name} is not {size} bytes in hexadecimal")
    return found


def _base64(value: object, name: str, max_bytes: int) -> bytes:
    try:
        if isinstance(value, str) and len(value) <= 2 * max_bytes:
            return base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        pass
    raise DecodeError(f"answer record: {name} is not base64, or too long")
