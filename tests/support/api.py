"""The real API over real HTTP on a free port, with any service behind it."""

import contextlib
from collections.abc import AsyncIterator

import trio

from node.api.app import build_app
from node.api.guard import Access
from node.api.ports import Service
from node.api.server import serve_api
from node.clock import SystemClock
from node.config import Config, load_config
from node.metrics import Metrics

ADMIN_TOKEN = "f" * 64
ADMIN = {"Authorization": f"Bearer {ADMIN_TOKEN}"}


def test_config(**flags: object) -> Config:
    return load_config(
        None, {"api.port": 0, **{name.replace("__", "."): value for name, value in flags.items()}}
    )


test_config.__test__ = False


@contextlib.asynccontextmanager
async def served(
    service: Service, config: Config | None = None, metrics: Metrics | None = None
) -> AsyncIterator[str]:
    """The base URL of an API that ends with this context."""
    config = config or test_config()
    loopback = config.api.is_loopback
    access = Access.for_host(config.api.host, loopback=loopback, key=config.api.key, admin_token=ADMIN_TOKEN)
    metrics = metrics or Metrics(version="0", profile="test")
    app = build_app(service, config=config, access=access, metrics=metrics, clock=SystemClock())
    stop = trio.Event()
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[str]) -> None:
            await serve_api(app, config.api, stop.wait, drain_s=1.0, task_status=task_status)

        url = await nursery.start(serve)
        try:
            yield url
        finally:
            stop.set()
