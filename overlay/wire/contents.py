"""Contents: what client and proxy say to each other inside the layers of FWD and BWD cells.

`rcmd 1 | flags 1 | len 2 | payload | zeros`, 968 bytes outbound, 1000 inbound (docs/spec/cells.md). Only
the two ends of a circuit ever see one. Each is canonical: one value, one encoding, nothing hides in padding.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import assert_never

from crypto.errors import DecodeError
from crypto.identity import NodeId
from overlay.wire.limits import (
    CONTENT_HEADER_BYTES,
    FIRST_FRAGMENT_BYTES,
    INBOUND_CONTENT_BYTES,
    MAX_CLOVE_BYTES,
    MAX_CLOVE_FRAGMENTS,
    MESSAGE_BYTES,
    NEXT_FRAGMENT_BYTES,
    NODE_ID_BYTES,
    OUTBOUND_CONTENT_BYTES,
    PING_BYTES,
    RESPONSE_BYTES,
)

_HEADER = struct.Struct(">BBH")
_FRAGMENT = struct.Struct(f">{MESSAGE_BYTES}sHH")


class _RelayCommand(IntEnum):
    CLOVE = 1
    RESP = 2
    SENDME = 3
    PING = 4
    DUMMY = 5
    CLOSE = 6
    UNDELIVERED = 7


class CloseReason(IntEnum):
    """Why a proxy closes a circuit in good order."""

    FINISHED = 0
    DRAINING = 1


@dataclass(frozen=True, slots=True)
class CloveFragment:
    """Outbound: one piece of a sealed clove. Only the first piece, index 0, names the destination.

    message: 8 random bytes chosen by the client. Every piece but the last is full, so there is one division.
    """

    message: bytes
    index: int
    count: int
    data: bytes
    destination: NodeId | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """Inbound: one answer cell of ANSWER_CELL_BYTES for the message that it answers."""

    message: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class SendMe:
    """Either way: ACK_CELLS more clove or response cells were taken; as many more may come."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Outbound: asks for the same 8 bytes back. Inbound: that reply."""

    token: bytes


@dataclass(frozen=True, slots=True)
class Dummy:
    """Either way: means nothing, and looks like anything else to all others."""


@dataclass(frozen=True, slots=True)
class Close:
    """Inbound: the proxy is leaving in good order; nobody is to blame."""

    reason: CloseReason


@dataclass(frozen=True, slots=True)
class Undelivered:
    """Inbound: the proxy could not hand a clove of this message to its destination."""

    message: bytes


Content = CloveFragment | Response | SendMe | Ping | Dummy | Close | Undelivered


def split_clove(destination: NodeId, message: bytes, sealed: bytes) -> list[CloveFragment]:
    """Cut a sealed clove into the pieces that travel in one cell each."""
    if not 0 < len(sealed) <= MAX_CLOVE_BYTES:
        raise ValueError(f"a sealed clove has 1 to {MAX_CLOVE_BYTES} bytes, not {len(sealed)}")
    starts = range(FIRST_FRAGMENT_BYTES, len(sealed), NEXT_FRAGMENT_BYTES)
    count = 1 + len(starts)
    fragments = [CloveFragment(message, 0, count, sealed[:FIRST_FRAGMENT_BYTES], destination)]
    fragments += [
        CloveFragment(message, index, count, sealed[start : start + NEXT_FRAGMENT_BYTES])
        for index, start in enumerate(starts, 1)
    ]
    return fragments


def encode_outbound(content: Content) -> bytes:
    """Return the OUTBOUND_CONTENT_BYTES that the client wraps."""
    command, payload = _payload(content)
    return (_HEADER.pack(command, 0, len(payload)) + payload).ljust(OUTBOUND_CONTENT_BYTES, b"\0")


def encode_inbound(content: Content) -> bytes:
    """Return the INBOUND_CONTENT_BYTES that the proxy seals."""
    command, payload = _payload(content)
    return (_HEADER.pack(command, 0, len(payload)) + payload).ljust(INBOUND_CONTENT_BYTES, b"\0")


def _payload(content: Content) -> tuple[int, bytes]:
    match content:
        case CloveFragment():
            head = _FRAGMENT.pack(content.message, content.index, content.count)
            return _RelayCommand.CLOVE, head + (content.destination or b"") + content.data
        case Response():
            return _RelayCommand.RESP, content.message + content.data
        case SendMe():
            return _RelayCommand.SENDME, b""
        case Ping():
            return _RelayCommand.PING, content.token
        case Dummy():
            return _RelayCommand.DUMMY, b""
        case Close():
            return _RelayCommand.CLOSE, bytes([content.reason])
        case Undelivered():
            return _RelayCommand.UNDELIVERED, content.message
        case _:
            assert_never(content)


def decode_outbound(data: bytes) -> Content:
    """Read what a client sent to its proxy. Raises DecodeError only."""
    return _decode(data, OUTBOUND_CONTENT_BYTES, _OUTBOUND)


def decode_inbound(data: bytes) -> Content:
    """Read what a proxy sent to its client. Raises DecodeError only."""
    return _decode(data, INBOUND_CONTENT_BYTES, _INBOUND)


def _decode(data: bytes, size: int, decoders: "Mapping[int, Callable[[bytes], Content]]") -> Content:
    if len(data) != size:
        raise DecodeError(f"a content has {size} bytes, not {len(data)}")
    command, flags, length = _HEADER.unpack_from(data)
    end = CONTENT_HEADER_BYTES + length
    decoder = decoders.get(command)
    if decoder is None:
        raise DecodeError(f"relay command {command} does not exist in this direction")
    if flags != 0 or end > size or data.count(0, end) != size - end:
        raise DecodeError("a content's flags, length or padding is wrong")
    return decoder(data[CONTENT_HEADER_BYTES:end])


def _decode_fragment(payload: bytes) -> CloveFragment:
    if len(payload) < _FRAGMENT.size:
        raise DecodeError("a clove fragment is too short")
    message, index, count = _FRAGMENT.unpack_from(payload)
    if not index < count <= MAX_CLOVE_FRAGMENTS:
        raise DecodeError("a clove fragment's index or count is out of range")
    start = _FRAGMENT.size + (NODE_ID_BYTES if index == 0 else 0)
    destination = NodeId(payload[_FRAGMENT.size : start]) if index == 0 else None
    data = payload[start:]
    full = FIRST_FRAGMENT_BYTES if index == 0 else NEXT_FRAGMENT_BYTES
    # The header's length already holds data to at most `full`.
    if not data or (index + 1 < count and len(data) != full):
        raise DecodeError("a clove fragment is empty, or short before the last")
    return CloveFragment(message, index, count, data, destination)


def _decode_response(payload: bytes) -> Response:
    if len(payload) != RESPONSE_BYTES:
        raise DecodeError(f"a response has {RESPONSE_BYTES} bytes, not {len(payload)}")
    return Response(payload[:MESSAGE_BYTES], payload[MESSAGE_BYTES:])


def _decode_sendme(payload: bytes) -> SendMe:
    _check_length(payload, 0)
    return SendMe()


def _decode_ping(payload: bytes) -> Ping:
    _check_length(payload, PING_BYTES)
    return Ping(payload)


def _decode_dummy(payload: bytes) -> Dummy:
    _check_length(payload, 0)
    return Dummy()


def _decode_close(payload: bytes) -> Close:
    _check_length(payload, 1)
    try:
        return Close(CloseReason(payload[0]))
    except ValueError as error:
        raise DecodeError(f"unknown close reason {payload[0]}") from error


def _decode_undelivered(payload: bytes) -> Undelivered:
    _check_length(payload, MESSAGE_BYTES)
    return Undelivered(payload)


def _check_length(payload: bytes, length: int) -> None:
    if len(payload) != length:
        raise DecodeError(f"a payload of {length} bytes has {len(payload)}")


_BOTH: Mapping[int, Callable[[bytes], Content]] = {
    _RelayCommand.SENDME: _decode_sendme,
    _RelayCommand.PING: _decode_ping,
    _RelayCommand.DUMMY: _decode_dummy,
}
_OUTBOUND: Mapping[int, Callable[[bytes], Content]] = {**_BOTH, _RelayCommand.CLOVE: _decode_fragment}
_INBOUND: Mapping[int, Callable[[bytes], Content]] = {
    **_BOTH,
    _RelayCommand.RESP: _decode_response,
    _RelayCommand.CLOSE: _decode_close,
    _RelayCommand.UNDELIVERED: _decode_undelivered,
}
