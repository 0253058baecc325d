"""Weight-only int8: each row of a matrix as integers of -127 .. 127 and one fp32 scale."""

from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float32]]
Bytes = np.ndarray[Any, np.dtype[np.int8]]


def quantise_rows(weights: Floats) -> tuple[Bytes, Floats]:
    """Integers [n, k] and scales [n] with weights close to integers * scale.

    The scale is the row's greatest absolute value over 127 (1 for a row of zeros), an integer the weight over it,
    rounded half to even; all in fp32, so that every machine gets the same ones.
    """
    scales = np.abs(weights).max(axis=1) / np.float32(127)
    scales[scales == 0] = 1
    return np.rint(weights / scales[:, None]).astype(np.int8), scales
