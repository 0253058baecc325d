"""Membership: how the whole set of descriptors reaches every node, by anti-entropy with its neighbours.

Theory of operation
-------------------
Every node holds every valid descriptor (`holdings.py`). With each neighbour:

    digest ---- differs ----> index ---- something newer in it ----> wanted ----> given (exactly one, maybe empty)

A digest of the whole set goes out when a link opens and every `interval_s`. Whoever gets one that differs
from its own answers with its index, at most every half interval; whoever gets an index asks for what is
newer in it, at most 64 descriptors at a time and one question at a time. What has just come in goes out as
a short index of its own after `eager_s`, so that news does not wait for a digest; the digests repair
whatever is lost.

What a neighbour may do wrong, and what happens: a descriptor that is malformed or not signed by its node
closes the link, since honest nodes pass on only what they checked. One that wasn't asked for, has expired
or is not newer is dropped. Promises that aren't kept are forgotten after `answer_timeout_s` and not
believed again for a while. Floods of indexes, of new nodes, of questions and of new sequence numbers of one
node run into rates (`wire/limits.py`). A node may sign two descriptors with one sequence number; each
holder then keeps the one that came first.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import assert_never

from crypto.identity import NodeId
from overlay.errors import LocalProtocolError
from overlay.protocol.effects import CloseLink
from overlay.protocol.holdings import Holdings, Taken
from overlay.protocol.membership_neighbour import Neighbour, Rates
from overlay.wire.descriptor import Descriptor
from overlay.wire.limits import (
    MAX_ASKED_DESCRIPTORS,
    MAX_INDEX_ENTRIES,
)
from overlay.wire.messages import DescriptorsGiven, DescriptorsWanted, DirectoryDigest, DirectoryIndex

_DOUBT_ROUNDS = 3
_MAX_DEPARTED = 1024

DirectoryMessage = DirectoryDigest | DirectoryIndex | DescriptorsWanted | DescriptorsGiven


@dataclass(frozen=True, slots=True)
class MembershipTiming:
    """How often neighbours compare and how long an answer may take, in seconds."""

    interval_s: float = 10.0
    eager_s: float = 1.0
    answer_timeout_s: float = 10.0


TEST_TIMING = MembershipTiming(interval_s=2.0, eager_s=0.1, answer_timeout_s=5.0)
"""For networks on one machine."""


@dataclass(frozen=True, slots=True)
class SendDirectoryMessage:
    """Queue this on the control stream to `peer`. If that is full, drop it: a later round makes up for it."""

    peer: NodeId
    message: DirectoryMessage


@dataclass(frozen=True, slots=True)
class DirectoryChanged:
    """Descriptors came in or went: `MembershipMachine.descriptors` are others now."""


MembershipOutput = SendDirectoryMessage | CloseLink | DirectoryChanged


@dataclass(slots=True)
class MembershipCounters:
    """What happened so far, for metrics."""

    stored: int = 0
    forged: int = 0
    expired: int = 0
    unasked: int = 0
    turned_away: int = 0
    unanswered: int = 0


class MembershipMachine:
    """The directory of one node and what it owes its neighbours. See the theory of operation above."""

    def __init__(
        self,
        node_id: NodeId,
        *,
        now: float,
        timing: MembershipTiming | None = None,
        holdings: Holdings | None = None,
    ) -> None:
        self.counters = MembershipCounters()
        self._node_id = node_id
        self._timing = timing or MembershipTiming()
        self._holdings = Holdings() if holdings is None else holdings
        self._neighbours: dict[NodeId, Neighbour] = {}
        self._departed: dict[NodeId, Rates] = {}
        # What came in since the last eager round, and from whom.
        self._fresh: dict[NodeId, NodeId | None] = {}
        self._eager_at: float | None = None
        self._round_at = now + self._timing.interval_s

    @property
    def descriptors(self) -> tuple[Descriptor, ...]:
        """Every descriptor held now, our own too: what a `Directory` is made of."""
        return self._holdings.descriptors

    def publish(self, blob: bytes, now: float, unix_time: float) -> list[MembershipOutput]:
        """Puts our own new descriptor in. Raises LocalProtocolError where it is none, or no newer than the last."""
        node_id, taken = self._holdings.take(blob, now, unix_time, is_own=True)
        if node_id != self._node_id or taken is not Taken.STORED:
            raise LocalProtocolError(f"our descriptor can't be published: {taken.name.lower()}")
        self._note(node_id, None, now)
        return [DirectoryChanged()]

    def add(self, blobs: Iterable[bytes], now: float, unix_time: float) -> list[MembershipOutput]:
        """Takes descriptors from elsewhere (the last run, the DHT), as if a neighbour had given them."""
        changed = False
        for blob in blobs:
            node_id, taken = self._holdings.take(blob, now, unix_time)
            self._count(taken)
            if node_id is not None and taken is Taken.STORED:
                self._note(node_id, None, now)
                changed = True
        return [DirectoryChanged()] if changed else []

    def blob_of(self, node_id: NodeId) -> bytes | None:
        """The signed descriptor of a node as it came in."""
        held = self._holdings.get(node_id)
        return held.blob if held is not None else None

    def link_opened(self, peer: NodeId, now: float) -> list[MembershipOutput]:
        """A link to `peer` is open: compare."""
        rates = self._departed.pop(peer, None) or Rates(now)
        self._neighbours[peer] = Neighbour(rates, index_at=now)
        return [SendDirectoryMessage(peer, self._digest())]

    def link_closed(self, peer: NodeId) -> None:
        """The link to `peer` is gone. Its rates are kept, so that dialling again earns nobody a fresh burst."""
        neighbour = self._neighbours.pop(peer, None)
        if neighbour is not None:
            self._departed[peer] = neighbour.rates
            if len(self._departed) > _MAX_DEPARTED:
                del self._departed[next(iter(self._departed))]

    def receive_message(
        self, peer: NodeId, message: DirectoryMessage, now: float, unix_time: float
    ) -> list[MembershipOutput]:
        """Handles a message of a neighbour; one that isn't a neighbour (any more) is ignored."""
        neighbour = self._neighbours.get(peer)
        if neighbour is None:
            return []
        match message:
            case DirectoryDigest():
                return self._receive_digest(peer, neighbour, message, now)
            case DirectoryIndex(entries):
                return self._receive_index(peer, neighbour, entries, now)
            case DescriptorsWanted(ids):
                return self._receive_wanted(peer, neighbour, ids, now)
            case DescriptorsGiven(blobs):
                return self._receive_given(peer, neighbour, blobs, now, unix_time)

    def next_deadline(self) -> float:
        """When `handle_deadline` wants to be called."""
        due = [
            self._round_at,
            *(peer.ask_by for peer in self._neighbours.values() if peer.ask_by is not None),
        ]
        if self._eager_at is not None:
            due.append(self._eager_at)
        return min(due)

    def handle_deadline(self, now: float, unix_time: float) -> list[MembershipOutput]:
        """Does what is due by now."""
        outputs: list[MembershipOutput] = []
        for neighbour in self._neighbours.values():
            if neighbour.ask_by is not None and neighbour.ask_by <= now:
                self._close_question(neighbour, now)
                neighbour.promised.clear()
        if self._eager_at is not None and self._eager_at <= now:
            outputs += self._spread_news()
        if self._round_at <= now:
            outputs += self._hold_round(now, unix_time)
        return outputs

    # --- comparing ---

    def _digest(self) -> DirectoryDigest:
        return DirectoryDigest(len(self._holdings), self._holdings.digest)

    def _receive_digest(
        self, peer: NodeId, neighbour: Neighbour, digest: DirectoryDigest, now: float
    ) -> list[MembershipOutput]:
        if digest == self._digest() or now < neighbour.index_at:
            return []
        neighbour.index_at = now + self._timing.interval_s / 2
        return [
            SendDirectoryMessage(peer, DirectoryIndex(entries))
            for entries in _pages(tuple(self._holdings.entries()))
        ]

    def _receive_index(
        self, peer: NodeId, neighbour: Neighbour, entries: tuple[tuple[NodeId, int], ...], now: float
    ) -> list[MembershipOutput]:
        if not neighbour.rates.entries.take(len(entries), now):
            return []
        for node_id, seq in entries:
            if self._is_wanted(neighbour, node_id, seq, now):
                neighbour.promised[node_id] = seq
        return self._ask(peer, neighbour, now)

    def _is_wanted(self, neighbour: Neighbour, node_id: NodeId, seq: int, now: float) -> bool:
        if node_id == self._node_id or neighbour.doubted.get(node_id, -1) >= seq:
            return False
        held = self._holdings.get(node_id)
        if held is None:
            has_room = len(neighbour.promised) < MAX_INDEX_ENTRIES or node_id in neighbour.promised
            return has_room and not self._holdings.is_full
        # A node that signs a new descriptor every moment is followed only now and then.
        is_due = now >= held.taken_at + self._timing.interval_s / 2
        return seq > held.descriptor.seq and is_due

    # --- asking ---

    def _ask(self, peer: NodeId, neighbour: Neighbour, now: float) -> list[MembershipOutput]:
        if neighbour.asked:
            return []
        strangers = neighbour.rates.new_nodes.available(now)
        for node_id, seq in list(neighbour.promised.items()):
            held = self._holdings.get(node_id)
            if held is not None and held.descriptor.seq >= seq:
                del neighbour.promised[node_id]  # another neighbour was quicker
                continue
            if held is None and strangers == 0:
                continue
            strangers -= held is None
            neighbour.asked[node_id] = neighbour.promised.pop(node_id)
            if len(neighbour.asked) == MAX_ASKED_DESCRIPTORS:
                break
        if not neighbour.asked:
            return []
        neighbour.rates.new_nodes.take(
            sum(self._holdings.get(asked) is None for asked in neighbour.asked), now
        )
        neighbour.ask_by = now + self._timing.answer_timeout_s
        return [SendDirectoryMessage(peer, DescriptorsWanted(tuple(neighbour.asked)))]

    def _receive_wanted(
        self, peer: NodeId, neighbour: Neighbour, ids: tuple[NodeId, ...], now: float
    ) -> list[MembershipOutput]:
        if not neighbour.rates.given.take(len(ids), now):
            return []
        held = (self._holdings.get(node_id) for node_id in dict.fromkeys(ids[:MAX_ASKED_DESCRIPTORS]))
        blobs = tuple(found.blob for found in held if found is not None)
        return [SendDirectoryMessage(peer, DescriptorsGiven(blobs))]

    def _receive_given(
        self, peer: NodeId, neighbour: Neighbour, blobs: tuple[bytes, ...], now: float, unix_time: float
    ) -> list[MembershipOutput]:
        outputs: list[MembershipOutput] = []
        stored = self.counters.stored
        for blob in blobs:
            if not self._take_given(peer, neighbour, blob, now, unix_time):
                outputs.append(CloseLink(peer, "a descriptor that is malformed or not signed by its node"))
                break
        self._close_question(neighbour, now)
        if self.counters.stored > stored:
            outputs.append(DirectoryChanged())
        return outputs + self._ask(peer, neighbour, now)

    def _take_given(
        self, peer: NodeId, neighbour: Neighbour, blob: bytes, now: float, unix_time: float
    ) -> bool:
        """Takes one descriptor that was given; False if it is forged."""
        node_id, taken = self._holdings.take(blob, now, unix_time, only=neighbour.asked)
        self._count(taken)
        if node_id is not None and taken is Taken.STORED:
            self._note(node_id, peer, now)
        return taken is not Taken.FORGED

    def _close_question(self, neighbour: Neighbour, now: float) -> None:
        """Ends what was asked; what was promised but not given is doubted for a while."""
        for node_id, seq in neighbour.asked.items():
            held = self._holdings.get(node_id)
            if held is None or held.descriptor.seq < seq:
                self.counters.unanswered += 1
                if not neighbour.doubted:
                    neighbour.believe_at = now + _DOUBT_ROUNDS * self._timing.interval_s
                if len(neighbour.doubted) < MAX_INDEX_ENTRIES:
                    neighbour.doubted[node_id] = seq
        neighbour.asked.clear()
        neighbour.ask_by = None

    # --- telling ---

    def _note(self, node_id: NodeId, source: NodeId | None, now: float) -> None:
        self._fresh[node_id] = source
        if self._eager_at is None:
            self._eager_at = now + self._timing.eager_s

    def _spread_news(self) -> list[MembershipOutput]:
        """Tells each neighbour what has come in from others."""
        outputs: list[MembershipOutput] = []
        for peer in self._neighbours:
            entries = tuple(
                (node_id, held.descriptor.seq)
                for node_id, source in self._fresh.items()
                if source != peer and (held := self._holdings.get(node_id)) is not None
            )
            if entries:
                outputs += (SendDirectoryMessage(peer, DirectoryIndex(page)) for page in _pages(entries))
        self._fresh.clear()
        self._eager_at = None
        return outputs

    def _hold_round(self, now: float, unix_time: float) -> list[MembershipOutput]:
        outputs: list[MembershipOutput] = []
        if self._holdings.drop_expired(unix_time):
            outputs.append(DirectoryChanged())
        for peer, neighbour in self._neighbours.items():
            if neighbour.doubted and now >= neighbour.believe_at:
                neighbour.doubted.clear()
            outputs.append(SendDirectoryMessage(peer, self._digest()))
            outputs += self._ask(peer, neighbour, now)
        self._round_at = now + self._timing.interval_s
        return outputs

    def _count(self, taken: Taken) -> None:
        match taken:
            case Taken.STORED:
                self.counters.stored += 1
            case Taken.NOT_NEWER:
                pass
            case Taken.EXPIRED:
                self.counters.expired += 1
            case Taken.NO_ROOM:
                self.counters.turned_away += 1
            case Taken.FORGED:
                self.counters.forged += 1
            case Taken.UNASKED:
                self.counters.unasked += 1
            case _:
                assert_never(taken)


def _pages(entries: tuple[tuple[NodeId, int], ...]) -> Iterator[tuple[tuple[NodeId, int], ...]]:
    """Cut to what one index holds; at least one page, since an empty index says something too."""
    for at in range(0, max(1, len(entries)), MAX_INDEX_ENTRIES):
        yield entries[at : at + MAX_INDEX_ENTRIES]
