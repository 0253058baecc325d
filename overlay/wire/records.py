"""Records: msgpack arrays of fixed shape, the inside of prompts, updates and answer events.

Nothing here repairs a value: a field of another type, out of range or too long is a `DecodeError`, and so is
one field too many. The first element of an array is never interpreted here.
"""

import struct
from math import copysign, isfinite
from typing import cast

import msgpack

from crypto.errors import DecodeError
from overlay.errors import LocalProtocolError


def pack_record(fields: tuple[object, ...]) -> bytes:
    """Encodes one array. Its parts must be None, bool, int, float, str, bytes or tuples of these.

    Raises LocalProtocolError for an integer over 64 bits or a text that is not Unicode (a lone surrogate).
    """
    try:
        return cast("bytes", msgpack.packb(fields, use_bin_type=True))
    except (UnicodeEncodeError, OverflowError) as error:
        raise LocalProtocolError(f"a value can't be encoded: {error}") from error


def unpack_record(data: bytes) -> list[object]:
    """Decodes one array that fills `data` exactly; maps and extension types are refused."""
    try:
        fields = msgpack.unpackb(data, raw=False, use_list=True, max_map_len=0, max_ext_len=0)
    except (ValueError, TypeError, RecursionError) as error:  # msgpack's own errors are ValueErrors
        raise DecodeError("record: not msgpack") from error
    if type(fields) is not list:
        raise DecodeError("record: not an array")
    return cast("list[object]", fields)


def read_fields(value: object, count: int) -> list[object]:
    """An array of exactly `count` elements."""
    fields = read_array(value, count)
    if len(fields) != count:
        raise DecodeError("record: wrong number of fields")
    return fields


def read_array(value: object, max_length: int) -> list[object]:
    """An array of at most `max_length` elements."""
    if type(value) is not list or len(value) > max_length:
        raise DecodeError("record: an array is missing or too long")
    return cast("list[object]", value)


def read_integer(value: object, low: int, high: int) -> int:
    """An integer in low..high, both included; a bool is not an integer."""
    if type(value) is not int or not low <= value <= high:
        raise DecodeError("record: an integer is missing or out of range")
    return value


def read_flag(value: object) -> bool:
    """True or False."""
    if type(value) is not bool:
        raise DecodeError("record: a flag is missing")
    return value


def read_number(value: object, low: float, high: float) -> float:
    """A finite float in low..high, both included; an integer is not a float, and -0.0 is not a second 0.0."""
    if type(value) is not float or not isfinite(value) or not low <= value <= high:
        raise DecodeError("record: a number is missing or out of range")
    if value == 0.0 and copysign(1.0, value) < 0.0:
        raise DecodeError("record: a negative zero")
    return value


def read_octets(value: object, low: int, high: int) -> bytes:
    """A byte string of low..high bytes."""
    if type(value) is not bytes or not low <= len(value) <= high:
        raise DecodeError("record: a byte string is missing or of a wrong length")
    return value


def pack_token_ids(ids: tuple[int, ...]) -> bytes:
    """Token ids as u32, little-endian. Raises LocalProtocolError where one is none."""
    try:
        return struct.pack(f"<{len(ids)}I", *ids)
    except struct.error as error:
        raise LocalProtocolError(f"a token id can't be encoded: {error}") from error


def read_token_ids(value: object, most: int) -> tuple[int, ...]:
    """At most so many token ids, as `pack_token_ids` leaves them."""
    packed = read_octets(value, 0, 4 * most)
    if len(packed) % 4:
        raise DecodeError("record: not a whole number of token ids")
    return struct.unpack(f"<{len(packed) // 4}I", packed)


def read_text(value: object, low: int, high: int) -> str:
    """A text of low..high bytes in UTF-8 (msgpack has already refused what is not UTF-8)."""
    if type(value) is not str or not low <= len(value.encode()) <= high:
        raise DecodeError("record: a text is missing or of a wrong length")
    return value
