"""Makes docs/spec/vectors/groups.json: `python -m docs.spec.make_vectors_groups` in the repository's root.

Byte strings are hex. Keys come from fixed seeds; signatures are Ed25519's and so fixed too.
"""

import json
from dataclasses import asdict
from hashlib import shake_256
from pathlib import Path

from crypto.identity import IdentityKey
from overlay.protocol.group_members import ring_neighbours
from overlay.wire.group import Load, LoadReport, LogEntry, Speed, group_id
from overlay.wire.group_codec import LOAD_CONTEXT, LOG_CONTEXT, SIGNATURE_BYTES, sign_load, sign_log_entry
from overlay.wire.handover import (
    EventsPart,
    HandedPrompt,
    HandEnded,
    HandMessage,
    PromptPart,
    WaitAsked,
    WaitTold,
    encode_handed,
)
from overlay.wire.limits import MAX_ASKED_BLOCKS
from overlay.wire.messages import encode_message
from overlay.wire.prompt import ChatMessage, ModelId, Prompt, SamplerSpec, Task
from overlay.wire.records import pack_record, unpack_record

Vector = dict[str, object]

FILE = Path(__file__).parent / "vectors" / "groups.json"
NETWORK, MODEL, NUMERICS = b"clove-test", ModelId("m-" + "0123456789" * 4), "torch-fp32"
GROUP = group_id(NETWORK, MODEL, NUMERICS)
OTHER_GROUP = group_id(NETWORK, MODEL, "int8-fp32")


def seed_of(name: str) -> bytes:
    """A fixed 32-byte seed."""
    return shake_256(f"clovenet vectors 1 groups {name}".encode()).digest(32)


ALICE, MALLORY = (IdentityKey.from_seed(seed_of(name)) for name in ("alice", "mallory"))
BLOCKS = tuple(seed_of(f"block {number}")[:8] for number in range(4))

ENTRIES = {
    "first of an empty cache": LogEntry(ALICE.node_id, 1_800_000_000_000, 0, 0, (), ()),
    "some of each": LogEntry(ALICE.node_id, 1_800_000_000_000, 41, 40, BLOCKS[:3], BLOCKS[3:]),
    "evicted only, the last that can be": LogEntry(
        ALICE.node_id, (1 << 48) - 2, (1 << 32) - 3, (1 << 32) - 4098, (), BLOCKS
    ),
}
REPORTS = {
    "idle": LoadReport(
        ALICE.node_id,
        1_800_000_000_000,
        0,
        Speed(
            prefill_token_s=2.0**-10,
            attended_s=2.0**-24,
            mixed_step_s=0.0625,
            mixed_tokens=24,
        ),
        Load(queued_tokens=0, decoding=0, free_slots=16, answer_s=0.0, decoding_s=0.0),
    ),
    "as slow and busy as can be": LoadReport(
        ALICE.node_id,
        (1 << 48) - 2,
        (1 << 32) - 3,
        Speed(
            prefill_token_s=60.0,
            attended_s=1.0,
            mixed_step_s=600.0,
            mixed_tokens=1 << 20,
        ),
        Load(queued_tokens=1 << 24, decoding=4096, free_slots=0, answer_s=86_400.0, decoding_s=86_400.0),
    ),
}


def make_entries() -> list[Vector]:
    """Log entries and what they say."""
    return [
        {
            "name": name,
            "origin": entry.origin.hex(),
            "incarnation": entry.incarnation,
            "seq": entry.seq,
            "base": entry.base,
            "stored": [block.hex() for block in entry.stored],
            "evicted": [block.hex() for block in entry.evicted],
            "entry": sign_log_entry(ALICE.sign, GROUP, entry).hex(),
        }
        for name, entry in ENTRIES.items()
    ]


def make_loads() -> list[Vector]:
    """Reports of load and what they say."""
    return [
        {
            "name": name,
            "origin": report.origin.hex(),
            "incarnation": report.incarnation,
            "seq": report.seq,
            "speed": {field: getattr(report.speed, field) for field in Speed.__slots__},
            "load": {field: getattr(report.load, field) for field in Load.__slots__},
            "report": sign_load(ALICE.sign, GROUP, report).hex(),
        }
        for name, report in REPORTS.items()
    ]


def signed(context: bytes, body: bytes, key: IdentityKey = ALICE) -> bytes:
    """Any body with a signature that holds, or with another's."""
    return key.sign(context, GROUP + body) + body


def with_bytes(context: bytes, body: bytes, at: int, value: str) -> bytes:
    """A body with some bytes changed, signed anew."""
    changed = bytes.fromhex(value)
    return signed(context, body[:at] + changed + body[at + len(changed) :])


def make_invalid_entries() -> list[Vector]:
    """Bytes that must be refused as entries, and at which step: decode or authentication."""
    body = sign_log_entry(ALICE.sign, GROUP, ENTRIES["some of each"])[SIGNATURE_BYTES:]
    long = body[:47] + b"".join(number.to_bytes(8, "big") for number in range(513))
    cases = [
        ("empty", b"", "decode"),
        ("cut short", signed(LOG_CONTEXT, body[:46]), "decode"),
        ("half a block", signed(LOG_CONTEXT, body[:-1]), "decode"),
        ("513 blocks", signed(LOG_CONTEXT, long), "decode"),
        ("version 2", with_bytes(LOG_CONTEXT, body, 0, "02"), "decode"),
        ("origin of small order", with_bytes(LOG_CONTEXT, body, 1, "00" * 32), "decode"),
        ("incarnation 2^48 - 1", with_bytes(LOG_CONTEXT, body, 33, "ff" * 6), "decode"),
        ("seq 2^32 - 1", with_bytes(LOG_CONTEXT, body, 39, "ffffffff"), "decode"),
        ("begins before the first entry", with_bytes(LOG_CONTEXT, body, 43, "002a"), "decode"),
        ("more stored than there are", with_bytes(LOG_CONTEXT, body, 45, "0005"), "decode"),
        ("the same block twice", signed(LOG_CONTEXT, body + body[-8:]), "decode"),
        ("signed by another", signed(LOG_CONTEXT, body, MALLORY), "authentication"),
        ("signed as a report of load", signed(LOAD_CONTEXT, body), "authentication"),
        ("signed for another group", ALICE.sign(LOG_CONTEXT, OTHER_GROUP + body) + body, "authentication"),
    ]
    return [{"name": name, "entry": data.hex(), "error": error} for name, data, error in cases]


def make_invalid_loads() -> list[Vector]:
    """The same of reports."""
    body = sign_load(ALICE.sign, GROUP, REPORTS["idle"])[SIGNATURE_BYTES:]
    cases = [
        ("cut short", signed(LOAD_CONTEXT, body[:-1]), "decode"),
        ("trailing byte", signed(LOAD_CONTEXT, body + b"\0"), "decode"),
        ("version 2", with_bytes(LOAD_CONTEXT, body, 0, "02"), "decode"),
        ("prefill of no time", with_bytes(LOAD_CONTEXT, body, 43, "00000000"), "decode"),
        ("prefill of 61 s a token", with_bytes(LOAD_CONTEXT, body, 43, "42740000"), "decode"),
        ("attention of minus zero", with_bytes(LOAD_CONTEXT, body, 47, "80000000"), "decode"),
        ("a step of infinity", with_bytes(LOAD_CONTEXT, body, 51, "7f800000"), "decode"),
        ("a step that is not a number", with_bytes(LOAD_CONTEXT, body, 51, "7fc00000"), "decode"),
        ("chunks of nothing", with_bytes(LOAD_CONTEXT, body, 55, "00000000"), "decode"),
        ("2^24 + 1 tokens queued", with_bytes(LOAD_CONTEXT, body, 59, "01000001"), "decode"),
        ("4,097 answers", with_bytes(LOAD_CONTEXT, body, 63, "1001"), "decode"),
        ("answers that go on for ever", with_bytes(LOAD_CONTEXT, body, 71, "7f800000"), "decode"),
        ("signed by another", signed(LOAD_CONTEXT, body, MALLORY), "authentication"),
        ("signed for another group", ALICE.sign(LOAD_CONTEXT, OTHER_GROUP + body) + body, "authentication"),
    ]
    return [{"name": name, "report": data.hex(), "error": error} for name, data, error in cases]


HAND = seed_of("hand")[:8]
PROMPTS = {
    "a conversation, may be handed on": HandedPrompt(
        Task(
            prompt=Prompt(
                model=MODEL,
                messages=(
                    ChatMessage("system", "Be brief."),
                    ChatMessage("user", "Why is the sky blue?"),
                ),
                sampler=SamplerSpec(temperature=0.5, max_tokens=64, stop=("\n\n",)),
                nonce=seed_of("nonce"),
            ),
            blinding=seed_of("blinding"),
            cache="session",
            session=seed_of("session")[:16],
        ),
        hops_left=1,
        others=((ALICE.node_id, 0.25), (MALLORY.node_id, 86_400.0)),
    ),
    "a text whose answer was begun, may not": HandedPrompt(
        Task(
            prompt=Prompt(model=MODEL, text="Once upon", sampler=SamplerSpec(), nonce=seed_of("nonce")),
            blinding=seed_of("blinding"),
            cache="public",
            given=(0, 1, (1 << 32) - 1),
        )
    ),
}


def hand_messages() -> dict[str, HandMessage]:
    """Messages of a prompt's way from member to member."""
    load = sign_load(ALICE.sign, GROUP, REPORTS["idle"])
    return {
        "asked about a prompt that shares nothing": WaitAsked(GROUP, HAND, ()),
        "asked about four blocks": WaitAsked(GROUP, HAND, BLOCKS),
        "told": WaitTold(GROUP, HAND, load, 3),
        "told of as many blocks as can be": WaitTold(GROUP, HAND, load, MAX_ASKED_BLOCKS),
        "a first part": PromptPart(GROUP, HAND, is_last=False, data=b"clove"),
        "the last part": PromptPart(GROUP, HAND, is_last=True, data=b"s"),
        "events": EventsPart(HAND, is_last=False, data=b"\0\0\0\2\x91\1"),
        "no more events": EventsPart(HAND, is_last=True, data=b""),
        "ended": HandEnded(HAND),
    }


def make_hand_messages() -> list[Vector]:
    """Frames of the control stream, with their length, and the fields by their names."""
    return [
        {
            "name": name,
            "kind": type(message).__name__,
            "fields": {field: _plain(getattr(message, field)) for field in type(message).__slots__},
            "frame": encode_message(message).hex(),
        }
        for name, message in hand_messages().items()
    ]


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def make_invalid_hand_messages() -> list[Vector]:
    """Bodies of frames, without their length, that close the link."""
    load = sign_load(ALICE.sign, GROUP, REPORTS["idle"])
    cases: list[tuple[str, tuple[object, ...]]] = [
        ("half a block asked about", (50, GROUP, HAND, BLOCKS[0][:7])),
        ("a hand of 7 bytes", (50, GROUP, HAND[:7], b"")),
        ("8,193 blocks held", (51, GROUP, HAND, load, 8193)),
        ("no report", (51, GROUP, HAND, b"", 0)),
        ("an empty part", (52, GROUP, HAND, 1, b"")),
        ("is_last 2", (52, GROUP, HAND, 2, b"s")),
        ("is_last true", (53, HAND, True, b"")),
        ("a field too many", (54, HAND, 0)),
    ]
    return [{"name": name, "body": pack_record(fields).hex()} for name, fields in cases]


def make_handed() -> list[Vector]:
    """Prompts that are handed over, all parts together."""
    found = []
    for name, handed in PROMPTS.items():
        prompt, task = handed.task.prompt, handed.task
        fields: Vector = {
            "name": name,
            "hops_left": handed.hops_left,
            "others": [[member.hex(), wait_s] for member, wait_s in handed.others],
            "model": prompt.model,
            "messages": [[turn.role, turn.content] for turn in prompt.messages],
            "text": prompt.text,
            "sampler": asdict(prompt.sampler),
            "nonce": prompt.nonce.hex(),
            "blinding": task.blinding.hex(),
            "cache": task.cache,
            "session": task.session.hex(),
            "given": list(task.given),
            "handed": encode_handed(handed).hex(),
        }
        found.append(fields)
    return found


def make_invalid_handed() -> list[Vector]:
    """Such as a receiver refuses."""
    good = encode_handed(PROMPTS["a conversation, may be handed on"])

    def with_element(number: int, value: object) -> bytes:
        fields = unpack_record(good)
        fields[number] = value
        return pack_record(tuple(fields))

    member = ALICE.node_id
    cases = [
        ("one element", bytes.fromhex("9101")),
        ("two elements", bytes.fromhex("920100")),
        ("cut short", good[:-1]),
        ("trailing byte", good + b"\0"),
        ("an element too few", pack_record(tuple(unpack_record(good))[:-1])),
        ("an element too many", pack_record((*unpack_record(good), 0))),
        ("format 1", with_element(0, 1)),
        ("format 3", with_element(0, 3)),
        ("two hops left", with_element(1, 2)),
        ("nine others", with_element(2, tuple((member, 1.0) for _ in range(9)))),
        ("a wait of minus zero", with_element(2, ((member, -0.0),))),
        ("a wait that is no float", with_element(2, ((member, 1),))),
        ("a wait over a day", with_element(2, ((member, 86_401.0),))),
        ("a text beside the turns", with_element(5, "text")),
        ("a session with public", with_element(9, "public")),
        ("half a token given", with_element(11, b"\0\0")),
    ]
    return [{"name": name, "handed": data.hex()} for name, data in cases]


def make_ring() -> Vector:
    """The neighbours of one of ten."""
    ids = sorted(IdentityKey.from_seed(seed_of(f"member {number}")).node_id for number in range(10))
    return {
        "members": [each.hex() for each in ids],
        "node_id": ids[7].hex(),
        "neighbours": [each.hex() for each in ring_neighbours(ids[7], ids)],
    }


def make() -> str:
    """The file's content."""
    cases = {
        "network": NETWORK.hex(),
        "model_id": MODEL,
        "numerics_class": NUMERICS,
        "group": GROUP.hex(),
        "identity_seed": ALICE.seed.hex(),
        "entries": make_entries(),
        "loads": make_loads(),
        "invalid_entries": make_invalid_entries(),
        "invalid_loads": make_invalid_loads(),
        "ring": make_ring(),
        "hand_messages": make_hand_messages(),
        "invalid_hand_messages": make_invalid_hand_messages(),
        "handed": make_handed(),
        "invalid_handed": make_invalid_handed(),
    }
    return json.dumps(cases, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(make(), encoding="utf-8")
