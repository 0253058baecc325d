"""Cloves: a message split so that any k of n pieces give it back and a false piece is found out (S-IDA).

Krawczyk's scheme (CRYPTO '93) with authentication: the message is encrypted under a fresh key, the
ciphertext goes through the erasure code, the key through Shamir's secret sharing. Fewer than k cloves say
nothing about the message but its length. Every clove carries a commitment to key and ciphertext;
ChaCha20-Poly1305 alone does not commit to its key, and two sets of k cloves could otherwise open to two
messages. Byte tables: docs/spec/cloves.md.
"""

import hmac
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from itertools import combinations, islice

from crypto.aead import KEY_BYTES, ONE_USE_NONCE, TAG_BYTES, AeadKey
from crypto.entropy import Entropy
from crypto.erasure import (
    MAX_FRAGMENTS,
    check_code,
    disperse,
    fragment_length,
    generator_row,
    reassemble,
)
from crypto.errors import AuthenticationError, DecodeError, ShortageError
from crypto.gf256 import combine, combine_rows, invert, multiply

__all__ = [
    "CLOVE_HEADER_BYTES",
    "MAX_FRAGMENTS",
    "MAX_MESSAGE_BYTES",
    "MID_BYTES",
    "Clove",
    "Recovered",
    "clove_bytes",
    "decode_clove",
    "disperse",
    "reassemble",
    "recover",
    "split",
]

CLOVE_VERSION = 1
MID_BYTES = 16
MAX_MESSAGE_BYTES = 1 << 22
MAX_SUBSETS_TRIED = 70
"""Every k of n up to n = 8. Beyond, whoever spoils cloves costs us no more than this many attempts."""

_COMMITMENT_LABEL = b"clove-sida/1"
_HEADER = struct.Struct("!BBBB16sI32s32s")
_BOUND = struct.Struct("!BBB16sI")
CLOVE_HEADER_BYTES = _HEADER.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Clove:
    """One of n pieces of a message; index is 0..n-1, length that of the message."""

    version: int
    k: int
    n: int
    index: int
    mid: bytes
    length: int
    commitment: bytes
    share: bytes = field(repr=False)
    fragment: bytes = field(repr=False)

    @property
    def group(self) -> tuple[int, int, int, bytes, int, bytes]:
        """What all cloves of one message have in common."""
        return (self.version, self.k, self.n, self.mid, self.length, self.commitment)

    def encode(self) -> bytes:
        """88 bytes of header and the fragment."""
        header = _HEADER.pack(
            self.version, self.k, self.n, self.index, self.mid, self.length, self.commitment, self.share
        )
        return header + self.fragment


@dataclass(frozen=True, slots=True)
class Recovered:
    """A message from its cloves. culprits: indexes of the cloves that were given but are false."""

    message: bytes = field(repr=False)
    culprits: frozenset[int]


def clove_bytes(length: int, k: int) -> int:
    """How long each encoded clove of a message of `length` bytes is."""
    return CLOVE_HEADER_BYTES + fragment_length(length + TAG_BYTES, k)


def decode_clove(data: bytes) -> Clove:
    """Reads an encoded clove. Raises DecodeError; the result is consistent, but not yet proven genuine."""
    if len(data) < CLOVE_HEADER_BYTES:
        raise DecodeError(f"a clove has at least {CLOVE_HEADER_BYTES} bytes, not {len(data)}")
    version, k, n, index, mid, length, commitment, share = _HEADER.unpack_from(data)
    if version != CLOVE_VERSION:
        raise DecodeError(f"clove version {version}, expected {CLOVE_VERSION}")
    check_code(k, n)
    if index >= n:
        raise DecodeError(f"clove {index} of {n}")
    if length > MAX_MESSAGE_BYTES:
        raise DecodeError(f"a message of {length} bytes is over the bound of {MAX_MESSAGE_BYTES}")
    if len(data) != clove_bytes(length, k):
        raise DecodeError(f"a clove of {clove_bytes(length, k)} bytes came with {len(data)}")
    return Clove(
        version=version,
        k=k,
        n=n,
        index=index,
        mid=mid,
        length=length,
        commitment=commitment,
        share=share,
        fragment=bytes(data[CLOVE_HEADER_BYTES:]),
    )


def split(message: bytes, k: int, n: int, *, mid: bytes, entropy: Entropy) -> list[Clove]:
    """The n cloves of `message`, any k of which give it back. mid: 16 bytes that name the message.

    Raises DecodeError where k, n, mid or the message's length is out of bounds.
    """
    check_code(k, n)
    if len(mid) != MID_BYTES or len(message) > MAX_MESSAGE_BYTES:
        raise DecodeError(f"mid has {MID_BYTES} bytes and a message at most {MAX_MESSAGE_BYTES}")
    key = entropy(KEY_BYTES)
    aad = _BOUND.pack(CLOVE_VERSION, k, n, mid, len(message))
    ciphertext = AeadKey(key).seal(ONE_USE_NONCE, message, aad)
    commitment = _commit(key, ciphertext)
    shares = _share(key, k, n, entropy)
    return [
        Clove(
            version=CLOVE_VERSION,
            k=k,
            n=n,
            index=index,
            mid=mid,
            length=len(message),
            commitment=commitment,
            share=share,
            fragment=fragment,
        )
        for index, (share, fragment) in enumerate(zip(shares, disperse(ciphertext, k, n), strict=True))
    ]


def recover(cloves: Iterable[Clove]) -> Recovered:
    """The message, and which of the given cloves were false.

    Cloves of different groups may be mixed (a spoiled header looks like another group); groups are tried
    from the largest. Raises ShortageError where no group has k different cloves, AuthenticationError where
    none opens.
    """
    given = tuple(cloves)
    groups: dict[tuple[int, int, int, bytes, int, bytes], list[Clove]] = {}
    for clove in given:
        groups.setdefault(clove.group, []).append(clove)
    candidates = sorted(groups.values(), key=len, reverse=True)
    subsets = (subset for group in candidates for subset in _subsets(group))
    tried = False
    for subset in islice(subsets, MAX_SUBSETS_TRIED):
        tried = True
        opened = _open(subset)
        if opened is not None:
            message, ciphertext = opened
            return Recovered(message, _find_culprits(given, subset, ciphertext))
    if tried:
        raise AuthenticationError("no set of cloves agrees with its commitment")
    raise ShortageError(f"{len(given)} cloves, fewer than k of any message")


def _subsets(group: Sequence[Clove]) -> Iterator[tuple[Clove, ...]]:
    """Every k cloves with different indexes, in the order they came."""
    for subset in combinations(group, group[0].k):
        if len({clove.index for clove in subset}) == len(subset):
            yield subset


def _open(subset: Sequence[Clove]) -> tuple[bytes, bytes] | None:
    """The message and ciphertext of exactly k cloves, or None where one of them is false."""
    one = subset[0]
    key = _interpolate({clove.index: clove.share for clove in subset}, at=0)
    fragments = {clove.index: clove.fragment for clove in subset}
    ciphertext = reassemble(fragments, one.k, one.n, one.length + TAG_BYTES)
    if not hmac.compare_digest(_commit(key, ciphertext), one.commitment):
        return None
    aad = _BOUND.pack(one.version, one.k, one.n, one.mid, one.length)
    try:
        return AeadKey(key).open(ONE_USE_NONCE, ciphertext, aad), ciphertext
    except AuthenticationError:
        # The commitment holds, so whoever made the cloves made them wrong; no other subset will do better.
        return None


def _find_culprits(given: Sequence[Clove], subset: Sequence[Clove], ciphertext: bytes) -> frozenset[int]:
    one, shares = subset[0], {clove.index: clove.share for clove in subset}
    others = [clove for clove in given if clove not in subset]
    if not others:
        return frozenset()
    data = disperse(ciphertext, one.k, one.k)
    return frozenset(
        clove.index
        for clove in others
        if clove.group != one.group
        or clove.fragment != combine(generator_row(one.k, clove.index), data)
        or clove.share != _interpolate(shares, at=clove.index + 1)
    )


def _commit(key: bytes, ciphertext: bytes) -> bytes:
    return sha256(_COMMITMENT_LABEL + key + sha256(ciphertext).digest()).digest()


def _share(secret: bytes, k: int, n: int, entropy: Entropy) -> list[bytes]:
    """Shamir over GF(256), byte by byte: share i is the polynomial at i + 1. All 256 values may occur."""
    coefficients = [secret, *(entropy(len(secret)) for _ in range(k - 1))]
    return combine_rows([_powers(index + 1, k) for index in range(n)], coefficients)


@lru_cache(maxsize=256)
def _powers(point: int, count: int) -> tuple[int, ...]:
    powers = [1]
    for _ in range(count - 1):
        powers.append(multiply(powers[-1], point))
    return tuple(powers)


def _interpolate(shares: dict[int, bytes], *, at: int) -> bytes:
    """Lagrange: the polynomial through k shares, evaluated at a point; at 0 it is the secret."""
    weights = []
    for index in shares:
        weight = 1
        for other in shares:
            if other != index:
                weight = multiply(weight, multiply(at ^ other + 1, invert(index + 1 ^ other + 1)))
        weights.append(weight)
    return combine(weights, list(shares.values()))
