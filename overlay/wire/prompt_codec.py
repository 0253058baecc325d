"""The message M that cloves carry: a PromptMessage as bytes, padded to one of a few sizes.

`length 4 | record | zeros`; the whole is 1, 1.5, 2, 3, 4, 6, 8, 12, 16, ... KiB, so that its length says
little (`docs/spec/prompt.md`).
"""

from typing import Literal, cast

from crypto.errors import DecodeError
from crypto.identity import NodeId
from overlay.errors import LocalProtocolError
from overlay.wire.limits import MAX_PATHS, MAX_PROMPT_BYTES
from overlay.wire.prompt import (
    HIGHEST_REPETITION_PENALTY,
    LOWEST_REPETITION_PENALTY,
    MAX_ALTERNATIVES,
    MAX_BIAS,
    MAX_BIASED_TOKENS,
    MAX_GIVEN_TOKENS,
    MAX_PENALTY,
    MAX_TOP_K,
    SESSION_BYTES,
    Cache,
    ChatMessage,
    Prompt,
    PromptMessage,
    ReplyPath,
    SamplerSpec,
    Task,
)
from overlay.wire.records import (
    pack_record,
    pack_token_ids,
    read_array,
    read_fields,
    read_integer,
    read_number,
    read_octets,
    read_text,
    read_token_ids,
    unpack_record,
)

FORMAT = 5
SMALLEST_MESSAGE_BYTES = 1024
MAX_MODEL_BYTES = 128
MAX_CHAT_MESSAGES = 1024
MAX_TEMPERATURE = 2.0
MAX_COMPLETION_TOKENS = 1 << 17
MAX_LOGPROBS_TOLD = 1 << 17
"""In one answer: with more, its events could outgrow the stream that carries them."""
MAX_STOPS = 8
MAX_STOP_BYTES = 256
NONCE_BYTES = 32
SECRET_BYTES = 32
TOKEN_BYTES = 16
TASK_FIELDS = 9
_LENGTH_BYTES = 4
_U32_MAX = (1 << 32) - 1
_U64_MAX = (1 << 64) - 1
ROLES = ("system", "user", "assistant")
FORWARDS = ("none", "group")
CACHES = ("none", "session", "public")


def padded_size(length: int) -> int:
    """The smallest size of the row 1, 1.5, 2, 3, 4, 6, ... KiB that is at least `length` bytes."""
    size = SMALLEST_MESSAGE_BYTES
    while size < length:
        size = size * 3 // 2 if size.bit_count() == 1 else size * 4 // 3
    return size


def encode_prompt_message(message: PromptMessage) -> bytes:
    """Returns M. Raises LocalProtocolError if a value is out of bounds or the prompt is too long."""
    record = pack_record(_fields_of(message))
    size = padded_size(_LENGTH_BYTES + len(record))
    if size > MAX_PROMPT_BYTES:
        limit = MAX_PROMPT_BYTES // 1024
        raise LocalProtocolError(
            f"the prompt is too long: {len(record)} bytes, at most {limit} KiB can be sent"
        )
    data = (len(record).to_bytes(_LENGTH_BYTES, "big") + record).ljust(size, b"\0")
    try:
        decode_prompt_message(data)
    except DecodeError as error:
        raise LocalProtocolError(f"this prompt can't be sent: {error}") from error
    return data


def decode_prompt_message(data: bytes) -> PromptMessage:
    """Reads M. Raises DecodeError and nothing else."""
    if len(data) > MAX_PROMPT_BYTES or len(data) != padded_size(len(data)):
        raise DecodeError("prompt: not one of the padded sizes")
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
    if padded_size(end) != len(data) or data.count(0, end) != len(data) - end:
        raise DecodeError("prompt: bad padding")
    return _read_message(unpack_record(data[_LENGTH_BYTES:end]))


def _fields_of(message: PromptMessage) -> tuple[object, ...]:
    prompt = message.prompt
    return (
        FORMAT,
        prompt.model,
        tuple((turn.role, turn.content) for turn in prompt.messages),
        prompt.text,
        _sampler_fields(prompt.sampler),
        prompt.nonce,
        message.expires_unix,
        message.response_secret,
        message.blinding,
        tuple((path.proxy, path.token) for path in message.paths),
        message.k,
        message.forward,
        message.cache,
        message.session,
        pack_token_ids(message.given),
    )


def task_fields(task: Task) -> tuple[object, ...]:
    """A task as elements of a record."""
    prompt = task.prompt
    return (
        prompt.model,
        tuple((turn.role, turn.content) for turn in prompt.messages),
        prompt.text,
        _sampler_fields(prompt.sampler),
        prompt.nonce,
        task.blinding,
        task.cache,
        task.session,
        pack_token_ids(task.given),
    )


def read_task_fields(fields: list[object]) -> Task:
    """Reads what `task_fields` gives. Raises DecodeError."""
    model, turns, text, sampler, nonce, blinding, cache, session, given = read_fields(fields, TASK_FIELDS)
    return Task(
        prompt=_read_prompt(model, turns, text, sampler, nonce),
        blinding=read_octets(blinding, SECRET_BYTES, SECRET_BYTES),
        cache=cast("Cache", _read_choice(cache, CACHES)),
        session=_read_session(session, cache),
        given=read_token_ids(given, MAX_GIVEN_TOKENS),
    )


def _sampler_fields(sampler: SamplerSpec) -> tuple[object, ...]:
    return (
        float(sampler.temperature),
        float(sampler.top_p),
        sampler.top_k,
        sampler.max_tokens,
        sampler.min_tokens,
        float(sampler.repetition_penalty),
        float(sampler.presence_penalty),
        float(sampler.frequency_penalty),
        tuple((token, float(bias)) for token, bias in sampler.logit_bias),
        sampler.stop,
        sampler.logprobs,
    )


def _read_message(fields: list[object]) -> PromptMessage:
    version, model, turns, text, sampler, nonce, *rest = read_fields(fields, 15)
    expires_unix, response_secret, blinding, paths, k, forward, cache, session, given = rest
    read_integer(version, FORMAT, FORMAT)
    reply_paths = tuple(read_reply_path(path) for path in read_array(paths, MAX_PATHS))
    return PromptMessage(
        prompt=_read_prompt(model, turns, text, sampler, nonce),
        expires_unix=read_integer(expires_unix, 0, _U64_MAX),
        response_secret=read_octets(response_secret, SECRET_BYTES, SECRET_BYTES),
        blinding=read_octets(blinding, SECRET_BYTES, SECRET_BYTES),
        paths=reply_paths,
        k=read_integer(k, 1, len(reply_paths)),
        forward=cast("Literal['none', 'group']", _read_choice(forward, FORWARDS)),
        cache=cast("Cache", _read_choice(cache, CACHES)),
        session=_read_session(session, cache),
        given=read_token_ids(given, MAX_GIVEN_TOKENS),
    )


def _read_session(value: object, cache: object) -> bytes:
    session = read_octets(value, 0, SESSION_BYTES)
    if session and (cache != "session" or len(session) != SESSION_BYTES):
        raise DecodeError("prompt: a session's name where none is due, or of a wrong length")
    return session


def _read_prompt(model: object, turns: object, text: object, sampler: object, nonce: object) -> Prompt:
    messages = tuple(_read_turn(turn) for turn in read_array(turns, MAX_CHAT_MESSAGES))
    if bool(messages) == (text is not None):
        raise DecodeError("prompt: needs either a conversation or a text")
    return Prompt(
        model=read_text(model, 1, MAX_MODEL_BYTES),
        messages=messages,
        text=None if text is None else read_text(text, 1, MAX_PROMPT_BYTES),
        sampler=_read_sampler(sampler),
        nonce=read_octets(nonce, NONCE_BYTES, NONCE_BYTES),
    )


def _read_turn(value: object) -> ChatMessage:
    role, content = read_fields(value, 2)
    return ChatMessage(_read_choice(role, ROLES), read_text(content, 0, MAX_PROMPT_BYTES))


def _read_sampler(value: object) -> SamplerSpec:
    temperature, top_p, top_k, max_tokens, min_tokens, *rest = read_fields(value, 11)
    repetition, presence, frequency, logit_bias, stop, logprobs = rest
    most = read_integer(max_tokens, 1, MAX_COMPLETION_TOKENS)
    return SamplerSpec(
        temperature=read_number(temperature, 0.0, MAX_TEMPERATURE),
        top_p=read_number(top_p, 0.0, 1.0),
        top_k=read_integer(top_k, 1, MAX_TOP_K),
        max_tokens=most,
        min_tokens=read_integer(min_tokens, 0, most),
        repetition_penalty=read_number(repetition, LOWEST_REPETITION_PENALTY, HIGHEST_REPETITION_PENALTY),
        presence_penalty=read_number(presence, -MAX_PENALTY, MAX_PENALTY),
        frequency_penalty=read_number(frequency, -MAX_PENALTY, MAX_PENALTY),
        logit_bias=_read_biases(logit_bias),
        stop=tuple(read_text(text, 1, MAX_STOP_BYTES) for text in read_array(stop, MAX_STOPS)),
        logprobs=_read_logprobs(logprobs, most),
    )


def _read_biases(value: object) -> tuple[tuple[int, float], ...]:
    biases, lowest = [], 0
    for pair in read_array(value, MAX_BIASED_TOKENS):
        token, bias = read_fields(pair, 2)
        biases.append((read_integer(token, lowest, _U32_MAX), read_number(bias, -MAX_BIAS, MAX_BIAS)))
        lowest = biases[-1][0] + 1  # by rising id, none twice
    return tuple(biases)


def _read_logprobs(value: object, max_tokens: int) -> int | None:
    if value is None:
        return None
    return read_integer(value, 0, min(MAX_ALTERNATIVES, MAX_LOGPROBS_TOLD // max_tokens - 1))


def read_reply_path(value: object) -> ReplyPath:
    """A proxy's node id and a reply token."""
    proxy, token = read_fields(value, 2)
    return ReplyPath(NodeId(read_octets(proxy, 32, 32)), read_octets(token, TOKEN_BYTES, TOKEN_BYTES))


def _read_choice(value: object, choices: tuple[str, ...]) -> str:
    if type(value) is not str or value not in choices:
        raise DecodeError("prompt: an unknown word where one of a few is due")
    return value
