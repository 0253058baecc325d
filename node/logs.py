"""Logs: structlog and the standard library's loggers through one redacting handler on stderr, text or JSON.

Info is rare. Never in a log: keys, prompts, completions, or two hops of one path in one line. Redaction is
the net under that rule, not the rule: values under telling names are replaced and raw bytes are cut short.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor

from node.config import LoggingConfig

REDACTED = "[redacted]"
_SECRET_WORDS = (
    "prompt",
    "messages",
    "content",
    "completion",
    "text",
    "token_id",
    "secret",
    "password",
    "nonce",
    "seed",
    "authorization",
    "api_key",
    "private",
    "admin_token",
    "reply_token",
)
_SECRET_NAMES = frozenset({"key", "token", "answer", "body", "share", "fragment"})
_COUNT_SUFFIXES = ("_count", "_bytes", "_tokens", "_s")
_SHOWN_BYTES = 4
_NOISY = ("libp2p", "hypercorn", "httpx", "httpcore", "multiaddr", "zeroconf", "urllib3", "transformers")


def configure_logs(config: LoggingConfig, stream: TextIO | None = None) -> None:
    """Set up logging for this process; stream is stderr unless given.

    Call it before libp2p is imported or after, both work: libp2p's import cuts its logger off from the root
    and leaves it without a handler; records that find no handler go to `logging.lastResort`, ours too.
    """
    out = stream or sys.stderr
    as_text = config.format == "text" or (config.format == "auto" and out.isatty())
    level = getattr(logging, config.level.upper())
    handler = logging.StreamHandler(out)
    handler.setFormatter(_formatter(as_text=as_text, colors=out.isatty()))
    handler.addFilter(_LibraryFilter(verbose=config.level == "debug"))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    logging.lastResort = handler
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[*_shared(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: hide values under telling names, at any depth, and cut raw bytes short."""
    return {name: value if name == "event" else _redacted(name, value) for name, value in event.items()}


def _redacted(name: str, value: object) -> object:
    if _is_telling(name):
        return REDACTED
    if isinstance(value, MutableMapping):
        return {key: _redacted(str(key), inner) for key, inner in value.items()}
    if isinstance(value, bytes | bytearray | memoryview):
        raw = bytes(value)
        return raw[:_SHOWN_BYTES].hex() + ("…" if len(raw) > _SHOWN_BYTES else "")
    if isinstance(value, list | tuple):
        return [_redacted("", inner) for inner in value]
    return value


def _is_telling(name: str) -> bool:
    lowered = name.lower()
    if lowered.endswith(_COUNT_SUFFIXES):
        return False
    return lowered in _SECRET_NAMES or any(word in lowered for word in _SECRET_WORDS)


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]


def _formatter(*, as_text: bool, colors: bool) -> logging.Formatter:
    rendering: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if as_text:
        plain = structlog.dev.plain_traceback
        rendering.append(
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain, pad_event_to=0)
        )
    else:
        rendering += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*_shared(), structlog.stdlib.add_logger_name], processors=rendering
    )


class _LibraryFilter(logging.Filter):
    """Libraries report a peer's ordinary departure as warnings or long errors: drop, or cut to a line."""

    def __init__(self, *, verbose: bool) -> None:
        super().__init__()
        self._verbose = verbose

    def filter(self, record: logging.LogRecord) -> bool:
        if self._verbose or record.name.partition(".")[0] not in _NOISY:
            return True
        if record.levelno < logging.ERROR:
            return False
        record.msg = record.getMessage().splitlines()[0][:200] if record.getMessage() else ""
        record.args = ()
        record.exc_info = None
        return True


def get_logger(room: str) -> structlog.typing.FilteringBoundLogger:
    """A logger that says which part of the daemon speaks."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(room=room)
    return logger
