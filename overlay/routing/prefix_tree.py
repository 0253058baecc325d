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
members there are. For each member there is also a set of the blocks that it told, so that what it told can be undone at
the cost of telling it, and its bit be given to another.

Bounds: over `max_blocks` the block that was touched longest ago goes; over `max_member_blocks` a member's further
claims are not taken, so one that floods pushes nobody out.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

from crypto.identity import NodeId
from overlay.wire.group import BlockHash

MAX_BLOCKS = 1 << 18
MAX_MEMBER_BLOCKS = 1 << 15


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
        self._blocks: dict[NodeId, set[BlockHash]] = {}
        self._free: list[int] = []
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
        return len(self._blocks.get(member, ()))

    # --- what members tell ------------------------------------------------------------------------------

    def store(self, member: NodeId, blocks: Iterable[BlockHash]) -> int:
        """A member holds these. Returns how many were not taken, for want of room for that member."""
        bit, refused = self._bit(member), 0
        held = self._blocks[member]
        for block in blocks:
            holders = self._told.get(block, 0)
            if holders & bit:
                continue
            if len(held) >= self._max_member_blocks:
                refused += 1
                continue
            if not holders and len(self._told) >= self._max_blocks:
                self._drop_oldest()
            self._told[block] = self._shared(holders | bit)
            self._told.move_to_end(block)
            held.add(block)
        return refused

    def evict(self, member: NodeId, blocks: Iterable[BlockHash]) -> None:
        """A member has lost these, also where we only expected them."""
        bit = self._bits.get(member, 0)
        for block in blocks:
            if self._told.get(block, 0) & bit:
                self._blocks[member].remove(block)
                self._take(self._told, block, bit)
            for part in (self._expected, self._fading):
                if part.get(block, 0) & bit:
                    self._take(part, block, bit)

    def retract(self, member: NodeId) -> None:
        """All that a member told is void, since it tells it anew. What we expect of it stays."""
        bit = self._bits.get(member, 0)
        for block in self._blocks.get(member, ()):
            self._take(self._told, block, bit)
        if bit:
            self._blocks[member] = set()

    def forget(self, member: NodeId) -> None:
        """A member has left, or begins anew: nothing of what was known of it holds."""
        self.retract(member)
        bit = self._bits.pop(member, 0)
        if not bit:
            return
        for part in (self._expected, self._fading):
            for block in [block for block, holders in part.items() if holders & bit]:
                self._take(part, block, bit)
        del self._members[bit], self._blocks[member]
        self._present &= ~bit
        self._free.append(bit)

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
            bit = self._free.pop() if self._free else 1 << len(self._bits)
            self._bits[member], self._members[bit], self._blocks[member] = bit, member, set()
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

    def _take(self, blocks: dict[BlockHash, int], block: BlockHash, bit: int) -> None:
        """Take one holder from a block, and the block away with its last."""
        left = blocks[block] & ~bit
        if left:
            blocks[block] = self._shared(left)
        else:
            del blocks[block]

    def _drop_oldest(self) -> None:
        block, holders = self._told.popitem(last=False)
        for member in self._named(holders):
            self._blocks[member].remove(block)
