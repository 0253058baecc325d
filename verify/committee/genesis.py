"""The genesis file: which network this is, who its committee is, and how long an epoch lasts.

Everything that a committee signs is bound to the hash of this file's content, so that no signature counts in two
networks. The hash is over the values, not over the JSON: members may stand in the file in any order.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Self

from crypto.errors import DecodeError
from crypto.identity import NodeId, decode_node_id
from overlay.wire.records import pack_record

FORMAT = "clove-genesis/1"
MAX_MEMBERS = 64
MAX_GENESIS_BYTES = 64 * 1024
SHORTEST_EPOCH_S = 10
LONGEST_EPOCH_S = 7 * 86_400
_FIELDS = {"format", "network", "epoch_s", "members"}
_NETWORK = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def quorum_of(members: int) -> int:
    """More than two thirds of so many members."""
    return 2 * members // 3 + 1


@dataclass(frozen=True)
class Genesis:
    """network: the network's name. epoch_s: seconds from one decision to the next. members: ascending, all different.

    Members are counted from 0 in their order; that number stands for a member in everything they sign.
    """

    network: str
    epoch_s: int
    members: tuple[NodeId, ...]

    @classmethod
    def of(cls, network: str, epoch_s: int, members: Iterable[bytes]) -> Self:
        """A genesis of these members, in any order. Raises DecodeError, which says what is wrong."""
        if _NETWORK.fullmatch(network) is None:
            raise DecodeError(
                "genesis: network is 1 to 64 of a-z 0-9 . _ -, and begins with a letter or digit"
            )
        if not SHORTEST_EPOCH_S <= epoch_s <= LONGEST_EPOCH_S:
            raise DecodeError(f"genesis: epoch_s is {SHORTEST_EPOCH_S} to {LONGEST_EPOCH_S}, not {epoch_s}")
        found = tuple(sorted(decode_node_id(member) for member in members))
        if not 1 <= len(found) <= MAX_MEMBERS:
            raise DecodeError(f"genesis: a committee has 1 to {MAX_MEMBERS} members, not {len(found)}")
        for one, other in pairwise(found):
            if one == other:
                raise DecodeError(f"genesis: {one.hex()} is a member twice")
        return cls(network, epoch_s, found)

    @cached_property
    def hash(self) -> bytes:
        """32 bytes that everything signed in this network is bound to."""
        return hashlib.sha256(
            pack_record((FORMAT, self.network, self.epoch_s, b"".join(self.members)))
        ).digest()

    @cached_property
    def quorum(self) -> int:
        """How many members decide (`quorum_of`). Any two quorums share an honest member."""
        return quorum_of(len(self.members))

    @cached_property
    def most_traitors(self) -> int:
        """How many members may do whatever they like; one more can't be all traitors."""
        return (len(self.members) - 1) // 3

    def proposer(self, height: int, round_: int) -> int:
        """Whose turn it is. Each member's comes within as many rounds as there are members."""
        return (height + round_) % len(self.members)

    def number_of(self, node_id: NodeId) -> int | None:
        """A member's number; None for anyone else."""
        return self._numbers.get(node_id)

    @cached_property
    def _numbers(self) -> dict[NodeId, int]:
        return {member: number for number, member in enumerate(self.members)}


def encode_genesis(genesis: Genesis) -> str:
    """The file, as JSON for people."""
    fields = {
        "format": FORMAT,
        "network": genesis.network,
        "epoch_s": genesis.epoch_s,
        "members": [member.hex() for member in genesis.members],
    }
    return json.dumps(fields, indent=2) + "\n"


def decode_genesis(data: bytes) -> Genesis:
    """Reads the file. Raises DecodeError, which names the field, and nothing else."""
    if len(data) > MAX_GENESIS_BYTES:
        raise DecodeError(f"genesis: longer than {MAX_GENESIS_BYTES} bytes")
    try:
        fields = json.loads(data.decode("utf-8"), object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        raise DecodeError("genesis: not JSON in UTF-8") from None
    if not isinstance(fields, dict) or set(fields) != _FIELDS:
        raise DecodeError(f"genesis: its fields are {', '.join(sorted(_FIELDS))}, and no others")
    if fields["format"] != FORMAT:
        raise DecodeError(f"genesis: not of the format {FORMAT}")
    network, epoch_s, members = fields["network"], fields["epoch_s"], fields["members"]
    if not isinstance(network, str):
        raise DecodeError("genesis: network is not a text")
    if type(epoch_s) is not int:
        raise DecodeError("genesis: epoch_s is not a whole number of seconds")
    if not isinstance(members, list):
        raise DecodeError("genesis: members is not a list")
    return Genesis.of(network, epoch_s, [_read_member(member) for member in members])


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise DecodeError("genesis: a field that is there twice")
    return dict(pairs)


def _read_member(value: object) -> NodeId:
    if not isinstance(value, str) or re.fullmatch(r"[0-9a-f]{64}", value) is None:
        raise DecodeError("genesis: a member is a node id, 64 hex digits in lower case")
    try:
        return decode_node_id(bytes.fromhex(value))
    except DecodeError as error:
        raise DecodeError(f"genesis: {value} is no member: {error}") from None
