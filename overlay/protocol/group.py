"""One member of a model group: what it tells of itself, and how it comes to know the others. No I/O, no clock.

Theory of operation
-------------------
The members of a group serve one model with one arithmetic. Each writes a log of the blocks that it holds
(`group_log.py`) and now and then a report of its load (`group_load.py`), signed; all keep all of them. Every SYNC_S a
member sends the next of its *neighbours* in turn its vector, which says how far it knows each log and load:

    vector ----> news: what the other lacks
           ----> vector (a reply): of what the other knows more ----> news

A reply is answered by news alone, so that nothing goes to and fro. Whatever is lost comes again with a later round.

Neighbours are the members 1, 2, 4, 8, ... places on along the ring of all ids: at most log2(n) of them, the same
wherever the same members are known, and any news is with everybody after about log2(n) rounds. The driver sees to it
that there are links to them.

What a member may do wrong, and what happens:

- An entry or report that is malformed or not signed by its origin: the rest of its message is not looked at, and its
  sender is named, since honest members pass on only what they checked. One of a node that is no member is dropped
  and its sender named; that is no proof of anything, since directories differ for a while.
- Replayed, doubled, early entries: dropped, they cost a check of a signature. Messages of a neighbour beyond its rate
  are not looked at.
- A log that grows or begins anew faster than honest ones do, or is too long: it stands still for STANDSTILL_S and its
  origin is named. Meanwhile our vector wants nothing of it. One with a gap stands still by itself.
- All that a member ever signed, played to a newcomer in its order: it looks like a flood of that member's, whose log
  then stands still there and who is named. What was signed carries no time that a newcomer could go by.
- A vector that lies: its sender gets what it says it lacks, within a rate, and is asked for what it never gives.

Who is named is named once in NAMING_PERIOD_S for each reason. Nothing is compared between members' clocks: an
incarnation only with others of the same origin. A member whose own clock was set back learns from its own old
entries that it has lived later, and goes on from there.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import assert_never

from crypto.errors import CryptoError
from crypto.identity import NodeId
from overlay.protocol.group_bounds import MemberBounds
from overlay.protocol.group_load import GroupLoads, HeardLoad
from overlay.protocol.group_log import GroupLogs, Holders, Taken
from overlay.protocol.group_members import GroupMembers
from overlay.protocol.group_teller import Teller
from overlay.wire.group import (
    BlockHash,
    GroupId,
    Known,
    Load,
    LoadReport,
    LogEntry,
    MemberTag,
    Speed,
    member_tag,
)
from overlay.wire.group_codec import Sign, decode_load, decode_log_entry
from overlay.wire.group_messages import (
    NOTHING_WANTED,
    GroupMessage,
    GroupNews,
    GroupVector,
    counted_bytes,
)
from overlay.wire.limits import BLOB_HEADER_BYTES, MAX_GROUP_MEMBERS, MAX_NEWS_FRAME_BYTES

TELL_S = 1.0
SYNC_S = 1.0
_NEWS_BYTES = MAX_NEWS_FRAME_BYTES - 64
_NOTHING_KNOWN = Known(0, 0)


@dataclass(frozen=True, slots=True)
class SendGroupMessage:
    """Queue this on the control stream to `peer`. Without a link, dial and drop it: a later round makes up for it."""

    peer: NodeId
    message: GroupMessage


@dataclass(frozen=True, slots=True)
class LoadLearned:
    """A newer report of a member came in."""

    member: NodeId
    report: LoadReport


@dataclass(frozen=True, slots=True)
class Misbehaved:
    """A member did what no honest one does; for the log. It was kept in bounds already."""

    member: NodeId
    reason: str


GroupOutput = SendGroupMessage | LoadLearned | Misbehaved


class GroupMachine:
    """One member and its view of the group. See the theory of operation above.

    Args:
        node_id: this node.
        group: its group.
        sign: this node's key.
        incarnation: greater than at the last start, for example the time in milliseconds.
        holders: what the logs add up to, this node's own log too.
        now: the time at which rates are full.
    """

    def __init__(
        self,
        node_id: NodeId,
        group: GroupId,
        *,
        sign: Sign,
        incarnation: int,
        holders: Holders,
        now: float,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._node_id = node_id
        self._group = group
        self._teller = Teller(node_id, group, sign, incarnation, now)
        self._logs = GroupLogs(holders)
        self._loads = GroupLoads()
        self._members = GroupMembers(node_id)
        self._turn = 0
        self._bounds: dict[NodeId, MemberBounds] = {}
        self._tell_at = now
        self._sync_at = now

    # --- members ----------------------------------------------------------------------------------------

    @property
    def members(self) -> Collection[NodeId]:
        """The members as they are known, this node too."""
        return self._members.ids

    @property
    def neighbours(self) -> tuple[NodeId, ...]:
        """The members to whom this one's vectors go: there should be links to them."""
        return self._members.neighbours

    def set_members(self, ids: Collection[NodeId]) -> None:
        """Who is in the group, by the directory. This node always is. Those gone are forgotten.

        Over MAX_GROUP_MEMBERS those who are not in yet stay out; so do all whose ids begin alike.
        """
        for gone in self._members.set(ids):
            self._logs.forget(gone)
            self._loads.forget(gone)
        # Rates outlive a membership, so that leaving and coming back earns nobody a fresh burst; but not for ever.
        departed = [member for member in self._bounds if member not in self._members]
        for member in departed[: max(0, len(departed) - MAX_GROUP_MEMBERS)]:
            del self._bounds[member]

    def _bounds_of(self, member: NodeId, now: float) -> MemberBounds:
        if member not in self._bounds:
            self._bounds[member] = MemberBounds(now)
        return self._bounds[member]

    def known_of(self, member: NodeId) -> Known | None:
        """How far a member's log is known here; None where nothing is."""
        return self._logs.known(member)

    # --- what this node tells ---------------------------------------------------------------------------

    def tell_blocks(self, stored: Iterable[BlockHash], evicted: Iterable[BlockHash]) -> None:
        """This node's cache has changed. No block is in both. Others hear of it with the next TELL_S."""
        self._teller.tell_blocks(stored, evicted)

    def begin_anew(self) -> None:
        """This node's cache is empty."""
        self._teller.begin_anew()

    def tell_load(self, speed: Speed, load: Load) -> None:
        """How fast and busy this node is now. Raises LocalProtocolError for values that can't be told."""
        self._teller.tell_load(speed, load)

    def own_load_blob(self) -> bytes | None:
        """This node's load as it was told last, signed, to ride on other messages; None where none was told."""
        told = self._teller.current_load()
        return told[1] if told is not None else None

    # --- loads ------------------------------------------------------------------------------------------

    def load_of(self, member: NodeId) -> HeardLoad | None:
        """The newest report of a member and when it came; None where none did."""
        return self._loads.get(member)

    def learn_load(self, peer: NodeId, blob: bytes, now: float) -> list[GroupOutput]:
        """Take a report that rode on another message of `peer`, whoever's it is."""
        if peer not in self._members:
            self.counters["of_strangers"] += 1
            return []
        found = self._receive_load(peer, blob, now)
        return self._name_forger(peer, now) if found is None else found

    def _receive_load(self, peer: NodeId, blob: bytes, now: float) -> list[GroupOutput] | None:
        """None where it is malformed or forged."""
        try:
            report = decode_load(blob, self._group).check()
        except CryptoError:
            return None
        origin = report.origin
        if origin == self._node_id:
            self._teller.outdo_loads(report.known)
            return []
        if origin not in self._members:
            return self._name(peer, "reports of nodes that are no members", now)
        if not self._loads.is_news(report):
            if origin == peer:
                self._loads.confirm(report, now)
            return []
        if not self._bounds_of(origin, now).loads.take(1, now):
            return self._name(origin, "a flood of reports", now)
        self._loads.receive(report, blob, now)
        return [LoadLearned(origin, report)]

    # --- messages ---------------------------------------------------------------------------------------

    def receive_message(self, peer: NodeId, message: GroupMessage, now: float) -> list[GroupOutput]:
        """Handles a message of another member; one of anybody else, or of another group, is ignored."""
        if message.group != self._group:
            self.counters["of_other_groups"] += 1
            return []
        if peer == self._node_id or peer not in self._members:
            self.counters["of_strangers"] += 1
            return []
        if not self._bounds_of(peer, now).received.take(counted_bytes(message), now):
            self.counters["over_rate"] += 1
            return self._name(peer, "more messages than its rate allows", now)
        match message:
            case GroupVector():
                return self._receive_vector(peer, message, now)
            case GroupNews(_, entries, loads):
                return self._receive_news(peer, entries, loads, now)
            case _:
                assert_never(message)

    def _receive_news(
        self, peer: NodeId, entries: Iterable[bytes], loads: Iterable[bytes], now: float
    ) -> list[GroupOutput]:
        outputs: list[GroupOutput] = []
        for receive, blobs in ((self._receive_load, loads), (self._receive_entry, entries)):
            for blob in blobs:
                found = receive(peer, blob, now)
                if found is None:
                    return outputs + self._name_forger(peer, now)
                outputs += found
        return outputs

    def _receive_entry(self, peer: NodeId, blob: bytes, now: float) -> list[GroupOutput] | None:
        """None where it is malformed or forged."""
        try:
            entry = decode_log_entry(blob, self._group).check()
        except CryptoError:
            return None
        if entry.origin == self._node_id:
            self._teller.outdo_entries(Known(entry.incarnation, entry.seq + 1))
            return []
        if entry.origin not in self._members:
            return self._name(peer, "entries of nodes that are no members", now)
        return self._take_entry(entry, blob, now)

    def _take_entry(self, entry: LogEntry, blob: bytes, now: float) -> list[GroupOutput]:
        bounds = self._bounds_of(entry.origin, now)
        if bounds.stands_still(now):
            self.counters["standing_still"] += 1
            return []
        taken = self._logs.judge(entry)
        if taken is Taken.APPLIED:
            if not bounds.takes_entry(entry, now):
                return self._name(entry.origin, "a log that grows faster than it may", now)
            taken = self._logs.receive(entry, blob)
        self.counters[taken.name.lower()] += 1
        if taken is Taken.CUT:
            return self._name(entry.origin, "more blocks than its share", now)
        if taken is Taken.NO_ROOM:
            bounds.stand_still(now)
            return self._name(entry.origin, "a log longer than it may be", now)
        return []

    def _name_forger(self, peer: NodeId, now: float) -> list[GroupOutput]:
        self.counters["forged"] += 1
        return self._name(peer, "news that its origin did not sign", now)

    def _name(self, member: NodeId, reason: str, now: float) -> list[GroupOutput]:
        self.counters["misbehaved"] += 1
        return [Misbehaved(member, reason)] if self._bounds_of(member, now).may_name(reason, now) else []

    # --- vectors ----------------------------------------------------------------------------------------

    def _receive_vector(self, peer: NodeId, vector: GroupVector, now: float) -> list[GroupOutput]:
        outputs = self._give(peer, vector, now)
        if not vector.is_reply:
            entries = self._wanted(vector.entries, self._logs.known, now)
            loads = self._wanted(vector.loads, self._loads.known, now)
            if entries or loads:
                outputs += self._send(peer, GroupVector(self._group, entries, loads, is_reply=True), now)
        return outputs

    def _give(self, peer: NodeId, vector: GroupVector, now: float) -> list[GroupOutput]:
        """What the other lacks, as much as there is room for."""
        room = min(_NEWS_BYTES, self._bounds_of(peer, now).sent.available(now) - 64)
        their_entries, their_loads = self._members.named(vector.entries), self._members.named(vector.loads)
        # Loads come first, but leave room for entries, so that neither waits for the other for ever.
        loads = self._loads.lacking(their_loads, room // 2, only=their_loads if vector.is_reply else None)
        room -= sum(len(blob) + BLOB_HEADER_BYTES for blob in loads)
        entries = self._logs.lacking(their_entries, room, only=their_entries if vector.is_reply else None)
        if not entries and not loads:
            return []
        return self._send(peer, GroupNews(self._group, tuple(entries), tuple(loads)), now)

    def _wanted(
        self, theirs: Mapping[MemberTag, Known], ours: Callable[[NodeId], Known | None], now: float
    ) -> dict[MemberTag, Known]:
        """How far we know what the other knows more of."""
        found: dict[MemberTag, Known] = {}
        for member, their_known in self._members.named(theirs).items():
            known = ours(member) or _NOTHING_KNOWN
            is_wanted = member != self._node_id and not self._bounds_of(member, now).stands_still(now)
            if is_wanted and known < their_known != NOTHING_WANTED:
                found[member_tag(member)] = known
        return found

    def _vector(self, now: float) -> GroupVector:
        entries = {member_tag(member): known for member, known in self._logs.vector().items()}
        loads = {member_tag(member): known for member, known in self._loads.vector().items()}
        for member in self._members.ids:
            if member in self._bounds and self._bounds[member].stands_still(now):
                entries[member_tag(member)] = NOTHING_WANTED
        return GroupVector(self._group, entries, loads, is_reply=False)

    def _send(self, peer: NodeId, message: GroupMessage, now: float) -> list[GroupOutput]:
        if not self._bounds_of(peer, now).sent.take(counted_bytes(message), now):
            self.counters["not_sent"] += 1
            return []
        return [SendGroupMessage(peer, message)]

    # --- time -------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When `handle_deadline` wants to be called."""
        return min(self._tell_at, self._sync_at)

    def handle_deadline(self, now: float) -> list[GroupOutput]:
        """Does what is due by now."""
        if now >= self._tell_at:
            self._tell_at = now + TELL_S
            self._tell(now)
        if now < self._sync_at:
            return []
        self._sync_at = now + SYNC_S
        if not self.neighbours:
            return []
        self._turn += 1
        peer = self.neighbours[self._turn % len(self.neighbours)]
        return self._send(peer, self._vector(now), now)

    def _tell(self, now: float) -> None:
        for entry, blob in self._teller.write(now):
            self._logs.receive(entry, blob)
        if (told := self._teller.write_load(now)) is not None:
            self._loads.receive(*told, now)
