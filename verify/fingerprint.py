"""Fingerprints of hidden states, as a receipt carries them, and how far apart two of them are.

A fingerprint is `scale 2 | steps 16`: the scale as fp16 little-endian, then 16 signed bytes; the state's
projection is scale * step. Both sides of an audit round in the same way, so that equal states give equal
bytes and what is left is a difference of the states.
"""

import math
import struct
from collections.abc import Sequence

from crypto.errors import DecodeError

DIMENSIONS = 16
FINGERPRINT_BYTES = 2 + DIMENSIONS
_LAYOUT = struct.Struct(f"<e{DIMENSIONS}b")


def decode_fingerprint(data: bytes) -> tuple[float, ...]:
    """The projection that a fingerprint stands for. Raises DecodeError and nothing else."""
    if len(data) != FINGERPRINT_BYTES:
        raise DecodeError(f"a fingerprint has {FINGERPRINT_BYTES} bytes, not {len(data)}")
    scale, *steps = _LAYOUT.unpack(data)
    if not math.isfinite(scale) or scale <= 0 or -128 in steps:
        raise DecodeError("fingerprint: a scale or a step out of range")
    return tuple(scale * step for step in steps)


def distance(claimed: bytes, replayed: bytes) -> float:
    """Euclidean distance over the length of the replayed one; 0 for equal ones, inf beside a zero one."""
    claim, truth = decode_fingerprint(claimed), decode_fingerprint(replayed)
    if claim == truth:
        return 0.0
    length = math.hypot(*truth)
    return math.dist(claim, truth) / length if length > 0 else math.inf


def distances(claimed: Sequence[bytes], replayed: Sequence[bytes]) -> tuple[float, ...]:
    """Position by position."""
    return tuple(distance(claim, truth) for claim, truth in zip(claimed, replayed, strict=True))
