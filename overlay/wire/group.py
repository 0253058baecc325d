"""What members of a model group tell each other of their caches."""

from collections.abc import Mapping
from dataclasses import dataclass

from crypto.identity import NodeId

BLOCK_TOKENS = 16

BlockHash = bytes
"""8 bytes, keyed: over the hash of the block before it and the ids of BLOCK_TOKENS tokens."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """Blocks that a member stored and evicted since its last entry.

    incarnation: grows with every start of the member. seq counts from 0; base: where the log begins, which is at this
    entry or before it.
    """

    origin: NodeId
    incarnation: int
    seq: int
    base: int
    stored: tuple[BlockHash, ...]
    evicted: tuple[BlockHash, ...]

    @property
    def block_count(self) -> int:
        """Blocks that it mentions."""
        return len(self.stored) + len(self.evicted)


@dataclass(frozen=True, slots=True)
class Known:
    """How far a log is known: this incarnation's entries before `next_seq`."""

    incarnation: int
    next_seq: int


Vector = Mapping[NodeId, Known]
