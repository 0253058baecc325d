"""What a member of a group tells of itself: its log and its load, written no more often than others take them.

Changes to the cache are collected until the next `write`, and what came and went in between is not told at all. Where
others would take no more at this rate, the rest waits. A load is told anew only where others would choose otherwise for
it, or after LOAD_S.
"""

from collections.abc import Iterable

from crypto.identity import NodeId
from overlay.protocol.group_log import LogWriter
from overlay.protocol.rate import RateBucket
from overlay.wire.group import BlockHash, GroupId, Known, Load, LoadReport, LogEntry, Speed
from overlay.wire.group_codec import MAX_INCARNATION, Sign, rounded, sign_load, sign_log_entry
from overlay.wire.limits import (
    ENTRY_COST,
    LOG_BASE_BURST,
    LOG_BASES_PER_S,
    LOG_BLOCKS_PER_S,
    MAX_LOG_BLOCKS,
)

LOAD_S = 5.0
"""A load that has not changed is told again after this, so that others see how old it is."""
_BURST_BLOCKS = 8192
"""Changes that are told at once. A base follows 1,536 of them or more, so others take all the bases that come of it."""
_NOTABLE = 1.25
_QUEUED_TOKENS, _ANSWERS, _ANSWER_S = 512, 4, 1.0
"""What is added to both sides before they are compared: two small numbers differ by much and mean the same."""


class Teller:
    """One member's own log and load. See above."""

    def __init__(self, node_id: NodeId, group: GroupId, sign: Sign, incarnation: int, now: float) -> None:
        self._node_id = node_id
        self._group = group
        self._sign = sign
        self._incarnation = incarnation
        self._writer = LogWriter(node_id, incarnation)
        self._pending: dict[BlockHash, bool] = {}
        # A log begins with a base, even of nothing: it makes void what an earlier life told.
        self._must_begin = True
        # Half of what others take a second, since a base may repeat all that was changed.
        self._blocks = RateBucket(burst=_BURST_BLOCKS, per_s=LOG_BLOCKS_PER_S / 2, now=now)
        self._bases = RateBucket(burst=LOG_BASE_BURST / 4, per_s=LOG_BASES_PER_S / 4, now=now)
        self._newest: LoadReport | None = None
        self._told: tuple[LoadReport, bytes] | None = None
        self._load_seq = 0
        self._load_at = now

    # --- blocks -----------------------------------------------------------------------------------------

    def tell_blocks(self, stored: Iterable[BlockHash], evicted: Iterable[BlockHash]) -> None:
        """The cache has changed. No block is in both."""
        for block in evicted:
            self._pending.pop(block, None)
            if self._is_told(block):
                self._pending[block] = False
        for block in stored:
            self._pending.pop(block, None)
            if not self._is_told(block) and len(self._pending) < MAX_LOG_BLOCKS:
                self._pending[block] = True

    def begin_anew(self) -> None:
        """The cache is empty."""
        self._pending = {}
        self._must_begin = True

    def _is_told(self, block: BlockHash) -> bool:
        return not self._must_begin and self._writer.holds(block)

    def write(self, now: float) -> list[tuple[LogEntry, bytes]]:
        """What is to be told now, and the same signed."""
        entries: list[LogEntry] = []
        if self._must_begin:
            if not self._bases.take(1, now):
                return []
            entries += self._writer.begin_anew()
            self._must_begin = False
        changes = self._next_changes(max(0, self._blocks.available(now) - ENTRY_COST))
        entries += self._writer.write(
            [block for block, is_there in changes if is_there],
            [block for block, is_there in changes if not is_there],
        )
        cost = sum(entry.block_count + ENTRY_COST for entry in entries)
        self._blocks.take(min(cost, self._blocks.available(now)), now)
        return [(entry, sign_log_entry(self._sign, self._group, entry)) for entry in entries]

    def _next_changes(self, most: int) -> list[tuple[BlockHash, bool]]:
        """Those that went first: nobody should be sent where a prefix no longer is."""
        chosen = sorted(self._pending.items(), key=lambda change: change[1])[:most]
        for block, _ in chosen:
            del self._pending[block]
        return chosen

    # --- load -------------------------------------------------------------------------------------------

    def tell_load(self, speed: Speed, load: Load) -> None:
        """How fast and busy the member is now. Raises LocalProtocolError for values that can't be told."""
        self._newest = rounded(LoadReport(self._node_id, 0, 0, speed, load))

    def write_load(self, now: float) -> tuple[LoadReport, bytes] | None:
        """A report, if it is time for one."""
        if self._newest is None:
            return None
        is_due = self._told is None or now >= self._load_at + LOAD_S
        if not is_due and self._told is not None and not _is_notable(self._told[0], self._newest):
            return None
        self._load_at = now
        return self._report(self._newest)

    def current_load(self) -> tuple[LoadReport, bytes] | None:
        """The load as it was told last, signed; None where none was."""
        if self._newest is None:
            return None
        if self._told is not None and _said(self._told[0]) == _said(self._newest):
            return self._told
        return self._report(self._newest)

    def _report(self, newest: LoadReport) -> tuple[LoadReport, bytes]:
        report = LoadReport(self._node_id, self._incarnation, self._load_seq, newest.speed, newest.load)
        self._load_seq += 1
        self._told = (report, sign_load(self._sign, self._group, report))
        return self._told

    # --- earlier lives ----------------------------------------------------------------------------------

    def outdo_entries(self, found: Known) -> None:
        """We signed an entry as late as this: if we know nothing of it, begin anew, later than that."""
        if found > Known(self._incarnation, self._writer.next_seq):
            self._live_on(found.incarnation + 1)

    def outdo_loads(self, found: Known) -> None:
        """The same of a report."""
        if found > Known(self._incarnation, self._load_seq):
            self._live_on(found.incarnation + 1)

    def _live_on(self, incarnation: int) -> None:
        """Others know us from a time that our clock says is yet to come, and would take nothing of this life."""
        if incarnation > MAX_INCARNATION:
            return
        held = {} if self._must_begin else dict.fromkeys(self._writer.blocks, True)
        self._pending = {block: there for block, there in (held | self._pending).items() if there}
        self._must_begin = True
        self._incarnation = incarnation
        self._writer = LogWriter(self._node_id, incarnation)
        self._told, self._load_seq = None, 0


def _said(report: LoadReport) -> tuple[Speed, Load]:
    return report.speed, report.load


def _is_notable(told: LoadReport, newest: LoadReport) -> bool:
    """Whether somebody who chooses between members might choose otherwise."""
    was, now, old, new = told.load, newest.load, told.speed, newest.speed
    was_full, is_full = was.free_slots == 0, now.free_slots == 0
    return (
        was_full != is_full
        or (is_full and _is_far(was.answer_s, now.answer_s, _ANSWER_S))
        or _is_far(was.queued_tokens, now.queued_tokens, _QUEUED_TOKENS)
        or _is_far(was.decoding, now.decoding, _ANSWERS)
        or _is_far(old.prefill_token_s, new.prefill_token_s, 0.0)
        or _is_far(old.mixed_tokens, new.mixed_tokens, 0)
    )


def _is_far(one: float, other: float, scale: float) -> bool:
    low, high = sorted((one, other))
    return high + scale > _NOTABLE * (low + scale)
