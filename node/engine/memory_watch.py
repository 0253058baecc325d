"""Notices a worker whose memory grows without end, before the system kills something else for it."""

from node.engine.memory import ProcessMemory

_MIB = 1 << 20


class MemoryWatch:
    """What one life of the worker may have: what it had when ready, its cache, and `slack` over that.

    Only its own memory counts: the weights are mapped from files, come in as they are read, and can be dropped.
    """

    def __init__(self, cache_bytes: int, slack_bytes: int) -> None:
        self._allowance = cache_bytes + slack_bytes
        self._slack = slack_bytes
        self._bound: int | None = None
        self.seen: ProcessMemory | None = None

    def note(self, memory: ProcessMemory | None, *, is_ready: bool) -> str | None:
        """Take a reading; why the worker must go, if it must. The first one once it is ready sets the bound."""
        self.seen = memory
        if memory is None or not is_ready:
            return None
        if self._bound is None:
            self._bound = memory.own + self._allowance
        if memory.own <= self._bound:
            return None
        return (
            f"its memory grew to {memory.own // _MIB} MiB, over the {self._bound // _MIB} MiB that it may have "
            f"(engine.memory_slack_mb is {self._slack // _MIB}), and it was killed"
        )
