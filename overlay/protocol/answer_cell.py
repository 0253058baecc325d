"""Answer cells: the fixed 984 bytes that a path carries at every tick of an answer, sealed and opened.

`sequence 8 | AEAD(kind 1 | block 4 | length 2 | fragment | zeros)`. The sequence counts the cells of one path
and is the AEAD's nonce, so a nonce is never used twice: a fragment that is sent again goes into a new cell.
"""

import struct
from dataclasses import dataclass, field
from enum import IntEnum

from crypto.aead import TAG_BYTES, AeadKey, counter_nonce
from crypto.errors import DecodeError
from crypto.identity import NodeId
from crypto.kdf import derive
from overlay.wire.limits import ANSWER_CELL_BYTES

SEQUENCE_BYTES = 8
PLAIN_BYTES = ANSWER_CELL_BYTES - SEQUENCE_BYTES - TAG_BYTES
_HEADER = struct.Struct(">BIH")
FRAGMENT_BYTES = PLAIN_BYTES - _HEADER.size
"""What one cell carries of a block."""


class CellKind(IntEnum):
    """What a cell carries. LAST is a fragment of the block that ends the stream."""

    DUMMY = 0
    FRAGMENT = 1
    LAST = 2


@dataclass(frozen=True, slots=True)
class AnswerTerms:
    """What both ends know of an answer: the secret, who answers, at which attempt, dispersed k of n."""

    serving: NodeId
    response_secret: bytes = field(repr=False)
    k: int
    n: int
    attempt: int = 0

    @property
    def block_bytes(self) -> int:
        """The longest block."""
        return self.k * FRAGMENT_BYTES

    def key(self, number: int) -> AeadKey:
        """The key of the cells of path `number`: no two nodes, attempts or paths share one."""
        label = b"clove-resp/1" + self.serving + struct.pack(">HH", self.attempt, number)
        return AeadKey(derive(self.response_secret, label))


@dataclass(frozen=True, slots=True)
class AnswerCell:
    """An opened answer cell.

    block: number of the block that `fragment` is a part of; in a dummy, how many blocks were sent so far.
    length: bytes of the whole block.
    """

    kind: CellKind
    block: int
    length: int = 0
    fragment: bytes = b""


def seal_cell(key: AeadKey, sequence: int, cell: AnswerCell) -> bytes:
    """Returns ANSWER_CELL_BYTES bytes."""
    head = sequence.to_bytes(SEQUENCE_BYTES, "big")
    plain = (_HEADER.pack(cell.kind, cell.block, cell.length) + cell.fragment).ljust(PLAIN_BYTES, b"\0")
    return head + key.seal(counter_nonce(sequence), plain)


def open_cell(key: AeadKey, data: bytes, k: int) -> tuple[int, AnswerCell]:
    """Returns the sequence and the cell. Raises DecodeError or AuthenticationError.

    Padding after the fragment is not looked at: the sender alone could have written it.
    """
    if len(data) != ANSWER_CELL_BYTES:
        raise DecodeError("answer cell: wrong length")
    sequence = int.from_bytes(data[:SEQUENCE_BYTES], "big")
    plain = key.open(counter_nonce(sequence), data[SEQUENCE_BYTES:])
    kind, block, length = _HEADER.unpack_from(plain)
    if kind not in _KINDS or length > k * FRAGMENT_BYTES or (kind == CellKind.DUMMY and length):
        raise DecodeError("answer cell: bad header")
    end = _HEADER.size + fragment_bytes(length, k)
    return sequence, AnswerCell(CellKind(kind), block, length, plain[_HEADER.size : end])


def fragment_bytes(length: int, k: int) -> int:
    """How long each fragment of a block of `length` bytes is."""
    return -(-length // k)


_KINDS = frozenset(CellKind)
