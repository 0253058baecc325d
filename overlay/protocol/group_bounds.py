"""What one member of a group may still make us do: as a neighbour, and as the origin of entries and reports."""

from overlay.protocol.rate import RateBucket
from overlay.wire.group import LogEntry
from overlay.wire.limits import (
    ENTRY_COST,
    GROUP_RECEIVE_BURST_BYTES,
    GROUP_RECEIVE_BYTES_PER_S,
    GROUP_SEND_BURST_BYTES,
    GROUP_SEND_BYTES_PER_S,
    LOAD_BURST,
    LOADS_PER_S,
    LOG_BASE_BURST,
    LOG_BASES_PER_S,
    LOG_BLOCKS_PER_S,
    LOG_BURST_BLOCKS,
    STANDSTILL_S,
)

NAMING_PERIOD_S = 60.0


class MemberBounds:
    """The rates of one member, whether its log stands still, and for what it was named of late."""

    __slots__ = ("_bases", "_blocks", "_named_at", "_still_until", "loads", "received", "sent")

    def __init__(self, now: float) -> None:
        self.sent = RateBucket(burst=GROUP_SEND_BURST_BYTES, per_s=GROUP_SEND_BYTES_PER_S, now=now)
        self.received = RateBucket(burst=GROUP_RECEIVE_BURST_BYTES, per_s=GROUP_RECEIVE_BYTES_PER_S, now=now)
        self.loads = RateBucket(burst=LOAD_BURST, per_s=LOADS_PER_S, now=now)
        self._blocks = RateBucket(burst=LOG_BURST_BLOCKS, per_s=LOG_BLOCKS_PER_S, now=now)
        self._bases = RateBucket(burst=LOG_BASE_BURST, per_s=LOG_BASES_PER_S, now=now)
        self._still_until: float | None = None
        self._named_at: dict[str, float] = {}

    def takes_entry(self, entry: LogEntry, now: float) -> bool:
        """Whether its log may grow by this one. If not, it stands still for a while."""
        is_base = entry.seq == entry.base
        if (is_base and not self._bases.take(1, now)) or not self._blocks.take(
            entry.block_count + ENTRY_COST, now
        ):
            self.stand_still(now)
            return False
        return True

    def stand_still(self, now: float) -> None:
        """Take nothing of its log for a while, and ask for nothing."""
        self._still_until = now + STANDSTILL_S

    def stands_still(self, now: float) -> bool:
        """Whether nothing of its log is taken now."""
        return self._still_until is not None and now < self._still_until

    def may_name(self, reason: str, now: float) -> bool:
        """Whether it was not named for this within the last period; it is now."""
        named_at = self._named_at.get(reason)
        if named_at is not None and now < named_at + NAMING_PERIOD_S:
            return False
        self._named_at[reason] = now
        return True
