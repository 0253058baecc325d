"""Who may have a circuit built, before any Diffie-Hellman is spent on it: rate per neighbour, and replays."""

from crypto.identity import NodeId
from overlay.wire.limits import (
    BUILD_BURST,
    BUILDS_PER_S,
    MAX_RATED_NEIGHBOURS,
    MAX_REPLAY_ENTRIES,
    REPLAY_GENERATION_S,
)


class BuildRate:
    """A token bucket per neighbour. Outlives the link, so reconnecting earns nobody a fresh burst."""

    def __init__(self) -> None:
        self._buckets: dict[NodeId, tuple[float, float]] = {}

    def admit(self, neighbour: NodeId, now: float) -> bool:
        """Take one build from the neighbour's bucket; False when it is empty."""
        tokens, since = self._buckets.get(neighbour, (float(BUILD_BURST), now))
        tokens = min(BUILD_BURST, tokens + (now - since) * BUILDS_PER_S)
        if neighbour not in self._buckets and not self._make_room(now):
            return False
        admitted = tokens >= 1
        self._buckets[neighbour] = (tokens - 1 if admitted else tokens, now)
        return admitted

    def _make_room(self, now: float) -> bool:
        """Forget full buckets: they say no more than none does."""
        if len(self._buckets) >= MAX_RATED_NEIGHBOURS:
            refilled_after_s = BUILD_BURST / BUILDS_PER_S
            self._buckets = {
                neighbour: bucket
                for neighbour, bucket in self._buckets.items()
                if now - bucket[1] < refilled_after_s
            }
        return len(self._buckets) < MAX_RATED_NEIGHBOURS


class ReplayCache:
    """The ephemerals of accepted build records, each kept for at least one generation.

    Two generations of sets instead of a time per entry: a third of the memory, and forgetting is free.
    When full it refuses everything: forgetting early would let replays in.
    """

    def __init__(self) -> None:
        self._current: set[bytes] = set()
        self._previous: set[bytes] = set()
        self._rotates_at: float | None = None

    @property
    def is_full(self) -> bool:
        """Whether no more builds may be accepted in this generation."""
        return len(self._current) >= MAX_REPLAY_ENTRIES // 2

    def rotate(self, now: float) -> None:
        """Forget what is too old to be replayed. Call it before any look."""
        if self._rotates_at is None:
            self._rotates_at = now + REPLAY_GENERATION_S
        if now < self._rotates_at:
            return
        stale = now >= self._rotates_at + REPLAY_GENERATION_S
        self._previous = set() if stale else self._current
        self._current = set()
        self._rotates_at = now + REPLAY_GENERATION_S

    def __contains__(self, ephemeral: bytes) -> bool:
        return ephemeral in self._current or ephemeral in self._previous

    def __len__(self) -> int:
        return len(self._current) + len(self._previous)

    def add(self, ephemeral: bytes) -> None:
        """Remember an accepted record's ephemeral."""
        self._current.add(ephemeral)
