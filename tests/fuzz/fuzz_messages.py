"""Fuzz targets for control messages and addresses: what strangers say on a control stream and in descriptors."""

from contextlib import suppress

from crypto.errors import DecodeError
from overlay.transport.addresses import parse_address
from overlay.wire.messages import FRAME_HEADER_BYTES, MessageReader, decode_message, encode_message


def fuzz_message(data: bytes) -> None:
    """Bytes are one message or malformed; what was read can be written and read again."""
    with suppress(DecodeError):
        message = decode_message(data)
        assert decode_message(encode_message(message)[FRAME_HEADER_BYTES:]) == message


def fuzz_stream(data: bytes) -> None:
    """A stream gives the same messages however it is cut, or is malformed."""
    whole: list[object] = []
    with suppress(DecodeError):
        whole += MessageReader().feed(data)
        reader, pieces = MessageReader(), []
        for byte in data:
            pieces += reader.feed(bytes([byte]))
        assert pieces == whole


def fuzz_address(data: bytes) -> None:
    """Text is one address or malformed, and reading it again gives the same."""
    with suppress(DecodeError):
        address = parse_address(data.decode("utf-8", "replace"))
        assert parse_address(str(address)) == address
