"""The specification's vectors of prompts and answers hold for the code; cells are opened by other means too."""

import json

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crypto.dispersal import reassemble
from crypto.errors import AuthenticationError, DecodeError
from docs.spec import make_stream_vectors as made
from overlay.protocol.answer_cell import open_cell
from overlay.protocol.envelope import SealedUpdate, open_update, update_key
from overlay.wire.answer_codec import EventReader, decode_event
from overlay.wire.prompt_codec import decode_prompt_message
from overlay.wire.update import decode_update

PROMPTS, ANSWERS = (json.loads((made.VECTORS / f"{name}.json").read_text()) for name in made.MAKERS)
unhex = bytes.fromhex


def refused(vectors, kind):
    return pytest.mark.parametrize(
        "data", [pytest.param(unhex(case["bytes"]), id=case["why"]) for case in vectors[kind]]
    )


def key_of(label, *numbers):
    info = label + unhex(ANSWERS["node_id"]) + b"".join(number.to_bytes(2, "big") for number in numbers)
    return ChaCha20Poly1305(HKDF(SHA256(), 32, None, info).derive(unhex(ANSWERS["response_secret"])))


@pytest.mark.parametrize("name", made.MAKERS)
def test_files_are_what_the_script_makes(name):
    assert (made.VECTORS / f"{name}.json").read_text() == made.encode(made.MAKERS[name]())


def test_messages():
    chat, text, rest = (decode_prompt_message(unhex(case["bytes"])) for case in PROMPTS["messages"])
    assert chat == made.a_message(made.CHAT, "session")
    assert text == made.a_message(made.TEXT)
    assert rest == made.a_message(made.CHAT, "session", made.GIVEN)


@refused(PROMPTS, "refused_messages")
def test_refused_message(data):
    with pytest.raises(DecodeError):
        decode_prompt_message(data)


def test_updates():
    (case,) = PROMPTS["updates"]
    assert decode_update(unhex(case["bytes"])) == made.UPDATE
    sealed = SealedUpdate(unhex(case["mid"]), case["sequence"], unhex(case["sealed"]))
    assert open_update(update_key(made.TERMS), sealed) == made.UPDATE
    nonce = case["sequence"].to_bytes(12, "big")
    plain = key_of(b"clove-update/1", case["attempt"]).decrypt(nonce, sealed.sealed, sealed.mid)
    assert plain == unhex(case["bytes"])


@refused(PROMPTS, "refused_updates")
def test_refused_update(data):
    with pytest.raises(DecodeError):
        decode_update(data)


def test_events():
    assert tuple(decode_event(unhex(data)) for data in ANSWERS["events"]) == made.EVENTS


@refused(ANSWERS, "refused_events")
def test_refused_event(data):
    with pytest.raises(DecodeError):
        decode_event(data)


@pytest.mark.parametrize("case", ANSWERS["cells"], ids=lambda case: f"{case['path']}-{case['sequence']}")
def test_cell(case):
    data = unhex(case["bytes"])
    sequence, cell = open_cell(made.TERMS.key(case["path"]), data, ANSWERS["k"])
    assert (sequence, cell.kind, cell.block) == (case["sequence"], case["kind"], case["block"])
    assert cell.fragment == unhex(case["fragment"])
    key = key_of(b"clove-resp/1", ANSWERS["attempt"], case["path"])
    plain = key.decrypt(data[:8].rjust(12, b"\0"), data[8:], None)
    head = bytes([cell.kind]) + cell.block.to_bytes(4, "big") + cell.length.to_bytes(2, "big")
    assert plain == (head + cell.fragment).ljust(960, b"\0")


def test_any_two_cells_give_the_block_and_its_events():
    block = unhex(ANSWERS["block"])
    for first, second in ((0, 1), (0, 2), (1, 2)):
        fragments = {index: unhex(ANSWERS["cells"][index]["fragment"]) for index in (first, second)}
        assert reassemble(fragments, 2, 3, len(block)) == block
    assert tuple(EventReader().feed(block)) == made.EVENTS


@refused(ANSWERS, "refused_cells")
def test_refused_cell(data):
    with pytest.raises((DecodeError, AuthenticationError)):
        open_cell(made.TERMS.key(0), data, ANSWERS["k"])
