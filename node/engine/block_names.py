"""What a block of tokens is called: a keyed hash over what its chain begins with and its own ids. Pure.

A name stands for all tokens from the very start: that of a block is hashed over the name of the block before it, and
the first one over the *scope*, so that prompts of different scopes have no name in common. Scopes are longer or shorter
than names, so neither is taken for the other.

The same construction serves under two keys. An engine worker's own, random for each of its lives, names the blocks of
its pool and never leaves it. A *group key*, which all members of a model group have, names those that members tell each
other of. Who has it can test guesses: he names a text that he guesses, and looks whether that name was told. So only
blocks that anybody may share are told in it.
"""

from collections.abc import Sequence
from hashlib import blake2b
from struct import Struct

from overlay.wire.group import BLOCK_TOKENS, BlockHash

HASH_BYTES = 8
MAX_KEY_BYTES = blake2b.MAX_KEY_SIZE
_IDS = Struct(f"<{BLOCK_TOKENS}I")


def pack_ids(tokens: Sequence[int]) -> bytes:
    """The BLOCK_TOKENS ids of a block as they are hashed and kept: 4 bytes each."""
    return _IDS.pack(*tokens)


def name_block(key: bytes, parent: bytes, ids: bytes) -> BlockHash:
    """The name of a block. parent: the name of the block before it, or the scope at the start; ids: as packed.

    key: 1 to MAX_KEY_BYTES bytes; without one, the name would be anybody's to test.
    """
    return blake2b(parent + ids, key=key, digest_size=HASH_BYTES).digest()


def name_chain(key: bytes, scope: bytes, tokens: Sequence[int]) -> tuple[BlockHash, ...]:
    """The names of the full blocks of these tokens."""
    names: list[BlockHash] = []
    before = scope
    for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        before = name_block(key, before, pack_ids(tokens[start : start + BLOCK_TOKENS]))
        names.append(before)
    return tuple(names)
