"""What is in a safetensors file, looked at without torch."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open

from node.engine.errors import UnsupportedModelError

_EXPONENTS = {"F32": (np.uint32, 0x7F80_0000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}
"""All bits of the exponent set: infinite, or not a number."""

FLOATS = frozenset(_EXPONENTS)
"""The dtypes that weights come in."""


class TensorInfo(NamedTuple):
    """Shape of a tensor, and its dtype by safetensors' name (F32, BF16 ...)."""

    shape: tuple[int, ...]
    dtype: str


def read_header(file: Path) -> dict[str, TensorInfo]:
    """What tensors a file holds. It must be whole: the library compares its length with what the header says.

    Raises:
        UnsupportedModelError: it is no such file, or cut short.
    """
    try:
        with safe_open(file, "np") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
            return {
                name: TensorInfo(tuple(part.get_shape()), str(part.get_dtype()))
                for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise UnsupportedModelError(
            f"{file.name} is no whole safetensors file ({error}); fetch it again"
        ) from error


def not_finite(file: Path) -> str | None:
    """The name of a tensor with values that are infinite or not a number, if there is one. All are of FLOATS dtypes."""
    for name, tensor in deserialize(file.read_bytes()):  # type: ignore[no-untyped-call]
        kind, mask = _EXPONENTS[tensor["dtype"]]
        if ((np.frombuffer(tensor["data"], kind) & mask) == mask).any():
            return str(name)
    return None
