"""Entropy that tests can repeat: a stream from a seed, and a recorded one that is played back."""

from hashlib import sha256

from crypto.aead import key_stream
from crypto.entropy import Entropy


def fixed_entropy(seed: str) -> Entropy:
    """The AES-256-CTR stream of the seed's SHA-256, from its start."""
    stream = key_stream(sha256(seed.encode()).digest())
    return lambda length: stream.update(bytes(length))


class RecordedEntropy:
    """Passes on another source and keeps what was drawn."""

    def __init__(self, source: Entropy) -> None:
        self._source = source
        self.drawn = b""

    def __call__(self, length: int) -> bytes:
        draw = self._source(length)
        self.drawn += draw
        return draw


class ReplayedEntropy:
    """Gives recorded bytes again, in order, and fails when they run out."""

    def __init__(self, drawn: bytes) -> None:
        self._left = drawn

    def __call__(self, length: int) -> bytes:
        if len(self._left) < length:
            raise AssertionError("more entropy was drawn than was recorded")
        draw, self._left = self._left[:length], self._left[length:]
        return draw

    @property
    def used_up(self) -> bool:
        return not self._left
