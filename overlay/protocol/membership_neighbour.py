"""What membership knows of one neighbour, and what that neighbour may still make us do."""

from dataclasses import dataclass, field

from crypto.identity import NodeId
from overlay.protocol.rate import RateBucket
from overlay.wire.limits import (
    DESCRIPTOR_GIVEN_BURST,
    DESCRIPTORS_GIVEN_PER_S,
    INDEX_ENTRIES_PER_S,
    INDEX_ENTRY_BURST,
    NEW_NODE_BURST,
    NEW_NODES_PER_S,
)


class Rates:
    """What a neighbour may still make us do: learn of nodes, look at index entries, give descriptors."""

    __slots__ = ("entries", "given", "new_nodes")

    def __init__(self, now: float) -> None:
        self.new_nodes = RateBucket(burst=NEW_NODE_BURST, per_s=NEW_NODES_PER_S, now=now)
        self.entries = RateBucket(burst=INDEX_ENTRY_BURST, per_s=INDEX_ENTRIES_PER_S, now=now)
        self.given = RateBucket(burst=DESCRIPTOR_GIVEN_BURST, per_s=DESCRIPTORS_GIVEN_PER_S, now=now)


@dataclass(slots=True)
class Neighbour:
    """What we know of one neighbour.

    promised: what it says it has and we lack. asked: what we asked it for, until ask_by. doubted: sequence
    numbers that it promised in vain, until believe_at. index_at: when it may have our index (again).
    """

    rates: Rates
    index_at: float
    promised: dict[NodeId, int] = field(default_factory=dict)
    asked: dict[NodeId, int] = field(default_factory=dict)
    ask_by: float | None = None
    doubted: dict[NodeId, int] = field(default_factory=dict)
    believe_at: float = 0.0
