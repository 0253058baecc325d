"""Control messages: what neighbours say to each other beside cells, as values and as frames.

A frame is `length 4 | body`; a body is a msgpack array whose first element is the message's kind, an integer
below 128, so that the second byte of every body tells the kind and an over-long frame is refused
before it is buffered. Fields follow in the order of the dataclass. There is exactly one shape for each
kind: extra or missing fields, other types and values out of range are a `DecodeError`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

import msgpack

from crypto.errors import DecodeError
from crypto.identity import NodeId
from overlay.wire.group import GROUP_ID_BYTES, GroupId
from overlay.wire.group_codec import LOAD_BYTES, MAX_ENTRY_BYTES
from overlay.wire.group_messages import (
    MAX_VECTOR_BYTES,
    GroupMessage,
    GroupNews,
    GroupVector,
    pack_vector,
    read_vector,
)
from overlay.wire.handover import (
    HAND_ID_BYTES,
    EventsPart,
    HandEnded,
    HandId,
    HandMessage,
    PromptPart,
    WaitAsked,
    WaitTold,
    pack_chain,
    read_chain,
)
from overlay.wire.limits import (
    ANSWER_CELL_BYTES,
    MAX_ASKED_BLOCKS,
    MAX_ASKED_FRAME_BYTES,
    MAX_CLOVE_FRAME_BYTES,
    MAX_DESCRIPTOR_BYTES,
    MAX_GIVEN_DESCRIPTORS,
    MAX_GIVEN_FRAME_BYTES,
    MAX_HAND_FRAME_BYTES,
    MAX_HAND_PART_BYTES,
    MAX_INDEX_ENTRIES,
    MAX_NEWS_FRAME_BYTES,
    MAX_NEWS_ITEMS,
    MAX_REASON_BYTES,
    MAX_SEALED_BYTES,
    MAX_SMALL_FRAME_BYTES,
    MAX_VECTOR_FRAME_BYTES,
    MAX_WANTED_IDS,
    NODE_ID_BYTES,
)

FRAME_HEADER_BYTES = 4
REPLY_TOKEN_BYTES = 16
DIGEST_BYTES = 32
INSTANCE_BYTES = 8
MAX_NETWORK_BYTES = 32
MAX_DIFFICULTY = 64
_INDEX_ENTRY_BYTES = NODE_ID_BYTES + 8
_U32_END = 1 << 32
_U64_END = 1 << 64


@dataclass(frozen=True, slots=True)
class Hello:
    """First message on a control stream, from both sides.

    network names the overlay; difficulty is what this node asks of a circuit build; instance tells one run
    of a process from the next, so that a restarted peer replaces its old link.
    """

    version: int
    network: bytes
    difficulty: int
    unix_time: int
    instance: bytes = bytes(INSTANCE_BYTES)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Says that the sender is alive; not answered, the other side sends its own."""


@dataclass(frozen=True, slots=True)
class DirectoryDigest:
    """How many descriptors the sender has, and a hash over them."""

    count: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class DirectoryIndex:
    """Which descriptors the sender has: node id and sequence number of each."""

    entries: tuple[tuple[NodeId, int], ...]


@dataclass(frozen=True, slots=True)
class DescriptorsWanted:
    """Asks for the newest descriptors of these nodes."""

    ids: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class DescriptorsGiven:
    """Encoded descriptors, each to be decoded and checked by itself."""

    blobs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class CloveDelivered:
    """A proxy hands a model node one sealed clove and the token for answers to it."""

    reply_token: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class AnswerCellSent:
    """A model node hands a proxy one answer cell for the circuit behind the token."""

    reply_token: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class AnswerRefused:
    """The proxy has no circuit behind this token (any more); send nothing further to it."""

    reply_token: bytes


@dataclass(frozen=True, slots=True)
class LinkClosing:
    """The sender closes the link now, and why, in a few words for a log."""

    reason: str


ControlMessage = (
    Hello
    | Heartbeat
    | DirectoryDigest
    | DirectoryIndex
    | DescriptorsWanted
    | DescriptorsGiven
    | CloveDelivered
    | AnswerCellSent
    | AnswerRefused
    | LinkClosing
    | GroupVector
    | GroupNews
    | HandMessage
)

HELLO, HEARTBEAT, LINK_CLOSING = 1, 2, 3
DIRECTORY_DIGEST, DIRECTORY_INDEX, DESCRIPTORS_WANTED, DESCRIPTORS_GIVEN = 16, 17, 18, 19
CLOVE_DELIVERED, ANSWER_CELL_SENT, ANSWER_REFUSED = 32, 33, 34
GROUP_VECTOR, GROUP_NEWS = 48, 49
WAIT_ASKED, WAIT_TOLD, PROMPT_PART, EVENTS_PART, HAND_ENDED = 50, 51, 52, 53, 54


def _integer(value: object, end: int) -> int:
    if type(value) is not int or not 0 <= value < end:
        raise DecodeError("control message: an integer is missing or out of range")
    return value


def _octets(value: object, low: int, high: int) -> bytes:
    if type(value) is not bytes or not low <= len(value) <= high:
        raise DecodeError("control message: a byte string is missing or of a wrong length")
    return value


def _text(value: object, limit: int) -> str:
    if type(value) is not str or len(value.encode("utf-8", "surrogatepass")) > limit:
        raise DecodeError("control message: a text is missing or too long")
    return value


def _hello(fields: Sequence[object]) -> Hello:
    version, network, difficulty, unix_time, instance = fields
    return Hello(
        _integer(version, 1 << 16),
        _octets(network, 1, MAX_NETWORK_BYTES),
        _integer(difficulty, MAX_DIFFICULTY + 1),
        _integer(unix_time, _U64_END),
        _octets(instance, INSTANCE_BYTES, INSTANCE_BYTES),
    )


def _heartbeat(fields: Sequence[object]) -> Heartbeat:
    del fields  # their number was checked by the caller
    return Heartbeat()


def _link_closing(fields: Sequence[object]) -> LinkClosing:
    return LinkClosing(_text(fields[0], MAX_REASON_BYTES))


def _directory_digest(fields: Sequence[object]) -> DirectoryDigest:
    return DirectoryDigest(_integer(fields[0], _U32_END), _octets(fields[1], DIGEST_BYTES, DIGEST_BYTES))


def _directory_index(fields: Sequence[object]) -> DirectoryIndex:
    packed = _octets(fields[0], 0, MAX_INDEX_ENTRIES * _INDEX_ENTRY_BYTES)
    if len(packed) % _INDEX_ENTRY_BYTES:
        raise DecodeError("directory index: not a whole number of entries")
    starts = range(0, len(packed), _INDEX_ENTRY_BYTES)
    return DirectoryIndex(
        tuple(
            (
                NodeId(packed[at : at + NODE_ID_BYTES]),
                int.from_bytes(packed[at + NODE_ID_BYTES : at + _INDEX_ENTRY_BYTES], "big"),
            )
            for at in starts
        )
    )


def _descriptors_wanted(fields: Sequence[object]) -> DescriptorsWanted:
    packed = _octets(fields[0], 0, MAX_WANTED_IDS * NODE_ID_BYTES)
    if len(packed) % NODE_ID_BYTES:
        raise DecodeError("descriptors wanted: not a whole number of ids")
    starts = range(0, len(packed), NODE_ID_BYTES)
    return DescriptorsWanted(tuple(NodeId(packed[at : at + NODE_ID_BYTES]) for at in starts))


def _descriptors_given(fields: Sequence[object]) -> DescriptorsGiven:
    blobs = fields[0]
    if type(blobs) is not list or len(blobs) > MAX_GIVEN_DESCRIPTORS:
        raise DecodeError("descriptors given: not a list, or too many")
    return DescriptorsGiven(tuple(_octets(blob, 1, MAX_DESCRIPTOR_BYTES) for blob in blobs))


def _clove_delivered(fields: Sequence[object]) -> CloveDelivered:
    return CloveDelivered(_token(fields[0]), _octets(fields[1], 1, MAX_SEALED_BYTES))


def _answer_cell_sent(fields: Sequence[object]) -> AnswerCellSent:
    return AnswerCellSent(_token(fields[0]), _octets(fields[1], ANSWER_CELL_BYTES, ANSWER_CELL_BYTES))


def _answer_refused(fields: Sequence[object]) -> AnswerRefused:
    return AnswerRefused(_token(fields[0]))


def _group_vector(fields: Sequence[object]) -> GroupVector:
    group, is_reply, packed = fields
    entries, loads = read_vector(_octets(packed, 0, MAX_VECTOR_BYTES))
    return GroupVector(_group(group), entries, loads, bool(_integer(is_reply, 2)))


def _group_news(fields: Sequence[object]) -> GroupNews:
    group, entries, loads = fields
    return GroupNews(_group(group), _blobs(entries, MAX_ENTRY_BYTES), _blobs(loads, LOAD_BYTES))


def _blobs(value: object, most_bytes: int) -> tuple[bytes, ...]:
    if type(value) is not list or len(value) > MAX_NEWS_ITEMS:
        raise DecodeError("group news: not a list, or too many")
    return tuple(_octets(blob, 1, most_bytes) for blob in value)


def _group(value: object) -> GroupId:
    return GroupId(_octets(value, GROUP_ID_BYTES, GROUP_ID_BYTES))


def _wait_asked(fields: Sequence[object]) -> WaitAsked:
    group, hand, chain = fields
    return WaitAsked(_group(group), _hand(hand), read_chain(_octets(chain, 0, 8 * MAX_ASKED_BLOCKS)))


def _wait_told(fields: Sequence[object]) -> WaitTold:
    group, hand, load, held_blocks = fields
    report = _octets(load, 1, LOAD_BYTES)
    return WaitTold(_group(group), _hand(hand), report, _integer(held_blocks, MAX_ASKED_BLOCKS + 1))


def _prompt_part(fields: Sequence[object]) -> PromptPart:
    group, hand, is_last, data = fields
    part = _octets(data, 1, MAX_HAND_PART_BYTES)
    return PromptPart(_group(group), _hand(hand), bool(_integer(is_last, 2)), part)


def _events_part(fields: Sequence[object]) -> EventsPart:
    hand, is_last, data = fields
    return EventsPart(_hand(hand), bool(_integer(is_last, 2)), _octets(data, 0, MAX_HAND_PART_BYTES))


def _hand_ended(fields: Sequence[object]) -> HandEnded:
    return HandEnded(_hand(fields[0]))


def _hand(value: object) -> HandId:
    return _octets(value, HAND_ID_BYTES, HAND_ID_BYTES)


def _token(value: object) -> bytes:
    return _octets(value, REPLY_TOKEN_BYTES, REPLY_TOKEN_BYTES)


@dataclass(frozen=True, slots=True)
class _Kind:
    """How many fields a kind has, how long its body may be, and how the fields become a value."""

    field_count: int
    max_body_bytes: int
    read: Callable[[Sequence[object]], ControlMessage]


_KINDS: dict[int, _Kind] = {
    HELLO: _Kind(5, MAX_SMALL_FRAME_BYTES, _hello),
    HEARTBEAT: _Kind(0, MAX_SMALL_FRAME_BYTES, _heartbeat),
    LINK_CLOSING: _Kind(1, MAX_SMALL_FRAME_BYTES, _link_closing),
    DIRECTORY_DIGEST: _Kind(2, MAX_SMALL_FRAME_BYTES, _directory_digest),
    DIRECTORY_INDEX: _Kind(1, MAX_INDEX_ENTRIES * _INDEX_ENTRY_BYTES + 16, _directory_index),
    DESCRIPTORS_WANTED: _Kind(1, MAX_WANTED_IDS * NODE_ID_BYTES + 16, _descriptors_wanted),
    DESCRIPTORS_GIVEN: _Kind(1, MAX_GIVEN_FRAME_BYTES, _descriptors_given),
    CLOVE_DELIVERED: _Kind(2, MAX_CLOVE_FRAME_BYTES, _clove_delivered),
    ANSWER_CELL_SENT: _Kind(2, MAX_SMALL_FRAME_BYTES, _answer_cell_sent),
    ANSWER_REFUSED: _Kind(1, MAX_SMALL_FRAME_BYTES, _answer_refused),
    GROUP_VECTOR: _Kind(3, MAX_VECTOR_FRAME_BYTES, _group_vector),
    GROUP_NEWS: _Kind(3, MAX_NEWS_FRAME_BYTES, _group_news),
    WAIT_ASKED: _Kind(3, MAX_ASKED_FRAME_BYTES, _wait_asked),
    WAIT_TOLD: _Kind(4, MAX_SMALL_FRAME_BYTES, _wait_told),
    PROMPT_PART: _Kind(4, MAX_HAND_FRAME_BYTES, _prompt_part),
    EVENTS_PART: _Kind(3, MAX_HAND_FRAME_BYTES, _events_part),
    HAND_ENDED: _Kind(1, MAX_SMALL_FRAME_BYTES, _hand_ended),
}
_MAX_BODY_BYTES = max(kind.max_body_bytes for kind in _KINDS.values())


def _elements(message: ControlMessage) -> tuple[object, ...]:  # noqa: C901 - a table of kinds, as `decode_message` has it
    match message:
        case Hello():
            return (
                HELLO,
                message.version,
                message.network,
                message.difficulty,
                message.unix_time,
                message.instance,
            )
        case Heartbeat():
            return (HEARTBEAT,)
        case LinkClosing(reason):
            return (LINK_CLOSING, reason)
        case DirectoryDigest(count, digest):
            return (DIRECTORY_DIGEST, count, digest)
        case DirectoryIndex(entries):
            return (DIRECTORY_INDEX, b"".join(node_id + seq.to_bytes(8, "big") for node_id, seq in entries))
        case DescriptorsWanted(ids):
            return (DESCRIPTORS_WANTED, b"".join(ids))
        case DescriptorsGiven(blobs):
            return (DESCRIPTORS_GIVEN, blobs)
        case CloveDelivered(token, sealed):
            return (CLOVE_DELIVERED, token, sealed)
        case AnswerCellSent(token, data):
            return (ANSWER_CELL_SENT, token, data)
        case AnswerRefused(token):
            return (ANSWER_REFUSED, token)
        case GroupVector() | GroupNews():
            return _group_elements(message)
        case WaitAsked() | WaitTold() | PromptPart() | EventsPart() | HandEnded():
            return _hand_elements(message)
        case _:
            assert_never(message)


def _hand_elements(message: HandMessage) -> tuple[object, ...]:
    match message:
        case WaitAsked(group, hand, chain):
            return (WAIT_ASKED, group, hand, pack_chain(chain))
        case WaitTold(group, hand, load, held_blocks):
            return (WAIT_TOLD, group, hand, load, held_blocks)
        case PromptPart(group, hand, is_last, data):
            return (PROMPT_PART, group, hand, int(is_last), data)
        case EventsPart(hand, is_last, data):
            return (EVENTS_PART, hand, int(is_last), data)
        case HandEnded(hand):
            return (HAND_ENDED, hand)
        case _:
            assert_never(message)


def _group_elements(message: GroupMessage) -> tuple[object, ...]:
    match message:
        case GroupVector(group, entries, loads, is_reply):
            return (GROUP_VECTOR, group, int(is_reply), pack_vector(entries, loads))
        case GroupNews(group, entries, loads):
            return (GROUP_NEWS, group, entries, loads)
        case _:
            assert_never(message)


def encode_message(message: ControlMessage) -> bytes:
    """Returns the whole frame, length prefix included."""
    body: bytes = msgpack.packb(_elements(message), use_bin_type=True)
    return len(body).to_bytes(FRAME_HEADER_BYTES, "big") + body


def decode_message(body: bytes) -> ControlMessage:
    """Reads one frame's body (without its length prefix). Raises DecodeError and nothing else."""
    kind = _kind_of(body)
    if len(body) > kind.max_body_bytes:
        raise DecodeError("control message: too long for its kind")
    try:
        elements = msgpack.unpackb(body, raw=False, use_list=True, max_map_len=0, max_ext_len=0)
    except (ValueError, TypeError, RecursionError) as error:  # msgpack's own errors are ValueErrors
        raise DecodeError("control message: not msgpack") from error
    if type(elements) is not list or len(elements) != 1 + kind.field_count:
        raise DecodeError("control message: wrong number of fields")
    return kind.read(elements[1:])


def _kind_of(body: bytes | bytearray) -> _Kind:
    kind = _KINDS.get(body[1]) if len(body) >= 2 and 0x91 <= body[0] <= 0x9F else None
    if kind is None:
        raise DecodeError("control message: unknown kind")
    return kind


class MessageReader:
    """Cuts a control stream into messages. Holds at most one frame of the longest kind."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[ControlMessage]:
        """Takes what the stream gave and returns the messages that are complete now.

        Raises DecodeError on the first frame that is malformed or too long for its kind; the stream can't be
        read any further then.
        """
        buffer = self._buffer
        buffer += data
        messages: list[ControlMessage] = []
        at = 0
        while (end := self._frame_end(at)) is not None:
            messages.append(decode_message(bytes(buffer[at + FRAME_HEADER_BYTES : end])))
            at = end
        del buffer[:at]
        return messages

    def _frame_end(self, at: int) -> int | None:
        """Returns where the frame at `at` ends, None where it isn't all here yet."""
        buffer = self._buffer
        if len(buffer) < at + FRAME_HEADER_BYTES:
            return None
        body_bytes = int.from_bytes(buffer[at : at + FRAME_HEADER_BYTES], "big")
        if not 2 <= body_bytes <= _MAX_BODY_BYTES:  # an array header and a kind
            raise DecodeError("control frame: length out of range")
        start = at + FRAME_HEADER_BYTES
        if len(buffer) < start + 2:
            return None
        if body_bytes > _kind_of(buffer[start : start + 2]).max_body_bytes:
            raise DecodeError("control frame: too long for its kind")
        return start + body_bytes if len(buffer) >= start + body_bytes else None
