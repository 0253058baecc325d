"""Which members of a group hold the beginning of a prompt, as they told it and as we expect it. Pure.

Theory of operation
-------------------
A prompt is a *chain* of block hashes, each over the one before it and 16 tokens (`node/engine/block_manager`). Equal
hashes mean equal prompts from the very start, so a map from hash to holders is a radix tree whose edges are blocks: a
match walks the chain, and a member stays in as long as it holds every block so far. A member that claims a block
somewhere down a chain gains nothing by it.

What is known comes from two sources:

- **told**: a member stored a block; it holds until the member says that it is gone, or leaves;
- **expected**: a prompt was just sent to a member, which will have computed its blocks soon. It fades between one and
  two periods later: by then the member has told of them, or they are of a kind that is not told (a session's).

The holders of a block are the bits of one integer, since a step of a match is then one lookup and one `&`, however many
members there are. Members' bits are not used again until there are many of those who left; then all are renumbered.

Bounds: over `max_blocks` the block that was touched longest ago goes; over `max_member_blocks` a member's further
claims are not taken, so one that floods pushes nobody out.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

from crypto.identity import NodeId
from overlay.wire.group import BlockHash

MAX_BLOCKS = 1 << 18
MAX_MEMBER_BLOCKS = 1 << 15
MOST_LEFT = 64
"""Members who left and whose bits are still taken."""


class PrefixTree:
    """The blocks of one group's members.

    Args:
        max_blocks: told blocks kept in all; twice as many more can be expected.
        max_member_blocks: told blocks of one member.
        period_s: an expected block fades between once and twice this time after it was last expected.
    """

    def __init__(
        self,
        *,
        max_blocks: int = MAX_BLOCKS,
        max_member_blocks: int = MAX_MEMBER_BLOCKS,
        period_s: float = 60.0,
    ) -> None:
        self._max_blocks = max_blocks
        self._max_member_blocks = max_member_blocks
        self._period_s = period_s
        self._bits: dict[NodeId, int] = {}
        self._members: dict[int, NodeId] = {}
        self._held: dict[NodeId, int] = {}
        self._left = 0
        self._present = 0
        self._told: OrderedDict[BlockHash, int] = OrderedDict()
        self._expected: dict[BlockHash, int] = {}
        self._fading: dict[BlockHash, int] = {}
        self._fades_at = 0.0
        self._alike: dict[int, int] = {}

    def __len__(self) -> int:
        """Told blocks."""
        return len(self._told)

    def held_by(self, member: NodeId) -> int:
        """How many told blocks are a member's."""
        return self._held.get(member, 0)

    # --- what members tell ------------------------------------------------------------------------------

    def store(self, member: NodeId, blocks: Iterable[BlockHash]) -> int:
        """A member holds these. Returns how many were not taken, for want of room for that member."""
        bit, held, refused = self._bit(member), self._held.get(member, 0), 0
        told, before, after = self._told, -1, 0  # blocks in a row mostly have the same holders
        for block in blocks:
            holders = told.get(block, 0)
            if holders & bit:
                continue
            if held >= self._max_member_blocks:
                refused += 1
                continue
            if not holders and len(told) >= self._max_blocks:
                self._held[member] = held
                self._drop_oldest()
                held = self._held[member]
            if holders != before:
                before, after = holders, self._shared(holders | bit)
            told[block] = after
            if holders:  # a new one is at the end already
                told.move_to_end(block)
            held += 1
        self._held[member] = held
        return refused

    def evict(self, member: NodeId, blocks: Sequence[BlockHash]) -> None:
        """A member has lost these, also where we only expected them."""
        bit = self._bits.get(member, 0)
        for part in (self._told, self._expected, self._fading):
            gone = 0
            for block in blocks if part else ():
                holders = part.get(block, 0)
                if not holders & bit:
                    continue
                gone += 1
                if holders == bit:
                    del part[block]
                else:
                    part[block] = self._shared(holders & ~bit)
            if part is self._told and gone:
                self._held[member] -= gone

    def forget(self, member: NodeId) -> None:
        """A member has left, or begins anew: nothing of what was known of it holds."""
        bit = self._bits.pop(member, 0)
        if not bit:
            return
        del self._members[bit], self._held[member]
        self._present &= ~bit
        self._left += 1
        if self._left > MOST_LEFT:
            self._renumber()

    # --- what we expect ---------------------------------------------------------------------------------

    def expect(self, member: NodeId, blocks: Iterable[BlockHash], now: float) -> None:
        """A prompt with these blocks has gone to a member."""
        self._fade(now)
        bit = self._bit(member)
        for block in blocks:
            if len(self._expected) >= self._max_blocks:
                self._fading, self._expected = self._expected, {}
            self._expected[block] = self._shared(self._expected.get(block, 0) | bit)

    def _fade(self, now: float) -> None:
        if now < self._fades_at:
            return
        if now < self._fades_at + self._period_s:
            self._fading, self._expected = self._expected, {}
            self._fades_at += self._period_s
        else:  # nobody looked for so long that all has faded
            self._fading, self._expected = {}, {}
            self._fades_at = now + self._period_s

    # --- matching ---------------------------------------------------------------------------------------

    def match(self, chain: Sequence[BlockHash], now: float) -> dict[NodeId, int]:
        """How many leading blocks of a chain each member holds; those with none are not listed."""
        self._fade(now)
        found: dict[NodeId, int] = {}
        told, expected, fading = self._told, self._expected, self._fading
        left = self._present
        depth = 0
        for block in chain:
            holders = told.get(block, 0)
            if holders:
                told.move_to_end(block)
            holders |= expected.get(block, 0) | fading.get(block, 0)
            if left & ~holders:
                if depth:
                    found |= dict.fromkeys(self._named(left & ~holders), depth)
                left &= holders
                if not left:
                    return found
            depth += 1
        return found | (dict.fromkeys(self._named(left), depth) if depth else {})

    # --- bits -------------------------------------------------------------------------------------------

    def _bit(self, member: NodeId) -> int:
        bit = self._bits.get(member)
        if bit is None:
            bit = 1 << (len(self._bits) + self._left)
            self._bits[member], self._members[bit], self._held[member] = bit, member, 0
            self._present |= bit
        return bit

    def _named(self, holders: int) -> Iterator[NodeId]:
        while holders:
            lowest = holders & -holders
            yield self._members[lowest]
            holders ^= lowest

    def _shared(self, holders: int) -> int:
        """One integer for all blocks with the same holders: a million of their own would take 32 MB."""
        if len(self._alike) > self._max_blocks // 8:
            self._alike = {}
        return self._alike.setdefault(holders, holders)

    def _drop_oldest(self) -> None:
        _, holders = self._told.popitem(last=False)
        for member in self._named(holders & self._present):
            self._held[member] -= 1

    def _renumber(self) -> None:
        """Give those who are present the first bits, and drop what only those who left held."""
        moves = [(old, 1 << index) for index, old in enumerate(sorted(self._members))]
        members = [self._members[old] for old, _ in moves]
        moved: dict[int, int] = {}

        def move(holders: int) -> int:
            if holders not in moved:
                moved[holders] = sum(new for old, new in moves if holders & old)
            return moved[holders]

        self._told = OrderedDict((block, move(held)) for block, held in self._told.items() if move(held))
        self._expected = {block: move(held) for block, held in self._expected.items() if move(held)}
        self._fading = {block: move(held) for block, held in self._fading.items() if move(held)}
        self._bits = {member: new for member, (_, new) in zip(members, moves, strict=True)}
        self._members = {bit: member for member, bit in self._bits.items()}
        self._present, self._left, self._alike = sum(self._members), 0, {}
