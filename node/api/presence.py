"""Runs the work of one request for as long as its client is there."""

from collections.abc import Awaitable, Callable

import trio
from starlette.types import Receive


async def while_present(receive: Receive, work: Callable[[], Awaitable[None]]) -> bool:
    """Run `work`; when the client goes away first, cancel it. Says whether the work came to its end.

    The body must have been read: from then on the server has nothing to receive but the disconnect.
    """
    finished = False
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        await work()
        finished = True
        nursery.cancel_scope.cancel()
    return finished
