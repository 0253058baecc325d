"""Arithmetic in GF(256), x^8 + x^4 + x^3 + x^2 + 1 (0x11d), on single elements and on whole buffers.

Addition is XOR. A buffer is multiplied by a constant with `bytes.translate`, which runs at memory speed, and added
by numpy: turning bytes into a Python integer and back costs more than everything else here. The tables are read at
secret indices, so who shares the CPU's caches may learn about the data (docs/threat-model.md).
"""

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

_POLYNOMIAL = 0x11D
_ORDER = 255

Matrix = tuple[tuple[int, ...], ...]


def _powers_of_two() -> tuple[int, ...]:
    powers, element = [], 1
    for _ in range(_ORDER):
        powers.append(element)
        element <<= 1
        if element > _ORDER:
            element ^= _POLYNOMIAL
    return tuple(powers)


_EXP = _powers_of_two()
_LOG = {element: exponent for exponent, element in enumerate(_EXP)}


def multiply(left: int, right: int) -> int:
    """The product of two elements."""
    if not left or not right:
        return 0
    return _EXP[(_LOG[left] + _LOG[right]) % _ORDER]


def invert(element: int) -> int:
    """The element that gives 1 with `element`. ZeroDivisionError for 0."""
    if not element:
        raise ZeroDivisionError("0 has no inverse in GF(256)")
    return _EXP[-_LOG[element] % _ORDER]


@cache  # at most 256 tables of 256 bytes, the same for everyone
def multiples(factor: int) -> bytes:
    """The table with which `bytes.translate` multiplies a buffer by `factor`."""
    return bytes(multiply(factor, element) for element in range(256))


def combine(coefficients: Sequence[int], buffers: Sequence[bytes]) -> bytes:
    """The sum of buffers of one length, each times its coefficient."""
    return combine_rows([coefficients], buffers)[0]


def combine_rows(rows: Iterable[Sequence[int]], buffers: Sequence[bytes]) -> list[bytes]:
    """One sum of the same buffers for every row of coefficients; each multiple is made once for all rows."""
    made: dict[tuple[int, int], np.ndarray[tuple[int], np.dtype[np.uint8]]] = {}
    sums = []
    for row in rows:
        total = None
        for term in enumerate(row):
            if not term[1]:
                continue
            if (multiple := made.get(term)) is None:
                multiple = made[term] = _multiply_buffer(term[1], buffers[term[0]])
            total = multiple if total is None else total ^ multiple
        sums.append(bytes(len(buffers[0])) if total is None else total.tobytes())
    return sums


def _multiply_buffer(factor: int, buffer: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(buffer if factor == 1 else buffer.translate(multiples(factor)), np.uint8)


def invert_matrix(rows: Iterable[Sequence[int]]) -> Matrix:
    """The inverse of a square matrix, by Gauss and Jordan. ZeroDivisionError where there is none."""
    work = [list(row) for row in rows]
    size = len(work)
    for index, row in enumerate(work):
        row.extend(int(column == index) for column in range(size))
    for pivot in range(size):
        _bring_up_pivot(work, pivot)
        scale = invert(work[pivot][pivot])
        work[pivot] = [multiply(scale, element) for element in work[pivot]]
        for other in range(size):
            if other != pivot and (factor := work[other][pivot]):
                work[other] = [a ^ multiply(factor, b) for a, b in zip(work[other], work[pivot], strict=True)]
    return tuple(tuple(row[size:]) for row in work)


def _bring_up_pivot(work: list[list[int]], pivot: int) -> None:
    for candidate in range(pivot, len(work)):
        if work[candidate][pivot]:
            work[pivot], work[candidate] = work[candidate], work[pivot]
            return
    raise ZeroDivisionError("the matrix has no inverse")
