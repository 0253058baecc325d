"""How the members of a model group come to know which blocks each of them holds. Pure: no I/O, no clock.

Theory of operation
-------------------
Every member writes a *log*: entry by entry, which blocks it has stored and evicted since the entry before. All members
keep all logs, so that any of them can pass on anybody's entries, and nobody has to be linked to all: two neighbours
compare *vectors* (how far each log is known) and hand over what the other lacks. An entry is taken only if it is the
next one of its log; one that comes twice or too early is dropped, and a later comparison brings what is missing. So any
order, loss and duplication of entries ends with the same view everywhere.

A log would grow for ever. When it mentions four times as many blocks as are there, the member writes a new *base*:
entries with all that is there. What lies before a base is void, and who is behind starts at the base. That costs a
third as much again as the changes themselves; as much again, where it is MAX_LOG_BLOCKS that the log has come to.

A member that starts anew has another *incarnation*, greater than the last; its log begins anew, too. It is a number of
the member's own (the time of its start, by its own clock), compared with nobody else's.

Harm is bounded whatever a member writes: its entries have a bounded size, its log a bounded length and number of
blocks; over these an entry is not taken, and that log stands still until its next base. Who wrote an entry is checked
by whoever decodes it; here entries are taken to be their origin's. Kept of an entry are the signed bytes in which it
came, to be passed on; what it says is in the tree.
"""

from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import islice
from typing import Protocol

from crypto.identity import NodeId
from overlay.wire.group import BlockHash, Known, LogEntry, Vector
from overlay.wire.limits import (
    BLOB_HEADER_BYTES,
    MAX_ENTRY_BLOCKS,
    MAX_GROUP_MEMBERS,
    MAX_LOG_BLOCKS,
    MAX_LOG_ENTRIES,
)

_LONGEST = 4
"""Times as many blocks as are left that a log may mention."""
_SMALLEST_LOG = 4 * MAX_ENTRY_BLOCKS
"""Blocks that a log may mention however few are left: a base of its own would not be worth it."""


_Change = tuple[BlockHash, bool]
"""A block, and whether it is there now."""


class Holders(Protocol):
    """What the logs add up to: a `PrefixTree`."""

    def store(self, member: NodeId, blocks: Iterable[BlockHash], /) -> int:
        """A member holds these. Returns how many there was no room for."""

    def evict(self, member: NodeId, blocks: Iterable[BlockHash], /) -> object:
        """A member has lost these."""

    def retract(self, member: NodeId, /) -> object:
        """A member tells anew all that it holds."""

    def forget(self, member: NodeId, /) -> object:
        """A member holds nothing."""


class LogWriter:
    """A member's own log."""

    def __init__(self, origin: NodeId, incarnation: int) -> None:
        self._origin = origin
        self._incarnation = incarnation
        self._live: dict[BlockHash, None] = {}
        self._next = 0
        self._base = 0
        self._mentioned = 0

    @property
    def next_seq(self) -> int:
        """The number of the next entry."""
        return self._next

    @property
    def blocks(self) -> Collection[BlockHash]:
        """What the log says that the member holds."""
        return self._live.keys()

    def holds(self, block: BlockHash) -> bool:
        """Whether the log says that the member has it."""
        return block in self._live

    def write(self, stored: Iterable[BlockHash], evicted: Iterable[BlockHash]) -> list[LogEntry]:
        """The entries that say this. stored and evicted share no block, and both may repeat what is known.

        What would be more than others take of one member is not told: it is found by those who ask here.
        """
        gone = [block for block in dict.fromkeys(evicted) if block in self._live]
        for block in gone:
            del self._live[block]
        room = MAX_LOG_BLOCKS // 2 - len(self._live)
        new = [block for block in dict.fromkeys(stored) if block not in self._live][:room]
        self._live.update(dict.fromkeys(new))
        if self._is_too_long(len(new) + len(gone)):
            return self._write_base()
        # What is gone comes first: it makes room for what is new.
        changed = [(block, False) for block in gone] + [(block, True) for block in new]
        return [self._append(part) for part in _parts(changed)]

    def _is_too_long(self, more: int) -> bool:
        entries = self._next - self._base + more // MAX_ENTRY_BLOCKS + 2
        most_blocks = min(MAX_LOG_BLOCKS, max(_LONGEST * len(self._live), _SMALLEST_LOG))
        return self._mentioned + more > most_blocks or entries > MAX_LOG_ENTRIES

    def begin_anew(self) -> list[LogEntry]:
        """Entries that make all earlier ones void: what is there must be told again."""
        self._live = {}
        return self._write_base()

    def _write_base(self) -> list[LogEntry]:
        self._base, self._mentioned = self._next, 0
        return [self._append(part) for part in _parts((block, True) for block in self._live) or [()]]

    def _append(self, changed: tuple[_Change, ...]) -> LogEntry:
        stored = tuple(block for block, is_there in changed if is_there)
        evicted = tuple(block for block, is_there in changed if not is_there)
        entry = LogEntry(self._origin, self._incarnation, self._next, self._base, stored, evicted)
        self._next += 1
        self._mentioned += entry.block_count
        return entry


def _parts(changes: Iterable[_Change]) -> list[tuple[_Change, ...]]:
    left = iter(changes)
    return list(iter(lambda: tuple(islice(left, MAX_ENTRY_BLOCKS)), ()))


class Taken(Enum):
    """What became of an entry."""

    APPLIED = auto()
    CUT = auto()
    """The same, but there was no room for all its blocks: its origin holds more than it may."""
    KNOWN = auto()
    """It is there, or void."""
    EARLY = auto()
    """Entries before it are missing."""
    NO_ROOM = auto()
    """There are too many members, or this one wrote too much."""


@dataclass(slots=True, eq=False)
class _Log:
    incarnation: int
    base: int = 0
    blobs: list[bytes] = field(default_factory=list)  # from `base` on
    mentioned: int = 0

    @property
    def known(self) -> Known:
        return Known(self.incarnation, self.base + len(self.blobs))

    def has_room_for(self, entry: LogEntry) -> bool:
        return self.mentioned + entry.block_count <= MAX_LOG_BLOCKS and len(self.blobs) < MAX_LOG_ENTRIES


class GroupLogs:
    """Everybody's logs, and the tree that they add up to."""

    def __init__(self, tree: Holders) -> None:
        self._tree = tree
        self._logs: dict[NodeId, _Log] = {}

    def judge(self, entry: LogEntry) -> Taken:
        """What would become of an entry; APPLIED also where it would be cut."""
        log = self._logs.get(entry.origin)
        if log is None or entry.incarnation > log.incarnation:
            if entry.seq != entry.base:
                return Taken.EARLY
            return Taken.NO_ROOM if log is None and len(self._logs) >= MAX_GROUP_MEMBERS else Taken.APPLIED
        if (entry.incarnation, entry.seq) < (log.incarnation, log.known.next_seq):
            return Taken.KNOWN
        if entry.seq == entry.base:
            return Taken.APPLIED
        if entry.seq > log.known.next_seq or entry.base != log.base:
            return Taken.EARLY
        return Taken.APPLIED if log.has_room_for(entry) else Taken.NO_ROOM

    def receive(self, entry: LogEntry, blob: bytes) -> Taken:
        """Take an entry, if it is the next one of its log. blob: the signed bytes in which it came."""
        taken = self.judge(entry)
        if taken is not Taken.APPLIED:
            return taken
        if entry.seq == entry.base:
            self._begin(entry)
        log = self._logs[entry.origin]
        log.blobs.append(blob)
        log.mentioned += entry.block_count
        self._tree.evict(entry.origin, entry.evicted)
        return Taken.CUT if self._tree.store(entry.origin, entry.stored) else Taken.APPLIED

    def _begin(self, entry: LogEntry) -> None:
        log = self._logs.get(entry.origin)
        if log is not None and entry.incarnation == log.incarnation:
            self._tree.retract(entry.origin)
        else:
            self._tree.forget(entry.origin)
        self._logs[entry.origin] = _Log(entry.incarnation, base=entry.seq)

    def forget(self, origin: NodeId) -> None:
        """A member has left the group."""
        if self._logs.pop(origin, None) is not None:
            self._tree.forget(origin)

    def known(self, origin: NodeId) -> Known | None:
        """How far a member's log is known here; None where nothing is."""
        log = self._logs.get(origin)
        return log.known if log is not None else None

    def vector(self) -> dict[NodeId, Known]:
        """How far each log is known here."""
        return {origin: log.known for origin, log in self._logs.items()}

    def lacking(
        self, theirs: Vector, most_bytes: int, *, only: Container[NodeId] | None = None
    ) -> list[bytes]:
        """Signed entries that a neighbour with this vector lacks, each log's in order, so many bytes at most.

        The logs that were passed on longest ago come first, so that a long one does not starve the others. only: leave
        out all logs but these.
        """
        found: list[bytes] = []
        left = most_bytes
        for origin, log in list(self._logs.items()):
            lacked = _after(theirs.get(origin), log) if only is None or origin in only else []
            if not lacked:
                continue
            self._logs[origin] = self._logs.pop(origin)
            for blob in lacked:
                left -= len(blob) + BLOB_HEADER_BYTES
                if left < 0:
                    return found
                found.append(blob)
        return found


def _after(known: Known | None, log: _Log) -> list[bytes]:
    """The entries that lie beyond what is known."""
    if known is None or known.incarnation < log.incarnation:
        return log.blobs
    if known.incarnation > log.incarnation:
        return []
    return log.blobs[max(0, known.next_seq - log.base) :]
