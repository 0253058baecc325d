"""Which tokens the next step computes. Pure: no torch, no clock.

Continuous batching: requests join and leave between steps. A step decodes one token of every running answer and reads
a bounded chunk of the oldest unread prompt, so that a long prompt does not hold up the others' tokens. A sequence is
admitted first come, first served, when there is a place in the batch and room for all the keys and values it may come
to need; so nothing that runs is ever thrown out again.
"""

from collections import deque
from dataclasses import dataclass

from node.engine.sequence import Chunk, Sequence


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """sequences and cache_tokens bound what runs at once; the chunks bound the prompt tokens of one step."""

    sequences: int = 8
    cache_tokens: int = 1 << 15
    prefill_tokens: int = 512
    mixed_prefill_tokens: int = 96


class Scheduler:
    """Waiting and running sequences of one model."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []

    @property
    def is_idle(self) -> bool:
        """There is nothing to compute."""
        return not (self._waiting or self._running)

    @property
    def reserved_tokens(self) -> int:
        """Cache positions promised to running sequences."""
        return sum(sequence.capacity for sequence in self._running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Its capacity must fit the cache by itself."""
        if sequence.capacity > self._limits.cache_tokens:
            raise ValueError(f"capacity {sequence.capacity} exceeds the cache's {self._limits.cache_tokens}")
        self._waiting.append(sequence)

    def remove(self, request: int) -> Sequence | None:
        """Take a request out, running or waiting; its place is free at once."""
        for queue in (self._running, self._waiting):
            for sequence in queue:
                if sequence.request == request:
                    queue.remove(sequence)
                    return sequence
        return None

    def plan(self) -> list[Chunk]:
        """The chunks of the next step: decodes first, then prompts, oldest first."""
        self._admit()
        decodes = [
            Chunk(sequence, sequence.computed, 1) for sequence in self._running if _is_decoding(sequence)
        ]
        budget = self._limits.mixed_prefill_tokens if decodes else self._limits.prefill_tokens
        return decodes + self._prefills(budget)

    def _admit(self) -> None:
        reserved = self.reserved_tokens
        while self._waiting and len(self._running) < self._limits.sequences:
            reserved += self._waiting[0].capacity
            if reserved > self._limits.cache_tokens:
                return
            self._running.append(self._waiting.popleft())

    def _prefills(self, budget: int) -> list[Chunk]:
        chunks: list[Chunk] = []
        for sequence in self._running:
            if _is_decoding(sequence) or budget <= 0:
                continue
            count = min(sequence.length - sequence.computed, budget)
            chunks.append(Chunk(sequence, sequence.computed, count))
            budget -= count
        return chunks


def _is_decoding(sequence: Sequence) -> bool:
    return bool(sequence.output_ids) and sequence.computed == sequence.length - 1
