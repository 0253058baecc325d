"""One loop that wakes every machine of a node when its next deadline comes.

Machines say when they want to be woken (`next_deadline`) and what to do then (`handle_deadline`); they never
wait themselves. A machine's owner calls `touched` after each input, so that an earlier deadline moves the
alarm. Effects are performed by the callback, outside the cancel scope that waits: nothing is ever half sent.
"""

from collections.abc import Callable
from typing import Protocol

import trio

from overlay.protocol import deadlines as schedule


class Timed(Protocol):
    """A machine with deadlines, in the seconds of `trio.current_time()`."""

    def next_deadline(self) -> float | None:
        """When to be woken next; None for not at all."""
        ...

    def __hash__(self) -> int:
        """A machine is known by its identity."""
        ...


class Deadlines:
    """Wakes registered machines at their deadlines."""

    def __init__(self) -> None:
        self._wake: dict[Timed, Callable[[float], None]] = {}
        self._due: schedule.Deadlines[Timed] = schedule.Deadlines()
        self._armed = float("inf")
        self._changed = trio.Event()

    @property
    def machines(self) -> tuple[Timed, ...]:
        """Everything registered."""
        return tuple(self._wake)

    def add(self, machine: Timed, wake: Callable[[float], None]) -> None:
        """Wake `machine` from now on by calling `wake(now)`, which must perform the machine's effects."""
        self._wake[machine] = wake
        self.touched(machine)

    def remove(self, machine: Timed) -> None:
        """Forget `machine`; unknown ones are ignored."""
        self._wake.pop(machine, None)
        self._due.cancel(machine)

    def touched(self, machine: Timed) -> None:
        """Note that `machine` had input: its deadline may be earlier than the one waited for."""
        deadline = machine.next_deadline()
        if deadline is None or machine not in self._wake:
            return
        self._due.schedule(machine, deadline)
        if deadline < self._armed:
            self._armed = deadline
            self._changed.set()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled."""
        task_status.started()
        while True:
            self._changed = trio.Event()
            first = self._due.next_deadline()
            self._armed = float("inf") if first is None else first
            with trio.move_on_at(self._armed):
                await self._changed.wait()
            self._fire(trio.current_time())

    def _fire(self, now: float) -> None:
        for machine in self._due.pop_due(now):
            deadline = machine.next_deadline()
            if deadline is not None and deadline <= now and machine in self._wake:
                self._wake[machine](now)
            self.touched(machine)
