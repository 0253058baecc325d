"""Makes docs/spec/vectors/cells.json: `python -m docs.spec.make_cell_vectors` in the root.

Byte strings are hex. `refused` holds what a decoder must not accept, by what is wrong with it.
"""

import json
from pathlib import Path

from crypto.identity import NodeId
from overlay.wire.cells import Cell, CircuitId, Command, encode_cell
from overlay.wire.contents import (
    Close,
    CloseReason,
    CloveFragment,
    Content,
    Dummy,
    Ping,
    Response,
    SendMe,
    Undelivered,
    encode_inbound,
    encode_outbound,
    split_clove,
)
from overlay.wire.limits import (
    ANSWER_CELL_BYTES,
    CELL_BODY_BYTES,
    FIRST_FRAGMENT_BYTES,
    MAX_CLOVE_FRAGMENTS,
    NEXT_FRAGMENT_BYTES,
)
from tests.support.entropy import fixed_entropy

VECTORS = Path(__file__).parent / "vectors" / "cells.json"
_draw = fixed_entropy("clovenet cell vectors 1")
BODY, MESSAGE, DESTINATION = _draw(CELL_BODY_BYTES), _draw(8), NodeId(_draw(32))
SEALED = _draw(FIRST_FRAGMENT_BYTES + NEXT_FRAGMENT_BYTES + 100)

OUTBOUND: tuple[tuple[str, Content], ...] = (
    *((f"clove, piece {piece.index}", piece) for piece in split_clove(DESTINATION, MESSAGE, SEALED)),
    ("sendme", SendMe()),
    ("ping", Ping(MESSAGE)),
    ("dummy", Dummy()),
)
INBOUND: tuple[tuple[str, Content], ...] = (
    ("response", Response(MESSAGE, _draw(ANSWER_CELL_BYTES))),
    ("sendme", SendMe()),
    ("pong", Ping(MESSAGE)),
    ("dummy", Dummy()),
    ("close", Close(CloseReason.DRAINING)),
    ("undelivered", Undelivered(MESSAGE)),
)
BAD_FRAGMENTS = {
    "index not below count": CloveFragment(MESSAGE, 1, 1, b"x"),
    "too many pieces": CloveFragment(MESSAGE, 1, MAX_CLOVE_FRAGMENTS + 1, SEALED[:NEXT_FRAGMENT_BYTES]),
    "short before the last": CloveFragment(MESSAGE, 0, 2, b"x", DESTINATION),
    "empty": CloveFragment(MESSAGE, 1, 2, b""),
    "no destination": CloveFragment(MESSAGE, 0, 1, b""),
}


def make_cells() -> dict[str, object]:
    """One cell of each command, and cells that are malformed."""
    cells = [Cell(CircuitId(0x80000001 + command), command, BODY) for command in Command]
    good = encode_cell(cells[Command.FWD])
    return {
        "accepted": [
            {
                "circ_id": cell.circ_id,
                "command": cell.command.name,
                "body": cell.body.hex(),
                "cell": encode_cell(cell).hex(),
            }
            for cell in cells
        ],
        "refused": {
            "short": good[:-1].hex(),
            "long": (good + b"\0").hex(),
            "unknown command": (good[:4] + b"\6" + good[5:]).hex(),
            "reserved byte set": (good[:6] + b"\1" + good[7:]).hex(),
            "circuit id 0": (bytes(4) + good[4:]).hex(),
        },
    }


def make_contents() -> dict[str, object]:
    """Contents of both directions, and what each decoder must refuse."""
    ping, response = encode_outbound(Ping(MESSAGE)), encode_inbound(INBOUND[0][1])
    damaged = {
        "unknown rcmd": b"\x08" + ping[1:],
        "flags set": ping[:1] + b"\1" + ping[2:],
        "length beyond the content": ping[:2] + b"\xff\xff" + ping[4:],
        "wrong length of payload": ping[:3] + b"\x09" + ping[4:],
        "stray byte in the zeros": ping[:-1] + b"\1",
        "of the other direction": encode_inbound(Undelivered(MESSAGE))[: len(ping)],
    }
    return {
        "outbound": {name: encode_outbound(content).hex() for name, content in OUTBOUND},
        "inbound": {name: encode_inbound(content).hex() for name, content in INBOUND},
        "refused outbound": {name: data.hex() for name, data in damaged.items()}
        | {name: encode_outbound(fragment).hex() for name, fragment in BAD_FRAGMENTS.items()},
        "refused inbound": {
            "short answer cell": (response[:2] + b"\x03\xdf" + response[4:-5] + bytes(5)).hex(),
            "unknown close reason": b"\6\0\0\1\2".ljust(len(response), b"\0").hex(),
            "of the other direction": encode_outbound(OUTBOUND[0][1]).ljust(len(response), b"\0").hex(),
        },
    }


def make() -> dict[str, object]:
    """All of the file."""
    return {
        "clove": {
            "destination": DESTINATION.hex(),
            "message": MESSAGE.hex(),
            "sealed": SEALED.hex(),
        },
        "cells": make_cells(),
        "contents": make_contents(),
    }


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(make(), indent=1) + "\n")
