"""How late the daemon's loop is: what a timer that is due has to wait for everything that runs before it.

All of a daemon is one loop on one thread. Whatever holds it up (a computation, a library that blocks, a machine with
too much to do) holds up every link and every answer, and shows here first.
"""

from collections.abc import Callable

import trio

LOOK_S = 0.2


async def watch_loop(observe: Callable[[float], object], look_s: float = LOOK_S) -> None:
    """Tell how many seconds late a timer was, every look_s, for ever."""
    while True:
        due = trio.current_time() + look_s
        await trio.sleep_until(due)
        observe(max(0.0, trio.current_time() - due))
