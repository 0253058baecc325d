"""The daemon's clocks: the one place that reads the time, so that everything else takes it as an argument."""

import time
from typing import Protocol

import trio

from crypto.checkable import CLOCK_SKEW_S


class Clock(Protocol):
    """Monotonic time for deadlines, wall time for what leaves this machine."""

    def now(self) -> float:
        """Seconds on trio's clock; only differences mean something."""
        ...

    def unix_time(self) -> float:
        """Seconds since 1970 by this machine's wall clock."""
        ...


class SystemClock:
    """The real one. `now` needs a running trio loop and follows its autojump clock in simulations."""

    __slots__ = ()

    def now(self) -> float:
        """Seconds on trio's clock."""
        return trio.current_time()

    def unix_time(self) -> float:
        """Seconds since 1970."""
        return unix_time()


def unix_time() -> float:
    """Wall time for code outside the daemon's loop: commands, the launcher."""
    return time.time()  # noqa: TID251 -- this module is where it is wrapped


def monotonic() -> float:
    """Monotonic seconds for code outside the daemon's loop: commands, the launcher."""
    return time.monotonic()  # noqa: TID251 -- this module is where it is wrapped


def explain_apart(ahead_s: int | None) -> list[str]:
    """A sentence where a clock is so far from the neighbours' that they don't take what is dated by it; else none.

    ahead_s: of `Links.clock_ahead_s`.
    """
    if ahead_s is None or abs(ahead_s) <= CLOCK_SKEW_S:
        return []
    return [f"its clock is {describe_apart(ahead_s)}"]


def describe_apart(ahead_s: int) -> str:
    """How far a clock is from the neighbours', for people."""
    return f"{abs(ahead_s)} s {'ahead of' if ahead_s > 0 else 'behind'} its neighbours'"
