"""Addresses of nodes as text, and the one-to-one map between node ids and libp2p peer ids.

An address is a multiaddr of the few shapes that a node may announce: `/ip4/A/tcp/P`, `/ip6/A/tcp/P` and
`/dns/NAME/tcp/P` (dns4, dns6 too), each with or without `/p2p/PEER` behind.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from crypto.errors import DecodeError
from crypto.identity import NodeId
from overlay.wire.limits import NODE_ID_BYTES

MAX_ADDRESS_CHARS = 300
_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.")
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PEER_ID_PREFIX = bytes.fromhex("002408011220")
"""Identity multihash of a protobuf-encoded Ed25519 key: what stands before the 32 key bytes in a peer id."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node listens. peer_id is the text behind /p2p/, if it was given."""

    family: str
    host: str
    port: int
    peer_id: str | None = None

    def __str__(self) -> str:
        text = f"/{self.family}/{self.host}/tcp/{self.port}"
        return text if self.peer_id is None else f"{text}/p2p/{self.peer_id}"

    @property
    def is_name(self) -> bool:
        """The host is a name, still to be resolved."""
        return self.family.startswith("dns")


def parse_address(text: str) -> Address:
    """Reads an address. Raises DecodeError for every other shape."""
    parts = text.split("/") if len(text) <= MAX_ADDRESS_CHARS else []
    match parts:
        case ["", family, host, "tcp", port]:
            peer_id = None
        case ["", family, host, "tcp", port, "p2p", peer_id] if peer_id:
            pass
        case _:
            raise DecodeError("address: not of the form /ip4/HOST/tcp/PORT[/p2p/PEER]")
    return Address(family, _host(family, host), _port(port), peer_id)


def _host(family: str, host: str) -> str:
    if family in {"dns", "dns4", "dns6"}:
        name = host.lower()
        if not name or not _NAME_CHARS.issuperset(name):
            raise DecodeError("address: not a host name")
        return name
    try:
        match family:
            case "ip4":
                return str(ipaddress.IPv4Address(host))
            case "ip6":
                return str(ipaddress.IPv6Address(host))
    except ipaddress.AddressValueError as error:
        raise DecodeError("address: not an IP address") from error
    raise DecodeError("address: unknown family")


def _port(text: str) -> int:
    # isdecimal alone lets other scripts' digits through, which int() would read.
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) < 1 << 16):
        raise DecodeError("address: not a port")
    return int(text)


def may_dial(ip: str, *, allow_private: bool) -> bool:
    """Whether a stranger may make us connect to this IP address.

    Private, loopback and link-local ones are for local networks only: they would let a stranger aim our
    connections at machines behind our own firewall.
    """
    parsed = ipaddress.ip_address(ip)
    if parsed.is_multicast or parsed.is_unspecified:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return allow_private or (mapped or parsed).is_global


def dialable(addresses: Sequence[str], node_id: NodeId, *, allow_private: bool) -> list[Address]:
    """Returns those addresses that are well formed, name no other node and may be dialled."""
    peer_id = peer_id_text(node_id)
    usable: list[Address] = []
    for text in addresses:
        try:
            address = parse_address(text)
        except DecodeError:
            continue  # announced by a stranger; another of its addresses may do
        if address.port == 0 or address.peer_id not in {None, peer_id}:
            continue
        if address.is_name or may_dial(address.host, allow_private=allow_private):
            usable.append(address)
    return usable


def peer_id_bytes(node_id: NodeId) -> bytes:
    """Returns the libp2p peer id (binary) of a node."""
    return _PEER_ID_PREFIX + node_id


def peer_id_text(node_id: NodeId) -> str:
    """Returns the libp2p peer id of a node as it is written in addresses (base58)."""
    data = peer_id_bytes(node_id)
    number, digits = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + digits


def node_id_of(peer_id: bytes) -> NodeId:
    """Returns the node behind a libp2p peer id. Raises DecodeError where its key isn't Ed25519."""
    if not peer_id.startswith(_PEER_ID_PREFIX) or len(peer_id) != len(_PEER_ID_PREFIX) + NODE_ID_BYTES:
        raise DecodeError("peer id: not that of an Ed25519 key")
    return NodeId(peer_id[len(_PEER_ID_PREFIX) :])


def parse_entry_point(text: str) -> tuple[NodeId, str]:
    """Reads an address that names its node, as bootstrap lists do. Raises DecodeError without a valid /p2p/ part."""
    address = parse_address(text)
    if address.peer_id is None:
        raise DecodeError("address: an entry point needs /p2p/PEER behind it")
    return node_id_of(_from_base58(address.peer_id)), text


def _from_base58(text: str) -> bytes:
    number = 0
    for digit in text:
        value = _BASE58.find(digit)
        if value < 0:
            raise DecodeError("peer id: not base58")
        number = number * 58 + value
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
