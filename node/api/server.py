"""Serves the API with Hypercorn inside the daemon's own trio loop."""

import errno
import socket
from collections.abc import Awaitable, Callable

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio import serve as hypercorn_serve
from starlette.types import ASGIApp

from node.config import ApiConfig
from node.errors import AddressInUseError

_BACKLOG = 128
_DRAIN_S = 3.0
_KEEP_ALIVE_S = 30.0
_MAX_HEADER_BYTES = 32 * 1024


async def serve_api(
    app: ASGIApp,
    config: ApiConfig,
    stop: Callable[[], Awaitable[None]],
    *,
    drain_s: float = _DRAIN_S,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop()` returns, then give open requests `drain_s`. Reports the base URL it listens on.

    Raises:
        AddressInUseError: something else listens there.
    """
    listener = _bind(config.host, config.port)
    url = _url(config.host, listener)
    server = _server_config(listener.detach(), drain_s)

    async with trio.open_nursery() as nursery:
        await nursery.start(_serve, app, server, stop)
        task_status.started(url)


async def _serve(
    app: ASGIApp,
    server: HypercornConfig,
    stop: Callable[[], Awaitable[None]],
    *,
    task_status: trio.TaskStatus[list[str]],
) -> None:
    await hypercorn_serve(app, server, shutdown_trigger=stop, task_status=task_status, mode="asgi")  # type: ignore[arg-type]


def _server_config(descriptor: int, drain_s: float) -> HypercornConfig:
    server = HypercornConfig()
    server.bind = [f"fd://{descriptor}"]
    server.graceful_timeout = drain_s
    server.keep_alive_timeout = _KEEP_ALIVE_S
    server.include_server_header = False
    server.accesslog = server.errorlog = None
    server.h11_max_incomplete_size = _MAX_HEADER_BYTES
    return server


def _bind(host: str, port: int) -> socket.socket:
    # Bound here and not by Hypercorn: port 0 must be known before the first request, and a clash must say so.
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            message = f"the API's address {host}:{port} is in use"
            raise AddressInUseError(message, "choose another: clove up --api-port 0") from None
        raise AddressInUseError(f"the API can't listen on {host}:{port}: {error.strerror}") from None
    return listener


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- compared, not bound
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
