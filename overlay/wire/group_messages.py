"""What members of a model group send each other over a link: how far each knows what, and what the other lacks.

A vector is packed into rows of 22 bytes, `member 8 | incarnation 6 | entries u32 | loads u32`: of that incarnation of
the member, entries and reports with a smaller seq are known. A member's log and its reports mostly share an incarnation
and so a row; where they don't, there are two, and `_SILENT` stands for what a row does not speak of.

A member is named by the first 8 bytes of its NodeId. Nodes whose ids begin alike can't be told apart, so nobody takes
them for members (`overlay/protocol/group_members.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from crypto.errors import DecodeError
from overlay.wire.group import MEMBER_TAG_BYTES, GroupId, Known, MemberTag
from overlay.wire.limits import BLOB_HEADER_BYTES, GROUP_MESSAGE_BYTES, MAX_VECTOR_ROWS

_SILENT = (1 << 32) - 1
_INCARNATION_BYTES = 6
ROW_BYTES = MEMBER_TAG_BYTES + _INCARNATION_BYTES + 4 + 4
MAX_VECTOR_BYTES = MAX_VECTOR_ROWS * ROW_BYTES

NOTHING_WANTED = Known((1 << (8 * _INCARNATION_BYTES)) - 1, 0)
"""Stands where somebody knows more of something than can be: he wants none of it for now."""


@dataclass(frozen=True, slots=True)
class GroupVector:
    """How far the sender knows the members' logs and reports of their load.

    is_reply: it answers a vector, lists only what the receiver seemed to know more of, and is not answered by another.
    Else what it does not list is not known at all.
    """

    group: GroupId
    entries: Mapping[MemberTag, Known]
    loads: Mapping[MemberTag, Known]
    is_reply: bool


@dataclass(frozen=True, slots=True)
class GroupNews:
    """Signed log entries and reports of load, each to be decoded and checked by itself."""

    group: GroupId
    entries: tuple[bytes, ...]
    loads: tuple[bytes, ...]


GroupMessage = GroupVector | GroupNews


def counted_bytes(message: GroupMessage) -> int:
    """What a message counts as where rates are kept: about its length, and no less than GROUP_MESSAGE_BYTES."""
    if isinstance(message, GroupVector):
        length = ROW_BYTES * (len(message.entries) + len(message.loads))
    else:
        length = sum(len(blob) + BLOB_HEADER_BYTES for blob in message.entries + message.loads)
    return max(GROUP_MESSAGE_BYTES, length)


def pack_vector(entries: Mapping[MemberTag, Known], loads: Mapping[MemberTag, Known]) -> bytes:
    """The rows of a vector, in order."""
    rows: dict[tuple[MemberTag, int], list[int]] = {}
    for column, part in enumerate((entries, loads)):
        for tag, known in part.items():
            rows.setdefault((tag, known.incarnation), [_SILENT, _SILENT])[column] = known.next_seq
    return b"".join(
        tag
        + incarnation.to_bytes(_INCARNATION_BYTES, "big")
        + b"".join(next_seq.to_bytes(4, "big") for next_seq in row)
        for (tag, incarnation), row in sorted(rows.items())
    )


def read_vector(packed: bytes) -> tuple[dict[MemberTag, Known], dict[MemberTag, Known]]:
    """The entries and loads that rows speak of. Raises DecodeError where `pack_vector` would not have written them."""
    if len(packed) > MAX_VECTOR_BYTES or len(packed) % ROW_BYTES:
        raise DecodeError("group vector: not a whole number of rows, or too many")
    entries: dict[MemberTag, Known] = {}
    loads: dict[MemberTag, Known] = {}
    for at in range(0, len(packed), ROW_BYTES):
        row = packed[at : at + ROW_BYTES]
        tag, incarnation = row[:MEMBER_TAG_BYTES], int.from_bytes(row[MEMBER_TAG_BYTES:-8], "big")
        for part, column in ((entries, row[-8:-4]), (loads, row[-4:])):
            next_seq = int.from_bytes(column, "big")
            if next_seq != _SILENT:
                part[tag] = Known(incarnation, next_seq)
    if pack_vector(entries, loads) != packed:
        raise DecodeError("group vector: rows out of order, twice or empty")
    return entries, loads
