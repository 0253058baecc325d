"""What members of a model group say to each other to have a prompt answered where it is answered soonest.

    WaitAsked  ->  WaitTold                     how long would this prompt wait at your place?
    PromptPart -> ... WaitTold, EventsPart ...   answer it for me
    HandEnded                                   nobody wants it any more / I can't

They go over the link between the two, which is encrypted from one to the other and authenticates both.
"""

from dataclasses import dataclass, field

from crypto.errors import DecodeError
from crypto.identity import NodeId
from overlay.errors import LocalProtocolError
from overlay.wire.group import BlockHash, GroupId
from overlay.wire.limits import MAX_HAND_BYTES, MAX_HAND_OTHERS, NODE_ID_BYTES
from overlay.wire.prompt import Task
from overlay.wire.prompt_codec import TASK_FIELDS, read_task_fields, task_fields
from overlay.wire.records import (
    pack_record,
    read_array,
    read_fields,
    read_integer,
    read_number,
    read_octets,
    unpack_record,
)

HAND_ID_BYTES = 8
BLOCK_HASH_BYTES = 8
FORMAT = 2
MAX_HOPS = 1
"""How often a prompt that was handed over may be handed on."""
MAX_WAIT_S = 86_400.0

HandId = bytes
"""8 random bytes, drawn by who asks; unique between two neighbours in one direction."""


@dataclass(frozen=True, slots=True)
class WaitAsked:
    """How long would a prompt of so many tokens wait with you, and how many of these blocks do you hold?"""

    group: GroupId
    hand: HandId
    chain: tuple[BlockHash, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class WaitTold:
    """The answer: a signed report of the load, as it is now, and how many leading blocks of the chain are there.

    It also says that a prompt has come and is counted in the load.
    """

    group: GroupId
    hand: HandId
    load: bytes
    held_blocks: int


@dataclass(frozen=True, slots=True)
class PromptPart:
    """A piece of an encoded `HandedPrompt`; the pieces come in order."""

    group: GroupId
    hand: HandId
    is_last: bool
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class EventsPart:
    """The next bytes of the stream of answer events (`answer_codec`)."""

    hand: HandId
    is_last: bool
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class HandEnded:
    """Of who handed the prompt over: nobody wants the answer. Of who answers: no more of it will come."""

    hand: HandId


HandMessage = WaitAsked | WaitTold | PromptPart | EventsPart | HandEnded


@dataclass(frozen=True, slots=True)
class HandedPrompt:
    """A prompt for another member.

    hops_left: how often it may be handed on. others: the seconds that it would wait at those who were asked, too.
    """

    task: Task
    hops_left: int = 0
    others: tuple[tuple[NodeId, float], ...] = ()


def encode_handed(prompt: HandedPrompt) -> bytes:
    """Its bytes, to be cut into parts. Raises LocalProtocolError if it is too long."""
    others = tuple((member, float(min(wait_s, MAX_WAIT_S))) for member, wait_s in prompt.others)
    data = pack_record((FORMAT, prompt.hops_left, others[:MAX_HAND_OTHERS], *task_fields(prompt.task)))
    if len(data) > MAX_HAND_BYTES:
        raise LocalProtocolError(f"a prompt of {len(data)} bytes can't be handed over")
    return data


def decode_handed(data: bytes) -> HandedPrompt:
    """Reads all parts of a prompt, put together. Raises DecodeError and nothing else."""
    if len(data) > MAX_HAND_BYTES:
        raise DecodeError("handed prompt: too long")
    version, hops_left, others, *fields = read_fields(unpack_record(data), 3 + TASK_FIELDS)
    read_integer(version, FORMAT, FORMAT)
    return HandedPrompt(
        read_task_fields(fields),
        read_integer(hops_left, 0, MAX_HOPS),
        tuple(_read_other(other) for other in read_array(others, MAX_HAND_OTHERS)),
    )


def _read_other(value: object) -> tuple[NodeId, float]:
    member, wait_s = read_fields(value, 2)
    octets = read_octets(member, NODE_ID_BYTES, NODE_ID_BYTES)
    return NodeId(octets), read_number(wait_s, 0.0, MAX_WAIT_S)


def pack_chain(chain: tuple[BlockHash, ...]) -> bytes:
    """The hashes of a chain, end to end."""
    return b"".join(chain)


def read_chain(packed: bytes) -> tuple[BlockHash, ...]:
    """The hashes again. Raises DecodeError where they are not whole."""
    if len(packed) % BLOCK_HASH_BYTES:
        raise DecodeError("chain: not a whole number of hashes")
    return tuple(packed[at : at + BLOCK_HASH_BYTES] for at in range(0, len(packed), BLOCK_HASH_BYTES))
