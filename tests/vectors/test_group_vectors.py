import json
from pathlib import Path

import msgpack
import pytest

from crypto.errors import AuthenticationError, DecodeError
from crypto.identity import IdentityKey
from docs.spec.make_vectors_groups import HAND_MESSAGES, HANDED, make
from overlay.protocol.group_members import ring_neighbours
from overlay.wire.group import Load, LoadReport, LogEntry, Speed, group_id
from overlay.wire.group_codec import decode_load, decode_log_entry, sign_load, sign_log_entry
from overlay.wire.handover import decode_handed, encode_handed
from overlay.wire.limits import MAX_ASKED_BLOCKS, MAX_HAND_BYTES, MAX_HAND_PART_BYTES
from overlay.wire.messages import decode_message, encode_message
from overlay.wire.prompt import MAX_GIVEN_TOKENS
from overlay.wire.records import pack_record, unpack_record

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
    message, body = HAND_MESSAGES[case["name"]], bytes.fromhex(case["body"])
    assert decode_message(body) == message
    assert encode_message(message)[4:] == body


@pytest.mark.parametrize("case", cases("invalid_hand_messages"))
def test_bad_hand_message_vector_is_refused(case):
    with pytest.raises(DecodeError):
        decode_message(bytes.fromhex(case["body"]))


@pytest.mark.parametrize("case", cases("handed"))
def test_handed_prompt_vector_reads_and_writes(case):
    blob = bytes.fromhex(case["handed"])
    handed = decode_handed(blob)
    task = handed.task
    assert handed == HANDED[case["name"]]
    assert encode_handed(handed) == blob
    assert (task.prompt.text, task.cache, task.session.hex()) == (
        case["text"],
        case["cache"],
        case["session"],
    )
    assert [[turn.role, turn.content] for turn in task.prompt.messages] == case["turns"]
    assert [[member.hex(), wait_s] for member, wait_s in handed.others] == case["others"]
    assert (handed.hops_left, list(task.given)) == (case["hops_left"], case["given"])


@pytest.mark.parametrize("case", cases("invalid_handed"))
def test_bad_handed_prompt_vector_is_refused(case, request):
    if case["name"] == "only a format":
        fault = "decode_handed raises ValueError where an array has one element or two"
        request.applymarker(pytest.mark.xfail(raises=ValueError, strict=True, reason=fault))
    with pytest.raises(DecodeError):
        decode_handed(bytes.fromhex(case["handed"]))


@pytest.mark.parametrize(
    "fields",
    [
        [50, GROUP, bytes(8), bytes(8 * (MAX_ASKED_BLOCKS + 1))],
        [52, GROUP, bytes(8), 0, bytes(MAX_HAND_PART_BYTES + 1)],
        [53, bytes(8), 0, bytes(MAX_HAND_PART_BYTES + 1)],
    ],
    ids=["a question of 8,193 blocks", "a part of a prompt", "a part of events"],
)
def test_hand_message_longer_than_the_table_says_is_refused(fields):
    with pytest.raises(DecodeError):
        decode_message(msgpack.packb(fields))


def test_handed_prompt_longer_than_the_table_says_is_refused():
    handed = bytes.fromhex(VECTORS["handed"][0]["handed"])
    given = bytes(4 * (MAX_GIVEN_TOKENS + 1))
    for data in (
        handed.ljust(MAX_HAND_BYTES + 1, b"\0"),
        pack_record((*unpack_record(handed)[:-1], given)),
    ):
        with pytest.raises(DecodeError):
            decode_handed(data)
