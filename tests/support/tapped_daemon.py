"""Starts real daemons, as `node.preload` does, with a tap at the seam of each: what its links hand it, Noise off.

    python -m tests.support.tapped_daemon FOLDER [layers] [sealing]

Each node writes what arrives into a file of its own in FOLDER. Protections that are named are taken off.
"""

import struct
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import node.daemon
import node.preload
from crypto.identity import NodeId
from overlay.transport.links import Link, Links
from overlay.wire.messages import AnswerCellSent, CloveDelivered, ControlMessage, encode_message
from tests.support.capture import Seam
from tests.support.unprotected import take_off_layers, take_off_sealing

CELL, CLOVE, ANSWER, OTHER = range(4)
_RECORD = struct.Struct(">B32s32sI")


class FileTap:
    """Stands between a node's links and its switch, and writes down what passes. Implements `LinkHandler`."""

    def __init__(self, node_id: NodeId, handler, folder: Path) -> None:
        self._node_id = node_id
        self._handler = handler
        self._file = (folder / node_id.hex()).open("ab", buffering=0)

    def link_opened(self, link: Link) -> None:
        self._handler.link_opened(link)

    def link_closed(self, peer: NodeId, reason: str) -> None:
        self._handler.link_closed(peer, reason)

    def cell_received(self, link: Link, cell: bytes) -> None:
        self._write(CELL, link.peer, cell)
        self._handler.cell_received(link, cell)

    def message_received(self, link: Link, message: ControlMessage) -> None:
        match message:
            case CloveDelivered(_, sealed):
                self._write(CLOVE, link.peer, sealed)
            case AnswerCellSent(_, data):
                self._write(ANSWER, link.peer, data)
            case _:
                self._write(OTHER, link.peer, encode_message(message))
        self._handler.message_received(link, message)

    def _write(self, kind: int, source: NodeId, data: bytes) -> None:
        self._file.write(_RECORD.pack(kind, source, self._node_id, len(data)) + data)


@dataclass
class Taps:
    """What all taps of a folder wrote: by kind, and what passed each node."""

    by_kind: dict[int, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    seams: dict[str, Seam] = field(default_factory=lambda: defaultdict(Seam))


def read_taps(folder: Path) -> Taps:
    taps = Taps()
    for file in folder.iterdir():
        for kind, source, target, data in _records(file.read_bytes()):
            taps.by_kind[kind].append(data)
            came, went = taps.seams[target.hex()], taps.seams[source.hex()]
            if kind == CELL:
                came.cells_in.append(data)
                went.cells_out.append(data)
            elif kind in (CLOVE, ANSWER):
                came.payloads_in.append(data)
                went.payloads_out.append(data)
    return taps


def _records(data: bytes) -> Iterator[tuple[int, bytes, bytes, bytes]]:
    at = 0
    while at + _RECORD.size <= len(data):
        kind, source, target, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if at + length <= len(data):  # the last one may be half written
            yield kind, source, target, data[at : at + length]
        at += length


def main() -> None:
    folder, *without = sys.argv[1:]
    patch = pytest.MonkeyPatch()
    if "layers" in without:
        take_off_layers(patch)
    if "sealing" in without:
        take_off_sealing(patch)

    def tapped(transport, handler, *arguments, **options):
        return Links(transport, FileTap(transport.node_id, handler, Path(folder)), *arguments, **options)

    patch.setattr(node.daemon, "Links", tapped)
    node.preload.main()


if __name__ == "__main__":
    main()
