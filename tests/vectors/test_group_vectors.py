import json
from pathlib import Path

import pytest

from crypto.errors import AuthenticationError, DecodeError
from crypto.identity import IdentityKey
from docs.spec.make_vectors_groups import make
from overlay.protocol.group_members import ring_neighbours
from overlay.wire.group import Load, LoadReport, LogEntry, Speed, group_id
from overlay.wire.group_codec import decode_load, decode_log_entry, sign_load, sign_log_entry

TEXT = (Path(__file__).parents[2] / "docs/spec/vectors/groups.json").read_text()
VECTORS = json.loads(TEXT)
GROUP = bytes.fromhex(VECTORS["group"])
ALICE = IdentityKey.from_seed(bytes.fromhex(VECTORS["identity_seed"]))
ERRORS = {"decode": DecodeError, "authentication": AuthenticationError}


def cases(part):
    return [pytest.param(case, id=case["name"]) for case in VECTORS[part]]


def test_vectors_are_what_the_script_makes():
    assert make() == TEXT


def test_group_vector_has_its_id():
    network = bytes.fromhex(VECTORS["network"])
    assert group_id(network, VECTORS["model_id"], VECTORS["numerics_class"]) == GROUP


@pytest.mark.parametrize("case", cases("entries"))
def test_entry_vector_reads_and_writes(case):
    blocks = [tuple(map(bytes.fromhex, case[part])) for part in ("stored", "evicted")]
    entry = LogEntry(bytes.fromhex(case["origin"]), case["incarnation"], case["seq"], case["base"], *blocks)
    blob = bytes.fromhex(case["entry"])
    assert decode_log_entry(blob, GROUP).check() == entry
    assert sign_log_entry(ALICE.sign, GROUP, entry) == blob


@pytest.mark.parametrize("case", cases("loads"))
def test_load_vector_reads_and_writes(case):
    speed, load = Speed(**case["speed"]), Load(**case["load"])
    report = LoadReport(bytes.fromhex(case["origin"]), case["incarnation"], case["seq"], speed, load)
    blob = bytes.fromhex(case["report"])
    assert decode_load(blob, GROUP).check() == report
    assert sign_load(ALICE.sign, GROUP, report) == blob


@pytest.mark.parametrize("case", cases("invalid_entries"))
def test_bad_entry_vector_is_refused(case):
    with pytest.raises(ERRORS[case["error"]]):
        decode_log_entry(bytes.fromhex(case["entry"]), GROUP).check()


@pytest.mark.parametrize("case", cases("invalid_loads"))
def test_bad_load_vector_is_refused(case):
    with pytest.raises(ERRORS[case["error"]]):
        decode_load(bytes.fromhex(case["report"]), GROUP).check()


def test_ring_vector_has_its_neighbours():
    ring = VECTORS["ring"]
    members = [bytes.fromhex(each) for each in ring["members"]]
    found = ring_neighbours(bytes.fromhex(ring["node_id"]), members)
    assert [each.hex() for each in found] == ring["neighbours"]
