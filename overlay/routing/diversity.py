"""Which relays must not be used together: those of one network or of one operator.

A network is a /24 of IPv4 or a /48 of IPv6. What a relay says of itself is all there is to go by, so an
address that is no IP literal says nothing about where the relay is, and a relay with such an address is not
used under STRICT.
"""

import ipaddress
from collections.abc import Iterable
from enum import StrEnum

from crypto.identity import NodeId
from overlay.wire.descriptor import Descriptor

_V4_PREFIX = 24
_V6_PREFIX = 48


class Diversity(StrEnum):
    """How different the relays of one set of paths must be.

    STRICT: one relay per network and per operator over the whole set. LOCAL: merely different relays, for a
    network on one machine or in one room, where paths hide nothing from whoever runs it.
    """

    STRICT = "strict"
    LOCAL = "local"


def network_of(address: str) -> str | None:
    """The network of `/ip4/A/...` or `/ip6/A/...`, None for an address of any other kind."""
    parts = address.split("/")
    if len(parts) < 3 or parts[0] or parts[1] not in ("ip4", "ip6"):
        return None
    try:
        ip = ipaddress.ip_address(parts[2])
    except ValueError:
        return None
    if (ip.version == 4) != (parts[1] == "ip4"):
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    prefix = _V4_PREFIX if ip.version == 4 else _V6_PREFIX
    return str(ipaddress.ip_network((ip.packed, prefix), strict=False))


def networks_of(descriptor: Descriptor) -> frozenset[str] | None:
    """The networks a node is on; None if it has no address, or one that doesn't tell its network."""
    networks = frozenset(network_of(address) for address in descriptor.addresses)
    known = frozenset(network for network in networks if network is not None)
    return known if networks and len(known) == len(networks) else None


class Mixture:
    """The relays chosen so far, and whether one more may join them."""

    def __init__(self, diversity: Diversity, *, barred: Iterable[NodeId] = ()) -> None:
        self._strict = diversity is Diversity.STRICT
        self._ids = set(barred)
        self._groups: set[str] = set()

    def copy(self) -> "Mixture":
        """An independent mixture of the same relays."""
        twin = Mixture(Diversity.STRICT if self._strict else Diversity.LOCAL, barred=self._ids)
        twin._groups = set(self._groups)
        return twin

    def admits(self, relay: Descriptor) -> bool:
        """Whether this relay is not in yet and shares no group with one that is."""
        if relay.node_id in self._ids:
            return False
        if not self._strict:
            return True
        return networks_of(relay) is not None and self._groups.isdisjoint(_groups_of(relay))

    def add(self, node: Descriptor) -> None:
        """Takes a node in, whether or not it would be admitted."""
        self._ids.add(node.node_id)
        if self._strict:
            self._groups |= _groups_of(node)


def _groups_of(node: Descriptor) -> set[str]:
    known = (network_of(address) for address in node.addresses)
    groups = {f"network {network}" for network in known if network is not None}
    if node.operator:
        groups.add(f"operator {node.operator.casefold()}")
    return groups
