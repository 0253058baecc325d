"""Holds other processes to a share of a core each, so that engines on few cores do not measure each other.

    python -m benchmarks.forwarding.cpu_cap SHARE PID...

Each process earns SHARE of the time that passes and spends the CPU time that all its threads take. It is stopped
(SIGSTOP) once it has nothing left and goes on (SIGCONT) with half of what it may save, so at .4 it runs 17 ms in
every 42. This needs no rights and leaves no traces, unlike a control group, and CPU time is read to the nanosecond,
unlike in /proc. It ends, and lets all of them go on, when its input does.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

ROOT = Path(__file__).parents[2]
LOOK_S = 0.003
PERIOD_S = 0.05
"""A process may save up its share of so long."""


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, all threads together. Raises OSError where it is gone."""
    return time.clock_gettime(
        (~pid << 3) | 2
    )  # the clock's number as clock_getcpuclockid(3) makes it on Linux


class Account:
    """What one process has earned and spent, in CPU seconds."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._most = share * PERIOD_S
        self._left = self._most
        self._spent: float | None = None
        self.is_stopped = False

    def note(self, passed_s: float, spent: float) -> bool:
        """So much time has passed and so much was spent in all; whether it should be stopped now."""
        before = spent if self._spent is None else self._spent
        self._spent = spent
        self._left = min(self._most, self._left + self._share * passed_s - (spent - before))
        if self._left <= 0:
            self.is_stopped = True
        elif self._left >= self._most / 2:
            self.is_stopped = False
        return self.is_stopped


def hold(share: float, pids: Sequence[int]) -> None:
    """Hold these processes to the share until our input ends."""
    accounts = {pid: Account(share) for pid in pids}
    looked = time.perf_counter()
    try:
        while accounts and not select.select([sys.stdin], [], [], LOOK_S)[0]:
            now = time.perf_counter()
            for pid, account in list(accounts.items()):
                was_stopped = account.is_stopped
                try:
                    if account.note(now - looked, cpu_s(pid)) != was_stopped:
                        os.kill(pid, signal.SIGCONT if was_stopped else signal.SIGSTOP)
                except OSError:
                    del accounts[pid]  # it is gone
            looked = now
    finally:
        for pid in accounts:
            with suppress(OSError):
                os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def held_to(share: float, pids: Sequence[int]) -> AsyncGenerator[None, None]:
    """Hold these processes to the share meanwhile, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.forwarding.cpu_cap", str(share), *map(str, pids)]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, cwd=ROOT)
    try:
        yield
        if process.poll() is not None:
            raise RuntimeError("the engines were not held to their share: what held them has ended")
    finally:
        with trio.CancelScope(shield=True):
            if process.stdin is not None:
                await process.stdin.aclose()
            await process.wait()


if __name__ == "__main__":
    hold(float(sys.argv[1]), [int(pid) for pid in sys.argv[2:]])
