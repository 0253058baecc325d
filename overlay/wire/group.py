"""What members of a model group tell each other of their caches, and of how busy they are."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NewType

from crypto.identity import NodeId
from overlay.wire.prompt import ModelId

BLOCK_TOKENS = 16

GROUP_ID_BYTES = 16
MEMBER_TAG_BYTES = 8

GroupId = NewType("GroupId", bytes)
"""16 bytes: which network, which model, which arithmetic."""

MemberTag = bytes
"""The first 8 bytes of a member's NodeId."""

BlockHash = bytes
"""8 bytes, keyed: over the hash of the block before it and the ids of BLOCK_TOKENS tokens."""

_GROUP_LABEL = b"clove-group/1"


def group_id(network: bytes, model_id: ModelId, numerics_class: str) -> GroupId:
    """The group of the nodes that serve this model with this arithmetic in this network."""
    hashed = hashlib.sha256(_GROUP_LABEL)
    for part in (network, model_id.encode(), numerics_class.encode()):
        hashed.update(len(part).to_bytes(2, "big") + part)
    return GroupId(hashed.digest()[:GROUP_ID_BYTES])


def member_tag(member: NodeId) -> MemberTag:
    """How a vector names a member."""
    return member[:MEMBER_TAG_BYTES]


@dataclass(frozen=True, slots=True)
class LogEntry:
    """Blocks that a member stored and evicted since its last entry; no block is in both.

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


@dataclass(frozen=True, slots=True, order=True)
class Known:
    """How far something is known: of this incarnation, what has a seq before `next_seq`. The greater knows more."""

    incarnation: int
    next_seq: int


Vector = Mapping[NodeId, Known]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What a member has measured of itself, in seconds.

    prefill_token_s: of one prompt token in a long chunk. attended_s: of one token attending to one position.
    mixed_tokens: prompt tokens that it reads in a step while it answers others; mixed_step_s: of such a step.
    """

    prefill_token_s: float
    attended_s: float
    mixed_step_s: float
    mixed_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How busy a member is.

    queued_tokens: uncached prompt tokens that it has yet to read. free_slots: answers that could begin at once.
    answer_s: until the next of its answers is over, where no slot is free. decoding_s: until the present ones all are,
    while prompts are read beside them.
    """

    queued_tokens: int
    decoding: int
    free_slots: int
    answer_s: float
    decoding_s: float


@dataclass(frozen=True, slots=True)
class LoadReport:
    """A member's speed and load, as it tells them; of two, the one with the greater (incarnation, seq) counts."""

    origin: NodeId
    incarnation: int
    seq: int
    speed: Speed
    load: Load

    @property
    def known(self) -> Known:
        """How far the member's reports are known to who has this one."""
        return Known(self.incarnation, self.seq + 1)
