"""Makes docs/spec/vectors/links.json: `python -m docs.spec.make_vectors_links` in the repository's root.

Every control message as a frame, and bodies that must be refused; byte strings are hex.
"""

import json
from pathlib import Path

import msgpack

from overlay.wire.group import GroupId, Known
from overlay.wire.group_messages import GroupNews, GroupVector
from overlay.wire.messages import (
    AnswerCellSent,
    AnswerRefused,
    CloveDelivered,
    ControlMessage,
    DescriptorsGiven,
    DescriptorsWanted,
    DirectoryDigest,
    DirectoryIndex,
    Heartbeat,
    Hello,
    LinkClosing,
    encode_message,
)

NODE, OTHER, TOKEN = bytes(range(32)), bytes(range(32, 64)), bytes(range(16))

MESSAGES: dict[str, ControlMessage] = {
    "hello": Hello(1, b"clove-test", 12, 1_800_000_000, bytes(range(8))),
    "heartbeat": Heartbeat(),
    "link_closing": LinkClosing("bye"),
    "directory_digest": DirectoryDigest(2, NODE),
    "directory_index": DirectoryIndex(((NODE, 7), (OTHER, 1 << 40))),
    "descriptors_wanted": DescriptorsWanted((NODE, OTHER)),
    "descriptors_given": DescriptorsGiven((b"one", b"two")),
    "clove_delivered": CloveDelivered(TOKEN, b"sealed"),
    "answer_cell_sent": AnswerCellSent(TOKEN, bytes(984)),
    "answer_refused": AnswerRefused(TOKEN),
    "group_vector": GroupVector(
        GroupId(TOKEN),
        {NODE[:8]: Known(7, 3), OTHER[:8]: Known(8, 0)},
        {NODE[:8]: Known(7, 9), OTHER[:8]: Known(9, 1)},
        is_reply=False,
    ),
    "group_news": GroupNews(GroupId(TOKEN), (b"one", b"two"), (b"load",)),
}

REFUSED: dict[str, bytes] = {
    "empty": b"",
    "not an array": msgpack.packb({1: 2}),
    "unknown kind": msgpack.packb([99]),
    "a field left over": msgpack.packb([2, 0]),
    "a field missing": msgpack.packb([1, 1, b"net", 0, 0]),
    "a truth value for a number": msgpack.packb([1, True, b"net", 0, 0, bytes(8)]),
    "a negative number": msgpack.packb([1, -1, b"net", 0, 0, bytes(8)]),
    "text for bytes": msgpack.packb([1, 1, "net", 0, 0, bytes(8)]),
    "a short token": msgpack.packb([34, bytes(15)]),
    "a short answer cell": msgpack.packb([33, TOKEN, bytes(983)]),
    "half an index entry": msgpack.packb([17, bytes(41)]),
    "an empty descriptor": msgpack.packb([19, [b""]]),
    "a long reason": msgpack.packb([3, "x" * 201]),
    "half a row of a vector": msgpack.packb([48, TOKEN, 0, bytes(21)]),
    "a row of a vector twice": msgpack.packb([48, TOKEN, 0, bytes(44)]),
    "a row that says nothing": msgpack.packb([48, TOKEN, 0, bytes(14) + b"\xff" * 8]),
    "a truth value for a reply": msgpack.packb([48, TOKEN, True, b""]),
    "a report of load too long": msgpack.packb([49, TOKEN, [], [bytes(140)]]),
    "bytes after the array": msgpack.packb([2]) + b"\0",
    "longer than its kind allows": msgpack.packb([3, "x" * 1200]),
}


def vectors() -> dict[str, object]:
    """Returns what the file holds."""
    return {
        "frames": {name: encode_message(message).hex() for name, message in MESSAGES.items()},
        "refused_bodies": {name: body.hex() for name, body in REFUSED.items()},
    }


if __name__ == "__main__":
    target = Path(__file__).parent / "vectors" / "links.json"
    target.write_text(json.dumps(vectors(), indent=2) + "\n")
