"""Unbiased choices from an entropy source."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from crypto.entropy import Entropy

_T = TypeVar("_T")


def draw_below(end: int, entropy: Entropy) -> int:
    """Returns a number of 0..end-1, each as likely as any other."""
    if end < 1:
        raise ValueError("nothing to draw from")
    bits = (end - 1).bit_length()
    size = (bits + 7) // 8
    while True:  # ends with probability 1; each turn succeeds with more than 1/2
        drawn = int.from_bytes(entropy(size), "big") >> (8 * size - bits)
        if drawn < end:
            return drawn


def draw_each(items: Sequence[_T], entropy: Entropy) -> Iterator[_T]:
    """Yields all items in a random order; what is never asked for costs no entropy."""
    moved: dict[int, _T] = {}  # Fisher-Yates over a copy that exists only where it differs
    for end in range(len(items), 0, -1):
        at = draw_below(end, entropy)
        yield moved.get(at, items[at])
        moved[at] = moved.get(end - 1, items[end - 1])
