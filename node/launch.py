"""Starts a daemon in this process: configuration, logs, the home's lock, then `node.daemon`."""

import contextlib
import errno
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import trio

from node.config import load_config
from node.daemon import run
from node.errors import AddressInUseError, NodeError
from node.home import Home
from node.logs import configure_logs

_EXPLAINED = {errno.EACCES, errno.EADDRNOTAVAIL, errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EMFILE}
"""What the system refuses for reasons that its own words explain; anything else is shown with its traceback."""


def launch(home: Path | None, flags: Mapping[str, object]) -> None:
    """Run the daemon of a home until it is told to end.

    Raises:
        NodeError: bad configuration, unusable home, a second daemon on it, an address in use.
    """
    # For one prompt at a time a tokenizer's pool of threads is no use, and it would complain of every fork after it.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    place = Home.locate(home)
    config = load_config(place.config_file, flags)
    configure_logs(config.logging)
    with place.lock():
        place.unpublish()
        try:
            with _stoppable_early(), _explained():
                trio.run(run, config, place)
        finally:
            place.unpublish()


@contextlib.contextmanager
def _stoppable_early() -> Iterator[None]:
    """SIGTERM ends a daemon that is only starting, before it listens for signals itself, in order too.

    It becomes the interrupt of Ctrl-C, which trio delivers where it is safe.
    """
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    except* KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """What the operating system refuses at start is said in a sentence, not in a page of nurseries."""
    try:
        yield
    except (OSError, BaseExceptionGroup) as error:
        cause: BaseException = error
        while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
            cause = cause.exceptions[0]
        if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
            raise AddressInUseError(
                cause.strerror or str(cause), "choose another: clove up --listen /ip4/0.0.0.0/tcp/0"
            ) from None
        if isinstance(cause, OSError) and cause.errno in _EXPLAINED:
            raise NodeError(str(cause)) from None
        raise
