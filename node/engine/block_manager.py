"""Who holds which block of the KV pool, and what prompts the blocks are good for. Pure: no torch, no clock.

Theory of operation
-------------------
The pool has `count` blocks of BLOCK_TOKENS positions. A *table* lists the blocks of one sequence in order. A block is
in one of three states:

- **free**: nobody holds it and nothing is known of its content;
- **held**: one or more tables list it (its reference count says how many);
- **kept**: nobody holds it, but its content is known by a hash, so that a later prompt may hold it again. Kept blocks
  are evicted, least recently used first, when no free ones are left.

A full block gets a hash once it is computed: a keyed BLAKE2b over the hash of the block before it and its own token
ids (`node.engine.block_names`). So equal hashes mean equal tokens from the very start, and a lookup walks the chain
until a hash is unknown: a radix tree whose edges are blocks. The first link of a chain is the *scope*: requests of
different scopes share nothing.

Tables are laid out in *runs*, blocks that follow each other in the pool, since attention reads a run in one call
without copying: a table goes on behind its last block where it can, and a new run starts where it has room to grow.

Invariants: free, held and kept are disjoint and complete; a hash names one block; the sum of references is the sum of
the tables' lengths.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import assert_never

from node.engine.block_names import name_block, name_chain, pack_ids
from node.engine.events import CacheScope
from overlay.wire import group

BLOCK_TOKENS = group.BLOCK_TOKENS
CACHE_KEY_BYTES = 16
PUBLIC_SCOPE = b"public"
_EVICTED_AT_ONCE = 32
"""Evicting one at a time would scatter a table over the pool."""


@dataclass(frozen=True, slots=True)
class BlockStored:
    """A block can be shared from now on within a scope.

    parent: the hash before it in its chain; b"" at the start. ids: of its tokens, as `block_names.pack_ids` has them.
    """

    hash: bytes
    parent: bytes
    scope: bytes
    ids: bytes


@dataclass(frozen=True, slots=True)
class BlockEvicted:
    """A block's content is gone."""

    hash: bytes


CacheEvent = BlockStored | BlockEvicted


def scope_of(cache: CacheScope, session: bytes) -> bytes | None:
    """The scope of a request: everybody's, its session's, or none. A session without a name shares nothing."""
    match cache:
        case "public":
            return PUBLIC_SCOPE
        case "session":
            return b"session" + session if session else None
        case "none":
            return None
        case _:
            assert_never(cache)


@dataclass(slots=True, eq=False)
class BlockTable:
    """The blocks of one sequence. hashes: of its leading blocks that can be shared, which are full and computed.

    scope: None shares nothing, neither way.
    """

    scope: bytes | None = None
    blocks: list[int] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)

    def runs(self, tokens: int, start: int = 0) -> list[tuple[int, int]]:
        """Where positions start .. tokens lie, as (first slot, end slot) pairs in the pool."""
        found: list[tuple[int, int]] = []
        for index in range(start // BLOCK_TOKENS, -(-tokens // BLOCK_TOKENS)):
            first = self.blocks[index] * BLOCK_TOKENS
            begin = first + max(start - index * BLOCK_TOKENS, 0)
            end = first + min(tokens - index * BLOCK_TOKENS, BLOCK_TOKENS)
            if found and found[-1][1] == begin:
                found[-1] = (found[-1][0], end)
            else:
                found.append((begin, end))
        return found

    def slot(self, position: int) -> int:
        """Where a position lies."""
        return self.blocks[position // BLOCK_TOKENS] * BLOCK_TOKENS + position % BLOCK_TOKENS


class BlockManager:
    """The blocks of one pool.

    Args:
        count: blocks in the pool.
        key: keys the hashes, so that they tell a stranger nothing; CACHE_KEY_BYTES long.
        tell: is told what becomes sharable and what is gone, in order.
    """

    def __init__(
        self, count: int, key: bytes, tell: Callable[[CacheEvent], None] = lambda _event: None
    ) -> None:
        self.count = count
        self._tell = tell
        self._key = key
        self._free = set(range(count))
        self._references: Counter[int] = Counter()
        self._kept: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._by_hash: dict[bytes, int] = {}
        self._hashes: dict[int, bytes] = {}

    @property
    def available(self) -> int:
        """Blocks that can be had: free ones, and kept ones that would be evicted."""
        return len(self._free) + len(self._kept)

    def references(self, block: int) -> int:
        """How many tables list a block."""
        return self._references[block]

    def chain(self, scope: bytes | None, tokens: Sequence[int]) -> list[bytes]:
        """The hashes of the full blocks of these tokens; none without a scope."""
        return [] if scope is None else list(name_chain(self._key, scope, tokens))

    def match(self, hashes: Iterable[bytes]) -> int:
        """How many leading blocks of a chain are held or kept."""
        found = 0
        for each in hashes:
            if each not in self._by_hash:
                break
            found += 1
        return found

    def share(self, table: BlockTable, hashes: Sequence[bytes]) -> None:
        """Start an empty table with the blocks of these hashes, all of which must be known (`match`)."""
        for each in hashes:
            block = self._by_hash[each]
            self._kept.pop(block, None)
            self._references[block] += 1
            table.blocks.append(block)
            table.hashes.append(each)

    def grow(self, table: BlockTable, tokens: int) -> bool:
        """Give a table room for so many tokens in all; False, and nothing changed, where there are too few blocks."""
        missing = -(-tokens // BLOCK_TOKENS) - len(table.blocks)
        if missing > self.available:
            return False
        for left in range(missing, 0, -1):
            block = self._take(table.blocks[-1] if table.blocks else None, left)
            self._references[block] = 1
            table.blocks.append(block)
        return True

    def fill(self, table: BlockTable, tokens: Sequence[int]) -> None:
        """The next block of a table is full and computed, and can be shared. tokens: the BLOCK_TOKENS in it."""
        if table.scope is not None:
            parent = table.hashes[-1] if table.hashes else b""
            ids = pack_ids(tokens)
            found = name_block(self._key, parent or table.scope, ids)
            block = table.blocks[len(table.hashes)]
            table.hashes.append(found)
            if found not in self._by_hash:  # else another sequence computed the same meanwhile
                self._by_hash[found] = block
                self._hashes[block] = found
                self._tell(BlockStored(found, parent, table.scope, ids))

    def release(self, table: BlockTable) -> None:
        """A table is not needed any more. Its last blocks are evicted first: they are of use to the fewest."""
        for block in reversed(table.blocks):
            self._references[block] -= 1
            if self._references[block]:
                continue
            del self._references[block]
            if block in self._hashes:
                self._kept[block] = None
            else:
                self._free.add(block)
        table.blocks.clear()
        table.hashes.clear()

    def _take(self, after: int | None, wanted: int) -> int:
        if after is not None and after + 1 in self._free:
            block = after + 1
        else:
            if len(self._free) < wanted:
                self._evict(min(len(self._kept), max(wanted - len(self._free), _EVICTED_AT_ONCE)))
            block = self._start_of_run()
        self._free.remove(block)
        return block

    def _evict(self, count: int) -> None:
        for _ in range(count):
            block, _none = self._kept.popitem(last=False)
            found = self._hashes.pop(block)
            del self._by_hash[found]
            self._tell(BlockEvicted(found))
            self._free.add(block)

    def _start_of_run(self) -> int:
        """Where the largest gap begins, or its middle where a table that may still grow ends before it."""
        free = sorted(self._free)
        starts = [free[0], *(block for before, block in pairwise(free) if block != before + 1)]
        ends = [*(before for before, block in pairwise(free) if block != before + 1), free[-1]]
        begin, end = max(zip(starts, ends, strict=True), key=lambda gap: (gap[1] - gap[0], -gap[0]))
        return begin + (end - begin + 1) // 2 if begin - 1 in self._references else begin
