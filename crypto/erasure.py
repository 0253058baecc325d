"""The bare erasure code: data cut into k fragments and extended to n, any k of which give it back.

Systematic and Cauchy: fragments 0..k-1 are the data itself, in order, the last one padded with zeros;
fragment k + r is the sum of all of them by row r of a Cauchy matrix over GF(256), scaled so that its first
row and column are ones (which keeps every square part invertible and saves multiplications). It hides
nothing and authenticates nothing: `dispersal` does, and answers come with their own tags.
"""

from collections.abc import Mapping
from functools import lru_cache

from crypto.errors import DecodeError, ShortageError
from crypto.gf256 import Matrix, combine_rows, invert, invert_matrix, multiply

MAX_FRAGMENTS = 16


def check_code(k: int, n: int) -> None:
    """Raises DecodeError unless 1 <= k <= n <= 16."""
    if not 1 <= k <= n <= MAX_FRAGMENTS:
        raise DecodeError(f"no code with k = {k} of n = {n}; 1 <= k <= n <= {MAX_FRAGMENTS}")


def fragment_length(length: int, k: int) -> int:
    """Bytes in each fragment of `length` bytes of data."""
    return -(-length // k)


def disperse(data: bytes, k: int, n: int) -> list[bytes]:
    """The n fragments of `data`."""
    check_code(k, n)
    size = fragment_length(len(data), k)
    padded = data.ljust(size * k, b"\0")
    fragments = [padded[start * size : (start + 1) * size] for start in range(k)]
    return fragments + combine_rows([generator_row(k, index) for index in range(k, n)], fragments)


def reassemble(fragments: Mapping[int, bytes], k: int, n: int, length: int) -> bytes:
    """The `length` bytes of data from any k of its fragments, by index; more than k are ignored.

    Raises ShortageError with fewer than k, DecodeError on an index or a length that can't be.
    """
    check_code(k, n)
    size = fragment_length(length, k)
    if any(not 0 <= index < n or len(fragment) != size for index, fragment in fragments.items()):
        raise DecodeError("a fragment of another code or length")
    if len(fragments) < k:
        raise ShortageError(f"{len(fragments)} fragments of the {k} needed")
    chosen = tuple(sorted(fragments))[:k]
    missing = [index for index in range(k) if index not in fragments]
    rows = _decoding_rows(k, chosen)
    rebuilt = combine_rows([rows[index] for index in missing], [fragments[index] for index in chosen])
    data = {**fragments, **dict(zip(missing, rebuilt, strict=True))}
    return b"".join(data[index] for index in range(k))[:length]


@lru_cache(maxsize=512)
def generator_row(k: int, index: int) -> tuple[int, ...]:
    """By what to multiply the k data fragments to get fragment `index`."""
    if index < k:
        return tuple(int(column == index) for column in range(k))
    corner = _cauchy(k, 0)
    first = _cauchy(index, 0)
    return tuple(
        multiply(multiply(_cauchy(index, column), corner), invert(multiply(first, _cauchy(k, column))))
        for column in range(k)
    )


@lru_cache(maxsize=512)
def _decoding_rows(k: int, chosen: tuple[int, ...]) -> Matrix:
    return invert_matrix(generator_row(k, index) for index in chosen)


def _cauchy(index: int, column: int) -> int:
    # Rows are numbered k..n-1 and columns 0..k-1, so the two never meet and the sum is never 0.
    return invert(index ^ column)
