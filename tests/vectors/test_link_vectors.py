import json
from pathlib import Path

import pytest

from crypto.errors import DecodeError
from overlay.wire.messages import MessageReader, decode_message, encode_message

VECTORS = json.loads((Path(__file__).parents[2] / "docs/spec/vectors/links.json").read_text())


@pytest.mark.parametrize("name", VECTORS["frames"])
def test_frame_vector_reads_and_writes(name):
    frame = bytes.fromhex(VECTORS["frames"][name])
    (message,) = MessageReader().feed(frame)
    assert type(message).__name__.lower() == name.replace("_", "")
    assert encode_message(message) == frame


@pytest.mark.parametrize("name", VECTORS["refused_bodies"])
def test_bad_body_vector_is_refused(name):
    with pytest.raises(DecodeError):
        decode_message(bytes.fromhex(VECTORS["refused_bodies"][name]))
