"""Makes docs/spec/vectors/groups.json: `python -m docs.spec.make_vectors_groups` in the repository's root.

Byte strings are hex. Keys come from fixed seeds; signatures are Ed25519's and so fixed too.
"""

import json
from hashlib import shake_256
from pathlib import Path

import msgpack

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
            decode_step_s=0.03125,
            mixed_tokens=24,
            chunk_tokens=512,
        ),
        Load(queued_tokens=0, decoding=0, free_slots=16, answer_s=0.0),
    ),
    "as slow and busy as can be": LoadReport(
        ALICE.node_id,
        (1 << 48) - 2,
        (1 << 32) - 3,
        Speed(
            prefill_token_s=60.0,
            attended_s=1.0,
            decode_step_s=600.0,
            mixed_tokens=1,
            chunk_tokens=1 << 20,
        ),
        Load(queued_tokens=1 << 24, decoding=4096, free_slots=0, answer_s=86_400.0),
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
        ("2^24 + 1 tokens queued", with_bytes(LOAD_CONTEXT, body, 63, "01000001"), "decode"),
        ("4,097 answers", with_bytes(LOAD_CONTEXT, body, 67, "1001"), "decode"),
        ("signed by another", signed(LOAD_CONTEXT, body, MALLORY), "authentication"),
        ("signed for another group", ALICE.sign(LOAD_CONTEXT, OTHER_GROUP + body) + body, "authentication"),
    ]
    return [{"name": name, "report": data.hex(), "error": error} for name, data, error in cases]


HAND = seed_of("hand")[:8]
LOAD = sign_load(ALICE.sign, GROUP, REPORTS["idle"])
HAND_MESSAGES: dict[str, HandMessage] = {
    "wait_asked": WaitAsked(GROUP, HAND, BLOCKS),
    "wait_asked, of a prompt without names": WaitAsked(GROUP, HAND, ()),
    "wait_told": WaitTold(GROUP, HAND, LOAD, 3),
    "wait_told, of all that can be asked": WaitTold(GROUP, HAND, LOAD, MAX_ASKED_BLOCKS),
    "prompt_part": PromptPart(GROUP, HAND, is_last=False, data=b"begin"),
    "prompt_part, the last": PromptPart(GROUP, HAND, is_last=True, data=b"end"),
    "events_part": EventsPart(HAND, is_last=False, data=b"event"),
    "events_part, the last and empty": EventsPart(HAND, is_last=True, data=b""),
    "hand_ended": HandEnded(HAND),
}
HANDED = {
    "a conversation from its beginning": HandedPrompt(
        Task(
            prompt=Prompt(
                model=MODEL,
                messages=(ChatMessage("system", "Be brief."), ChatMessage("user", "Why is the sky blue?")),
                sampler=SamplerSpec(max_tokens=100, stop=("\n\n",)),
                nonce=seed_of("nonce"),
            ),
            blinding=seed_of("blinding"),
            cache="public",
        ),
        hops_left=1,
        others=((MALLORY.node_id, 0.25), (ALICE.node_id, 86_400.0)),
    ),
    "a text of a session, gone on with, not to be handed on": HandedPrompt(
        Task(
            prompt=Prompt(
                model=MODEL, text="Once upon", sampler=SamplerSpec(logprobs=2), nonce=seed_of("nonce")
            ),
            blinding=seed_of("blinding"),
            cache="session",
            session=seed_of("session")[:16],
            given=(0, 7, (1 << 32) - 1),
        )
    ),
}


def make_hand_messages() -> list[Vector]:
    """The messages of a prompt that is handed over, as bodies of control frames."""
    return [
        {"name": name, "body": encode_message(message)[4:].hex()} for name, message in HAND_MESSAGES.items()
    ]


def make_invalid_hand_messages() -> list[Vector]:
    """Bodies that must be refused."""
    cases: dict[str, list[object]] = {
        "a question with half a block": [50, GROUP, HAND, bytes(7)],
        "a question of a short group": [50, GROUP[:15], HAND, b""],
        "a question of a long hand": [50, GROUP, HAND + b"x", b""],
        "told without a report": [51, GROUP, HAND, b"", 0],
        "told with a report too long": [51, GROUP, HAND, LOAD + b"x", 0],
        "told of more blocks than can be asked": [51, GROUP, HAND, LOAD, MAX_ASKED_BLOCKS + 1],
        "told of a truth value of blocks": [51, GROUP, HAND, LOAD, True],
        "a part of a prompt that is empty": [52, GROUP, HAND, 1, b""],
        "a part of a prompt, a truth value for the last": [52, GROUP, HAND, True, b"x"],
        "a part of a prompt, 2 for the last": [52, GROUP, HAND, 2, b"x"],
        "events of a text": [53, HAND, 0, "x"],
        "events with a group": [53, GROUP, HAND, 0, b"x"],
        "an end without a hand": [54],
        "an end with a reason": [54, HAND, "busy"],
    }
    return [{"name": name, "body": msgpack.packb(fields).hex()} for name, fields in cases.items()]


def make_handed() -> list[Vector]:
    """Handed prompts, and what they say beside what an M says, too."""
    return [
        {
            "name": name,
            "hops_left": handed.hops_left,
            "others": [[member.hex(), wait_s] for member, wait_s in handed.others],
            "text": handed.task.prompt.text,
            "turns": [[turn.role, turn.content] for turn in handed.task.prompt.messages],
            "cache": handed.task.cache,
            "session": handed.task.session.hex(),
            "given": list(handed.task.given),
            "handed": encode_handed(handed).hex(),
        }
        for name, handed in HANDED.items()
    ]


def make_invalid_handed() -> list[Vector]:
    """Handed prompts that must be refused."""
    valid, session = (encode_handed(handed) for handed in HANDED.values())
    member = ALICE.node_id

    def changed(at: int, value: object, data: bytes = valid) -> bytes:
        fields = unpack_record(data)
        fields[at] = value
        return pack_record(tuple(fields))

    cases = {
        "empty": b"",
        "an array of nothing": pack_record(()),
        "only a format": pack_record((1,)),
        "a field missing": pack_record(tuple(unpack_record(valid)[:-1])),
        "a field left over": pack_record((*unpack_record(valid), 0)),
        "bytes behind the record": valid + b"\0",
        "format 2": changed(0, 2),
        "two hops left": changed(1, 2),
        "a truth value of hops": changed(1, value=True),
        "nine others": changed(2, ((member, 1.0),) * 9),
        "another that is no node": changed(2, ((member[:31], 1.0),)),
        "a wait of an integer": changed(2, ((member, 1),)),
        "a wait below 0": changed(2, ((member, -1.0),)),
        "a wait that is no number": changed(2, ((member, float("nan")),)),
        "a wait over a day": changed(2, ((member, 86_401.0),)),
        "neither turns nor text": changed(4, ()),
        "turns and a text": changed(5, "Once upon"),
        "a short blinding": changed(8, bytes(31)),
        "an unknown word for the cache": changed(9, "shared"),
        "a session's name where all share": changed(10, bytes(16)),
        "a short session's name": changed(10, bytes(15), session),
        "half a token given": changed(11, bytes(3)),
    }
    return [{"name": name, "handed": data.hex()} for name, data in cases.items()]


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
