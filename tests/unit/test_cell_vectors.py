"""The vectors of docs/spec/cells.md: this code makes them, accepts what it must and refuses the rest."""

import json

import pytest

from crypto.errors import DecodeError
from docs.spec.make_cell_vectors import INBOUND, OUTBOUND, VECTORS, make
from overlay.wire.cells import Cell, CircuitId, Command, decode_cell
from overlay.wire.contents import decode_inbound, decode_outbound

FILE = json.loads(VECTORS.read_text())
CONTENTS = FILE["contents"]


def test_vectors_are_what_the_code_makes():
    assert json.loads(json.dumps(make())) == FILE


@pytest.mark.parametrize("vector", FILE["cells"]["accepted"], ids=lambda vector: vector["command"])
def test_cell_is_decoded(vector):
    body = bytes.fromhex(vector["body"])
    expected = Cell(CircuitId(vector["circ_id"]), Command[vector["command"]], body)
    assert decode_cell(bytes.fromhex(vector["cell"])) == expected


@pytest.mark.parametrize("wrong", FILE["cells"]["refused"])
def test_malformed_cell_is_refused(wrong):
    with pytest.raises(DecodeError):
        decode_cell(bytes.fromhex(FILE["cells"]["refused"][wrong]))


def test_contents_are_decoded():
    for name, content in OUTBOUND:
        assert decode_outbound(bytes.fromhex(CONTENTS["outbound"][name])) == content
    for name, content in INBOUND:
        assert decode_inbound(bytes.fromhex(CONTENTS["inbound"][name])) == content


@pytest.mark.parametrize("wrong", CONTENTS["refused outbound"])
def test_malformed_outbound_content_is_refused(wrong):
    with pytest.raises(DecodeError):
        decode_outbound(bytes.fromhex(CONTENTS["refused outbound"][wrong]))


@pytest.mark.parametrize("wrong", CONTENTS["refused inbound"])
def test_malformed_inbound_content_is_refused(wrong):
    with pytest.raises(DecodeError):
        decode_inbound(bytes.fromhex(CONTENTS["refused inbound"][wrong]))
