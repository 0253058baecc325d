"""How much of something a neighbour may have: a bucket that fills at a steady rate."""


class RateBucket:
    """Holds at most `burst`, starts full and gains `per_s` a second."""

    __slots__ = ("_burst", "_filled_at", "_level", "_per_s")

    def __init__(self, *, burst: float, per_s: float, now: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._level = burst
        self._filled_at = now

    def available(self, now: float) -> int:
        """How many whole units are in it."""
        self._level = min(self._burst, self._level + max(0.0, now - self._filled_at) * self._per_s)
        self._filled_at = now
        return int(self._level)

    def take(self, count: int, now: float) -> bool:
        """Takes `count` units; False, and takes none, when there are fewer."""
        if self.available(now) < count:
            return False
        self._level -= count
        return True
