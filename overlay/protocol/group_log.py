"""How the members of a model group come to know which blocks each of them holds. Pure: no I/O, no clock.

Theory of operation
-------------------
Every member writes a *log*: entry by entry, which blocks it has stored and evicted since the entry before. All members
keep all logs, so that any of them can pass on anybody's entries, and nobody has to be linked to all: two neighbours
compare *vectors* (how far each log is known) and hand over what the other lacks. An entry is taken only if it is the
next one of its log; one that comes twice or too early is dropped, and a later comparison brings what is missing. So any
order, loss and duplication of entries ends with the same view everywhere.

A log would grow for ever. When it mentions more blocks than twice those that are there, the member writes a new *base*:
entries with all that is there. What lies before a base is void, and who is behind starts at the base. That costs at
most as much again as the changes themselves.

A member that starts anew has another *incarnation*, greater than the last; its log begins anew, too. It is a number of
the member's own (the time of its start, by its own clock), compared with nobody else's.

Harm is bounded whatever a member writes: its entries have a bounded size, its log a bounded length and number of
blocks; over these an entry is not taken, and that log stands still until its next base. Who wrote an entry is checked
by whoever decodes it; here entries are taken to be their origin's.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import islice
from typing import Protocol

from crypto.identity import NodeId
from overlay.wire.group import BlockHash, Known, LogEntry, Vector
from overlay.wire.limits import MAX_ENTRY_BLOCKS, MAX_GROUP_MEMBERS, MAX_LOG_BLOCKS, MAX_LOG_ENTRIES

_SMALLEST_LOG = 4 * MAX_ENTRY_BLOCKS
"""Blocks that a log may mention however few are left: a base of its own would not be worth it."""


class Holders(Protocol):
    """What the logs add up to: a `PrefixTree`."""

    def store(self, member: NodeId, blocks: Iterable[BlockHash], /) -> object:
        """A member holds these."""

    def evict(self, member: NodeId, blocks: Iterable[BlockHash], /) -> object:
        """A member has lost these."""

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
        return [self._append(part, ()) for part in _parts(new)] + [
            self._append((), part) for part in _parts(gone)
        ]

    def _is_too_long(self, more: int) -> bool:
        entries = self._next - self._base + more // MAX_ENTRY_BLOCKS + 2
        return self._mentioned + more > max(2 * len(self._live), _SMALLEST_LOG) or entries > MAX_LOG_ENTRIES

    def begin_anew(self) -> list[LogEntry]:
        """Entries that make all earlier ones void: what is there must be told again."""
        self._live = {}
        return self._write_base()

    def _write_base(self) -> list[LogEntry]:
        self._base, self._mentioned = self._next, 0
        return [self._append(part, ()) for part in _parts(self._live) or [()]]

    def _append(self, stored: tuple[BlockHash, ...], evicted: tuple[BlockHash, ...]) -> LogEntry:
        entry = LogEntry(self._origin, self._incarnation, self._next, self._base, stored, evicted)
        self._next += 1
        self._mentioned += entry.block_count
        return entry


def _parts(blocks: Iterable[BlockHash]) -> list[tuple[BlockHash, ...]]:
    left = iter(blocks)
    return list(iter(lambda: tuple(islice(left, MAX_ENTRY_BLOCKS)), ()))


class Taken(Enum):
    """What became of an entry."""

    APPLIED = auto()
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
    entries: list[LogEntry] = field(default_factory=list)  # from `base` on
    mentioned: int = 0

    @property
    def next_seq(self) -> int:
        return self.base + len(self.entries)

    def has_room_for(self, entry: LogEntry) -> bool:
        return self.mentioned + entry.block_count <= MAX_LOG_BLOCKS and len(self.entries) < MAX_LOG_ENTRIES


class GroupLogs:
    """Everybody's logs, and the tree that they add up to."""

    def __init__(self, tree: Holders) -> None:
        self._tree = tree
        self._logs: dict[NodeId, _Log] = {}

    def receive(self, entry: LogEntry) -> Taken:
        """Take an entry, if it is the next one of its log."""
        log = self._logs.get(entry.origin)
        if log is not None and entry.incarnation < log.incarnation:
            return Taken.KNOWN
        if log is None or entry.incarnation > log.incarnation:
            if entry.seq != entry.base:
                return Taken.EARLY
            if log is None and len(self._logs) >= MAX_GROUP_MEMBERS:
                return Taken.NO_ROOM
            log = self._logs[entry.origin] = _Log(entry.incarnation, base=entry.seq)
            self._tree.forget(entry.origin)
        elif entry.seq < log.next_seq:
            return Taken.KNOWN
        elif entry.seq == entry.base:
            log.base, log.entries, log.mentioned = entry.seq, [], 0
            self._tree.forget(entry.origin)
        elif entry.seq > log.next_seq or entry.base != log.base:
            return Taken.EARLY
        elif not log.has_room_for(entry):
            return Taken.NO_ROOM
        log.entries.append(entry)
        log.mentioned += entry.block_count
        self._tree.store(entry.origin, entry.stored)
        self._tree.evict(entry.origin, entry.evicted)
        return Taken.APPLIED

    def forget(self, origin: NodeId) -> None:
        """A member has left the group."""
        if self._logs.pop(origin, None) is not None:
            self._tree.forget(origin)

    def vector(self) -> dict[NodeId, Known]:
        """How far each log is known here."""
        return {origin: Known(log.incarnation, log.next_seq) for origin, log in self._logs.items()}

    def lacking(self, theirs: Vector, most_blocks: int) -> list[LogEntry]:
        """Entries that a neighbour with this vector lacks, each log's in order, until so many blocks are mentioned.

        An entry counts as one block more than it mentions. The logs that were passed on longest ago come first, so that
        a long one does not starve the others.
        """
        found: list[LogEntry] = []
        left = most_blocks
        for origin, log in list(self._logs.items()):
            for entry in _after(theirs.get(origin), log):
                left -= entry.block_count + 1
                if left < 0:
                    return found
                found.append(entry)
            self._logs[origin] = self._logs.pop(origin)
        return found


def _after(known: Known | None, log: _Log) -> list[LogEntry]:
    """The entries that lie beyond what is known."""
    if known is None or known.incarnation < log.incarnation:
        return log.entries
    if known.incarnation > log.incarnation:
        return []
    return log.entries[max(0, known.next_seq - log.base) :]
