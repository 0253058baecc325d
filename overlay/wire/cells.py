"""Cells: the only thing that travels on `/clove/link/1`. Fixed size, see docs/spec/cells.md.

`circ_id 4 | cmd 1 | reserved 3 | body 1016`, big-endian. A circuit id means something on one link only. So
that the two ends never pick the same one, the end with the larger node id sets the top bit of the ids that it
allocates.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NewType

from crypto.entropy import Entropy
from crypto.errors import DecodeError
from crypto.identity import NodeId
from overlay.wire.limits import CELL_BODY_BYTES, CELL_BYTES, CELL_HEADER_BYTES

CircuitId = NewType("CircuitId", int)
"""Link-local name of a circuit: 1..2^32-1."""

_TOP_BIT = 1 << 31
_HEADER = struct.Struct(">IB3x")
_HEADER_CHECKED = struct.Struct(">IB3s")
_RESERVED = bytes(3)


class Command(IntEnum):
    """What a cell asks of the node that gets it. FWD is outbound, BWD inbound."""

    PAD = 0
    BUILD = 1
    BUILT = 2
    FWD = 3
    BWD = 4
    DESTROY = 5


# A tuple lookup costs a tenth of `Command(value)`, and every cell pays for it.
_COMMANDS = tuple(Command)


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: a circuit, a command and a body of exactly CELL_BODY_BYTES."""

    circ_id: CircuitId
    command: Command
    body: bytes


def encode_cell(cell: Cell) -> bytes:
    """Return the CELL_BYTES of a cell."""
    if len(cell.body) != CELL_BODY_BYTES:
        raise ValueError(f"a cell's body has {CELL_BODY_BYTES} bytes, not {len(cell.body)}")
    return _HEADER.pack(cell.circ_id, cell.command) + cell.body


def decode_cell(data: bytes) -> Cell:
    """Read one cell; a DecodeError closes the link that it came over."""
    if len(data) != CELL_BYTES:
        raise DecodeError(f"a cell has {CELL_BYTES} bytes, not {len(data)}")
    circ_id, command, reserved = _HEADER_CHECKED.unpack_from(data)
    if command >= len(_COMMANDS):
        raise DecodeError(f"unknown cell command {command}")
    if reserved != _RESERVED:
        raise DecodeError("a cell's reserved bytes are not zero")
    if circ_id == 0 and command != Command.PAD:
        raise DecodeError("circuit id 0 is for padding only")
    return Cell(CircuitId(circ_id), _COMMANDS[command], data[CELL_HEADER_BYTES:])


def destroy_cell(circ_id: CircuitId, entropy: Entropy) -> Cell:
    """Return the cell that ends a circuit. Its body is noise: a constant one would recur from hop to hop."""
    return Cell(circ_id, Command.DESTROY, entropy(CELL_BODY_BYTES))


def pad_cell(entropy: Entropy) -> Cell:
    """Return a cell that means nothing and is not passed on."""
    return Cell(CircuitId(0), Command.PAD, entropy(CELL_BODY_BYTES))


def is_allocated_by(allocator: NodeId, other: NodeId, circ_id: CircuitId) -> bool:
    """Say whether `circ_id` is of the half that `allocator` may draw from on its link to `other`."""
    return (circ_id >= _TOP_BIT) == (allocator > other)


def choose_circuit_id(
    own: NodeId, peer: NodeId, *, taken: Callable[[CircuitId], bool], entropy: Entropy
) -> CircuitId:
    """Draw an unused circuit id for the link to `peer`."""
    while True:
        drawn = int.from_bytes(entropy(4), "big") % _TOP_BIT
        circ_id = CircuitId(drawn | _TOP_BIT if own > peer else drawn)
        if drawn and not taken(circ_id):
            return circ_id
