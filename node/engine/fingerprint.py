"""A short fingerprint of a token's last hidden state: a random projection to 16 dimensions, as int8 with a scale.

18 bytes: the scale as fp16 little-endian, then 16 signed bytes; the projected value is scale * byte. The projection's
signs come from SHAKE-256 over a label and the hidden size, so every node and auditor has the same one.
"""

from hashlib import shake_256

import numpy as np
import torch

FINGERPRINT_DIMS = 16
FINGERPRINT_BYTES = 2 + FINGERPRINT_DIMS

_LABEL = b"clove-fingerprint/1"


def projection_matrix(hidden_size: int) -> torch.Tensor:
    """The [hidden_size, 16] projection: random signs, scaled so that lengths are kept on average."""
    bits = hidden_size * FINGERPRINT_DIMS
    stream = shake_256(_LABEL + hidden_size.to_bytes(4, "little")).digest((bits + 7) // 8)
    signs = np.unpackbits(np.frombuffer(stream, dtype=np.uint8))[:bits].astype(np.float32) * 2.0 - 1.0
    return torch.from_numpy(signs.reshape(hidden_size, FINGERPRINT_DIMS) / np.float32(FINGERPRINT_DIMS**0.5))


def encode_fingerprints(hidden: torch.Tensor, projection: torch.Tensor) -> list[bytes]:
    """Fingerprints of hidden states [rows, hidden_size], one per row."""
    projected = (hidden.float() @ projection).cpu().numpy()
    greatest = np.abs(projected).max(axis=1, keepdims=True).astype(np.float64)
    # At least the smallest normal fp16, so that an all-zero state divides by something.
    scales = np.maximum(greatest / 127.0, 6.104e-05).astype("<f2")
    steps = np.clip(np.rint(projected / scales.astype(np.float32)), -127, 127).astype(np.int8)
    return [mark.tobytes() for mark in np.hstack([scales.view(np.uint8), steps.view(np.uint8)])]
