"""Fuzz targets for cloves. Each takes any bytes and lets only the errors of its decoder pass silently."""

from contextlib import suppress

from crypto.dispersal import Clove, decode_clove, reassemble, recover
from crypto.errors import AuthenticationError, DecodeError, ShortageError


def fuzz_clove(data: bytes) -> None:
    """Decodes one clove; what is accepted encodes to the same bytes."""
    with suppress(DecodeError):
        assert decode_clove(data).encode() == data


def fuzz_recover(data: bytes) -> None:
    """Recovers from four cloves cut from the data, all with plausible headers and nothing genuine in them."""
    k, n = data[0] % 4 + 1 if data else 2, 4
    size = max(0, len(data) - 1) // n
    cloves = [
        Clove(
            version=1,
            k=k,
            n=n,
            index=index,
            mid=bytes(16),
            length=max(0, size * k - 16),
            commitment=bytes(32),
            share=data[1 + index : 33 + index].ljust(32, b"\0"),
            fragment=data[1 + index * size : 1 + (index + 1) * size],
        )
        for index in range(n)
    ]
    with suppress(DecodeError, AuthenticationError, ShortageError):
        recover(cloves)
        raise AssertionError("a false clove was believed")


def fuzz_reassemble(data: bytes) -> None:
    """Reassembles fragments cut at bytes that the data itself chooses."""
    if len(data) < 4:
        return
    k, n, length, cut = data[0], data[1], data[2], max(1, data[3])
    pieces = [data[at : at + cut] for at in range(4, len(data), cut)]
    with suppress(DecodeError, ShortageError):
        assert len(reassemble(dict(enumerate(pieces)), k, n, length)) == length
