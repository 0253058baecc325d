"""Who is in a model group, as one member knows it, and which of them are its neighbours. Pure."""

from collections import Counter
from collections.abc import Collection, Mapping

from crypto.identity import NodeId
from overlay.wire.group import Known, MemberTag, Vector, member_tag
from overlay.wire.limits import MAX_GROUP_MEMBERS


class GroupMembers:
    """The members by the directory; this node always is one."""

    def __init__(self, node_id: NodeId) -> None:
        self._node_id = node_id
        self._by_tag: dict[MemberTag, NodeId] = {member_tag(node_id): node_id}
        self.neighbours: tuple[NodeId, ...] = ()

    @property
    def ids(self) -> Collection[NodeId]:
        """All of them, this node too."""
        return self._by_tag.values()

    def __contains__(self, node_id: NodeId) -> bool:
        return self._by_tag.get(member_tag(node_id)) == node_id

    def set(self, ids: Collection[NodeId]) -> Collection[NodeId]:
        """Take these for the members. Returns those who are none any more.

        Over MAX_GROUP_MEMBERS those who are not in yet stay out; so do all whose ids begin alike, since a vector can't
        name them. (Ids that begin like a certain other one take 2^64 tries to find.)
        """
        alike = Counter(map(member_tag, {self._node_id, *ids}))
        fine = {each for each in ids if alike[member_tag(each)] == 1} - {self._node_id}
        old = set(self.ids)
        chosen = sorted(fine & old) + sorted(fine - old)
        members = {self._node_id, *chosen[: MAX_GROUP_MEMBERS - 1]}
        self._by_tag = {member_tag(each): each for each in members}
        self.neighbours = ring_neighbours(self._node_id, members)
        return old - members

    def named(self, part: Mapping[MemberTag, Known]) -> Vector:
        """What a vector says of members."""
        return {self._by_tag[tag]: known for tag, known in part.items() if tag in self._by_tag}


def ring_neighbours(node_id: NodeId, members: Collection[NodeId]) -> tuple[NodeId, ...]:
    """The members 1, 2, 4, ... places after a node on the ring of all ids, itself one of them."""
    ring = sorted(members)
    here = ring.index(node_id)
    steps = (1 << power for power in range(len(ring).bit_length()))
    return tuple(ring[(here + step) % len(ring)] for step in steps if step < len(ring))
