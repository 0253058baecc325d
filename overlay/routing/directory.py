"""The directory: an immutable snapshot of every valid descriptor that a node holds.

Paths are chosen over a snapshot and never by a lookup, which would tell others who is about to be used.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from crypto.identity import NodeId
from overlay.wire.descriptor import Descriptor, ModelOffer, Role, digest_of


class Directory:
    """Descriptors by node id. Built only from descriptors whose signature and time have been checked."""

    __slots__ = ("_by_id", "_digest", "_models", "_relays")

    def __init__(self, descriptors: Iterable[Descriptor] = ()) -> None:
        by_id = {descriptor.node_id: descriptor for descriptor in descriptors}
        self._by_id: Mapping[NodeId, Descriptor] = MappingProxyType(dict(sorted(by_id.items())))
        self._relays = tuple(found for found in self if Role.RELAY in found.roles and found.addresses)
        self._models = tuple(found for found in self if Role.MODEL in found.roles and found.addresses)
        self._digest: bytes | None = None

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Descriptor]:
        """In the order of node ids."""
        return iter(self._by_id.values())

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._by_id

    def find(self, node_id: NodeId) -> Descriptor | None:
        """The descriptor of this node."""
        return self._by_id.get(node_id)

    def relays(self) -> tuple[Descriptor, ...]:
        """Every relay that can be dialled."""
        return self._relays

    def model_nodes(self) -> tuple[Descriptor, ...]:
        """Every model node that can be dialled, whatever it serves."""
        return self._models

    def serving(self, model: str) -> tuple[Descriptor, ...]:
        """The model nodes that serve this model id or alias."""
        return tuple(found for found in self._models if found.offer_of(model) is not None)

    def serves_alike(self, node_id: NodeId, offer: ModelOffer) -> bool:
        """Whether this node serves the model of an offer with the same arithmetic."""
        found = self.find(node_id)
        own = None if found is None else found.offer_of(offer.model_id)
        return own is not None and own.numerics_class == offer.numerics_class

    @property
    def digest(self) -> bytes:
        """32 bytes that are equal for two directories with the same nodes and sequence numbers."""
        if self._digest is None:
            self._digest = digest_of((found.node_id, found.seq) for found in self)
        return self._digest
