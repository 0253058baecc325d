"""Makes docs/spec/vectors/prompts.json and answers.json: `python -m docs.spec.make_stream_vectors` in the root.

Byte strings are hex. `refused` holds what a decoder must not accept.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

from crypto.dispersal import disperse
from crypto.identity import NodeId
from overlay.protocol.answer_cell import AnswerCell, AnswerTerms, CellKind, seal_cell
from overlay.protocol.envelope import close_update, update_key
from overlay.wire.answer import (
    AnswerAccepted,
    AnswerFailed,
    AnswerFinished,
    CheckpointIssued,
    RankedToken,
    ReceiptIssued,
    TokenLogprobs,
    TokensGenerated,
)
from overlay.wire.answer_codec import encode_event, frame_event
from overlay.wire.prompt import ChatMessage, Prompt, PromptMessage, ReplyPath, SamplerSpec
from overlay.wire.prompt_codec import encode_prompt_message, padded_size
from overlay.wire.records import pack_record, unpack_record
from overlay.wire.update import NumberedPath, Update, encode_update
from tests.support.entropy import fixed_entropy

Vector = dict[str, object]

VECTORS = Path(__file__).parent / "vectors"
_draw = fixed_entropy("clovenet stream vectors 1")
NONCE, SECRET, BLINDING, NODE = _draw(32), _draw(32), _draw(32), NodeId(_draw(32))
PATHS = tuple(ReplyPath(NodeId(_draw(32)), _draw(16)) for _ in range(3))
MID, SESSION = _draw(16), _draw(16)
TERMS = AnswerTerms(NODE, SECRET, k=2, n=3)
CHAT = Prompt(
    model="smollm2-135m",
    messages=(ChatMessage("system", "Be brief."), ChatMessage("user", "Why is the sky blue? \u2601")),
    sampler=SamplerSpec(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        max_tokens=100,
        min_tokens=7,
        repetition_penalty=1.1,
        presence_penalty=-0.5,
        frequency_penalty=0.25,
        logit_bias=((0, -100.0), (49_151, 1.5)),
        stop=("\n\n",),
        logprobs=2,
    ),
    nonce=NONCE,
)
TEXT = Prompt(model="m-" + "0" * 40, text="x" * 1500, sampler=SamplerSpec(), nonce=NONCE)
GIVEN = (314, 0, (1 << 32) - 1)
UPDATE = Update(have=7, paths=(NumberedPath(4, PATHS[1].proxy, PATHS[1].token),), stalled=True)
RISING = ((b"a", -2.0), (b"b", -1.0))
EVENTS = (
    AnswerAccepted(),
    TokensGenerated("The sky \u2601", 3),
    TokensGenerated(" is blue", 2, ids=(314, (1 << 32) - 1)),
    TokensGenerated(
        " is",
        1,
        (
            TokenLogprobs(
                RankedToken(b" is", -0.5), (RankedToken(b" is", -0.5), RankedToken(b"\xe2\x98", -2.25))
            ),
        ),
        (314,),
    ),
    CheckpointIssued(b"checkpoint"),
    AnswerFinished("stop", 20, 3, 16),
    ReceiptIssued(b"receipt"),
    AnswerFailed("busy", "the queue is full", 1.5),
)


def a_message(
    prompt: Prompt, cache: Literal["none", "session"] = "none", given: tuple[int, ...] = ()
) -> PromptMessage:
    """M with every other field fixed."""
    return PromptMessage(
        prompt=prompt,
        expires_unix=1_800_000_600,
        response_secret=SECRET,
        blinding=BLINDING,
        paths=PATHS,
        k=2,
        forward="group",
        cache=cache,
        session=SESSION if cache == "session" else b"",
        given=given,
    )


SAMPLER, SESSION_NAME, GIVEN_IDS = 4, 13, 14
"""Where in M's record the sampler, the session's name and the tokens given are; and where the sampler's own fields."""
TEMPERATURE, MAX_TOKENS, MIN_TOKENS, REPETITION, PRESENCE, BIAS, LOGPROBS = 0, 3, 4, 5, 6, 8, 10


def _with_sampler(data: bytes, *changes: tuple[int, object]) -> bytes:
    """M with some fields of its sampler changed."""
    sampler = list(cast("list[object]", _fields_of(data)[SAMPLER]))
    for index, value in changes:
        sampler[index] = value
    return _with_field(data, SAMPLER, sampler)


def _fields_of(data: bytes) -> list[object]:
    return unpack_record(data[4 : 4 + int.from_bytes(data[:4], "big")])


def _with_field(data: bytes, at: int, value: object) -> bytes:
    """M with one field changed."""
    fields = _fields_of(data)
    fields[at] = value
    record = pack_record(tuple(fields))
    return (len(record).to_bytes(4, "big") + record).ljust(padded_size(4 + len(record)), b"\0")


def _refuse(*cases: tuple[str, bytes]) -> list[Vector]:
    return [{"why": why, "bytes": data.hex()} for why, data in cases]


def make_prompts() -> Vector:
    """M as a conversation and as a text, an update, and what is neither."""
    chat, text = encode_prompt_message(a_message(CHAT, "session")), encode_prompt_message(a_message(TEXT))
    rest = encode_prompt_message(a_message(CHAT, "session", GIVEN))
    update = encode_update(UPDATE)
    sealed = close_update(update_key(TERMS), MID, 5, UPDATE)
    return {
        "messages": [
            {"why": "a conversation", "bytes": chat.hex()},
            {"why": "a text", "bytes": text.hex()},
            {"why": "an answer that is gone on with", "bytes": rest.hex()},
        ],
        "refused_messages": _refuse(
            ("not one of the sizes", chat[:-1]),
            ("padded more than needed", chat.ljust(1536, b"\0")),
            ("a byte in the padding", chat[:-1] + b"\1"),
            ("a length over the size", b"\0\0\xff\xff" + chat[4:]),
            ("another format", chat[:5] + b"\2" + chat[6:]),
            ("a temperature of -0.0", _with_sampler(chat, (TEMPERATURE, -0.0))),
            ("more tokens at least than at most", _with_sampler(chat, (MIN_TOKENS, 101))),
            ("a repetition penalty below 0.5", _with_sampler(chat, (REPETITION, 0.49))),
            ("a presence penalty of -0.0", _with_sampler(chat, (PRESENCE, -0.0))),
            ("a presence penalty that is no number", _with_sampler(chat, (PRESENCE, float("nan")))),
            ("a bias over 100", _with_sampler(chat, (BIAS, ((0, 100.5),)))),
            ("a bias that is an integer", _with_sampler(chat, (BIAS, ((0, 1),)))),
            ("a bias of -0.0", _with_sampler(chat, (BIAS, ((0, -0.0),)))),
            ("a token biased twice", _with_sampler(chat, (BIAS, ((7, 1.0), (7, 1.0))))),
            ("biased tokens out of order", _with_sampler(chat, (BIAS, ((7, 1.0), (6, 1.0))))),
            ("65 biased tokens", _with_sampler(chat, (BIAS, tuple((token, 1.0) for token in range(65))))),
            ("21 alternatives", _with_sampler(chat, (LOGPROBS, 21))),
            (
                "more log-probabilities than a stream holds",
                _with_sampler(chat, (MAX_TOKENS, 1 << 17), (LOGPROBS, 1)),
            ),
            ("a session's name where nothing is shared", _with_field(text, SESSION_NAME, SESSION)),
            ("a session's name of one byte", _with_field(chat, SESSION_NAME, b"x")),
            ("half a token given", _with_field(rest, GIVEN_IDS, bytes(6))),
            ("tokens given as numbers", _with_field(rest, GIVEN_IDS, (314, 15))),
        ),
        "updates": [
            {
                "response_secret": SECRET.hex(),
                "node_id": NODE.hex(),
                "attempt": 0,
                "mid": MID.hex(),
                "sequence": 5,
                "bytes": update.hex(),
                "sealed": sealed.sealed.hex(),
            }
        ],
        "refused_updates": _refuse(
            ("truncated", update[:-1]),
            ("a byte in the padding", update[:-1] + b"\1"),
            ("a length over the size", b"\2\0" + update[2:]),
        ),
    }


def make_answers() -> Vector:
    """Events, one block over three paths, dummies, and what is none of these."""
    block = b"".join(frame_event(event) for event in EVENTS)
    fragments = disperse(block, TERMS.k, TERMS.n)
    cells = [(i, 0, AnswerCell(CellKind.LAST, 0, len(block), fragments[i])) for i in range(3)]
    cells += [(4, 0, cells[1][2]), (0, 1, AnswerCell(CellKind.DUMMY, 1))]
    return {
        "response_secret": SECRET.hex(),
        "node_id": NODE.hex(),
        "attempt": 0,
        "k": TERMS.k,
        "n": TERMS.n,
        "events": [encode_event(event).hex() for event in EVENTS],
        "refused_events": _refuse(
            ("empty", b""),
            ("no kind", pack_record(())),
            ("an unknown kind", pack_record((7,))),
            ("a field too many", pack_record((1, 1))),
            ("a bool for a kind", pack_record((True,))),
            ("an unknown reason", pack_record((3, "tired", 1, 1, 1))),
            ("an integer for a float", pack_record((5, "busy", "", 1))),
            ("bytes behind it", pack_record((1,)) + b"\0"),
            ("log-probabilities of no token", pack_record((2, "", 0, b"", ()))),
            ("fewer log-probabilities than tokens", pack_record((2, "ab", 2, b"", ((b"a", -1.0, ()),)))),
            ("log-probabilities of 65 tokens", pack_record((2, "", 65, b"", ((b"a", -1.0, ()),) * 65))),
            ("a log-probability over 0", pack_record((2, "a", 1, b"", ((b"a", 0.5, ()),)))),
            ("a likelier token behind another", pack_record((2, "a", 1, b"", ((b"a", -1.0, RISING),)))),
            ("21 tokens in one place", pack_record((2, "a", 1, b"", ((b"a", -1.0, ((b"a", -1.0),) * 21),)))),
            ("tokens without a place for ids", pack_record((2, "a", 1))),
            ("half an id", pack_record((2, "a", 1, bytes(6)))),
            ("fewer ids than tokens", pack_record((2, "ab", 2, bytes(4)))),
            ("ids as numbers", pack_record((2, "a", 1, (314,)))),
            ("an empty checkpoint", pack_record((6, b""))),
            ("a checkpoint of 401 bytes", pack_record((6, bytes(401)))),
            ("a checkpoint as text", pack_record((6, "checkpoint"))),
            ("4,097 ids", pack_record((2, "a", 4097, bytes(4 * 4097)))),
        ),
        "block": block.hex(),
        "cells": [
            {
                "path": path,
                "sequence": sequence,
                "kind": cell.kind,
                "block": cell.block,
                "fragment": cell.fragment.hex(),
                "bytes": seal_cell(TERMS.key(path), sequence, cell).hex(),
            }
            for path, sequence, cell in cells
        ],
        "refused_cells": _refuse(
            ("truncated", seal_cell(TERMS.key(0), 0, cells[0][2])[:-1]),
            ("of another path", seal_cell(TERMS.key(1), 0, cells[1][2])),
            ("its sequence changed", b"\0" * 7 + b"\1" + seal_cell(TERMS.key(0), 0, cells[0][2])[8:]),
            (
                "a block longer than k fragments",
                seal_cell(TERMS.key(0), 2, AnswerCell(CellKind.LAST, 0, 2000)),
            ),
            ("a dummy with a length", seal_cell(TERMS.key(0), 2, AnswerCell(CellKind.DUMMY, 0, 1, b"x"))),
        ),
    }


MAKERS: dict[str, Callable[[], Vector]] = {"prompts": make_prompts, "answers": make_answers}


def encode(vector: Vector) -> str:
    """The file's text."""
    return json.dumps(vector, indent=1) + "\n"


if __name__ == "__main__":
    for name, make in MAKERS.items():
        (VECTORS / f"{name}.json").write_text(encode(make()))
