"""Deadlines of many things, where most only ever move later.

A circuit is touched by every cell, so its idle deadline moves with every cell. Nothing is reordered then: the
heap keeps the earliest time ever asked for, and whoever pops an entry asks the thing itself and schedules it
again.
"""

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_SLACK = 64


class Deadlines(Generic[K]):
    """The next time at which each key wants to be looked at. Never later than it should be; maybe earlier."""

    def __init__(self) -> None:
        self._due: dict[K, float] = {}
        # The number breaks ties, since keys need not be ordered.
        self._heap: list[tuple[float, int, K]] = []
        self._pushed = 0

    def schedule(self, key: K, at: float) -> None:
        """Look at `key` at `at`, unless it is to be looked at earlier anyway."""
        due = self._due.get(key)
        if due is not None and due <= at:
            return
        self._due[key] = at
        self._pushed += 1
        heapq.heappush(self._heap, (at, self._pushed, key))
        if len(self._heap) > 2 * len(self._due) + _SLACK:
            self._compact()

    def cancel(self, key: K) -> None:
        """Forget `key`."""
        self._due.pop(key, None)

    def next_deadline(self) -> float | None:
        """Return the earliest time at which `pop_due` may return something."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> list[K]:
        """Remove and return what is due; the caller schedules again what lives on."""
        due = []
        self._drop_stale()
        while self._heap and self._heap[0][0] <= now:
            key = heapq.heappop(self._heap)[2]
            del self._due[key]
            due.append(key)
            self._drop_stale()
        return due

    def _drop_stale(self) -> None:
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)

    def _compact(self) -> None:
        self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
        heapq.heapify(self._heap)
