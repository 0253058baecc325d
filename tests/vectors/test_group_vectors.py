import json
from dataclasses import asdict
from pathlib import Path

import pytest

from crypto.errors import AuthenticationError, DecodeError
from crypto.identity import IdentityKey
from docs.spec.make_vectors_groups import hand_messages, make
from overlay.protocol.group_members import ring_neighbours
from overlay.wire.group import Load, LoadReport, LogEntry, Speed, group_id
from overlay.wire.group_codec import decode_load, decode_log_entry, sign_load, sign_log_entry
from overlay.wire.handover import decode_handed, encode_handed
from overlay.wire.messages import decode_message, encode_message

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


@pytest.mark.parametrize("case", cases("hand_messages"))
def test_hand_message_vector_reads_and_writes(case):
    frame = bytes.fromhex(case["frame"])
    message = decode_message(frame[4:])
    assert type(message).__name__ == case["kind"]
    assert message == hand_messages()[case["name"]]
    assert encode_message(message) == frame


@pytest.mark.parametrize("case", cases("invalid_hand_messages"))
def test_bad_hand_message_vector_is_refused(case):
    with pytest.raises(DecodeError):
        decode_message(bytes.fromhex(case["body"]))


@pytest.mark.parametrize("case", cases("handed"))
def test_handed_prompt_vector_reads_and_writes(case):
    data = bytes.fromhex(case["handed"])
    handed = decode_handed(data)
    prompt, task = handed.task.prompt, handed.task
    assert handed.hops_left == case["hops_left"]
    assert [[member.hex(), wait_s] for member, wait_s in handed.others] == case["others"]
    assert (prompt.model, prompt.text, prompt.nonce.hex()) == (case["model"], case["text"], case["nonce"])
    assert [[turn.role, turn.content] for turn in prompt.messages] == case["messages"]
    assert json.loads(json.dumps(asdict(prompt.sampler))) == case["sampler"]
    assert (task.blinding.hex(), task.cache, task.session.hex()) == (
        case["blinding"],
        case["cache"],
        case["session"],
    )
    assert list(task.given) == case["given"]
    assert encode_handed(handed) == data


@pytest.mark.parametrize("case", cases("invalid_handed"))
def test_bad_handed_prompt_vector_is_refused(case):
    with pytest.raises(DecodeError):
        decode_handed(bytes.fromhex(case["handed"]))
