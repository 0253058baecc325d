"""What daemon and worker say to each other: frames over a pair of pipes.

A frame is a length (u32 big-endian) and a msgpack record of one of the dataclasses below. Both ends are the same
installation, started together, so there is no versioning; a frame that doesn't decode means that the worker is broken
and must go.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields

import msgpack

from node.engine import errors
from node.engine.events import (
    CacheReport,
    CacheScope,
    EngineEvent,
    EngineLoad,
    GenerationFinished,
    ModelCard,
    PromptPrefilled,
    Replay,
    TokensDecoded,
)
from node.engine.settings import EngineSettings
from overlay.wire.answer import RankedToken, TokenLogprobs
from overlay.wire.prompt import ChatMessage, ModelId, Prompt, SamplerSpec

MAX_FRAME_BYTES = 16 << 20
_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class Configure:
    """First frame to a worker: load the models in these folders."""

    folders: tuple[str, ...]
    settings: EngineSettings


@dataclass(frozen=True, slots=True)
class Submit:
    """Answer a prompt or, with forced_ids, score the answer given. session: whose cache "session" means.

    given_ids: with them the answer begins; only what follows is wanted.
    """

    request: int
    model_id: ModelId
    prompt: Prompt
    cache: CacheScope = "session"
    session: bytes = b""
    forced_ids: tuple[int, ...] | None = None
    given_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Cancel:
    """Forget a request."""

    request: int


@dataclass(frozen=True, slots=True)
class ReportCache:
    """Tell which public blocks a model has, in names under a group key, and then what changes.

    key: b"" means no more of it.
    """

    model_id: ModelId
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ready:
    """The models are loaded."""

    cards: tuple[ModelCard, ...]
    load_s: float


@dataclass(frozen=True, slots=True)
class Told:
    """News of a request."""

    request: int
    event: EngineEvent | Replay


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """An EngineError on its way through the pipe."""

    kind: str
    arguments: tuple[str | int | float | None, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """A request can't be done."""

    request: int
    error: ErrorReport


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The worker can't start; it ends."""

    error: ErrorReport


@dataclass(frozen=True, slots=True)
class Beat:
    """Commands were taken, or a step that had nothing to tell is done: the worker lives."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """How busy a model is. taken: the last request that was submitted to it before this was said."""

    load: EngineLoad
    taken: int


Command = Configure | Submit | Cancel | ReportCache
Report = Ready | Told | Refused | LoadFailed | Beat | LoadReport | CacheReport

_KINDS: tuple[type, ...] = (
    *(Configure, Submit, Cancel, Ready, Told, ErrorReport, Refused, LoadFailed, Beat),
    *(EngineSettings, ModelCard, PromptPrefilled, TokensDecoded, GenerationFinished, Replay),
    *(Prompt, ChatMessage, SamplerSpec, EngineLoad, LoadReport, ReportCache, CacheReport),
    *(Prompt, ChatMessage, SamplerSpec, TokenLogprobs, RankedToken),
)
_CODES = {kind: code for code, kind in enumerate(_KINDS)}
_NAMES = tuple(tuple(field.name for field in fields(kind)) for kind in _KINDS)


def encode_frame(value: Command | Report) -> bytes:
    """A frame, length and all."""
    body: bytes = msgpack.packb(value, default=_pack)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Command | Report]:
        """The frames that are whole now.

        Raises:
            ValueError: the bytes are no frames.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH_BYTES:
            length = int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes")
            end = _LENGTH_BYTES + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH_BYTES:end])
            del self._buffer[:end]
            yield msgpack.unpackb(body, ext_hook=_unpack, use_list=False)


def report_error(error: errors.EngineError) -> ErrorReport:
    """An error as it travels."""
    match error:
        case errors.PromptTooLongError():
            return ErrorReport("PromptTooLongError", (error.prompt_tokens, error.limit))
        case errors.EngineBusyError():
            return ErrorReport("EngineBusyError", (error.retry_after_s, error.wait_s))
        case errors.ModelDamagedError():
            return ErrorReport("ModelDamagedError", (error.alias, error.file, error.problem))
        case _:
            return ErrorReport(type(error).__name__, (str(error),))


def rebuild_error(report: ErrorReport) -> errors.EngineError:
    """The error that a report stands for."""
    kind: Callable[..., errors.EngineError] = getattr(errors, report.kind)
    return kind(*report.arguments)


def _pack(value: object) -> msgpack.ExtType:
    code = _CODES[type(value)]
    return msgpack.ExtType(
        code, msgpack.packb([getattr(value, name) for name in _NAMES[code]], default=_pack)
    )


def _unpack(code: int, data: bytes) -> object:
    values = msgpack.unpackb(data, ext_hook=_unpack, use_list=False)
    return _KINDS[code](**dict(zip(_NAMES[code], values, strict=True)))
