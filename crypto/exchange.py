"""X25519 keys of the onion: a relay's, which lives for an epoch, and a build's, for one round trip."""

from typing import NewType, Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from crypto.entropy import Entropy
from crypto.errors import AuthenticationError, DecodeError

OnionPublicKey = NewType("OnionPublicKey", bytes)
"""The public half of an OnionKey, 32 bytes."""

ONION_KEY_BYTES = 32

_LOW_ORDER = frozenset(
    bytes.fromhex(point)
    for point in (
        "00" * 32,
        "01" + "00" * 31,
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)
"""Every encoding of a point of low order, the unused top bit aside (RFC 7748, section 5)."""


def is_low_order(public: bytes) -> bool:
    """Whether 32 bytes, as an X25519 public key, give everyone the same secret."""
    return public[:-1] + bytes([public[-1] & 0x7F]) in _LOW_ORDER


class OnionKey:
    """An X25519 private key."""

    __slots__ = ("_key", "public")

    def __init__(self, key: X25519PrivateKey) -> None:
        self._key = key
        self.public = OnionPublicKey(key.public_key().public_bytes_raw())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The key of 32 secret bytes. Raises DecodeError on another length."""
        if len(data) != ONION_KEY_BYTES:
            raise DecodeError(f"an onion key has {ONION_KEY_BYTES} bytes, not {len(data)}")
        return cls(X25519PrivateKey.from_private_bytes(data))

    @classmethod
    def generate(cls, entropy: Entropy) -> Self:
        """A fresh key."""
        return cls.from_bytes(entropy(ONION_KEY_BYTES))

    def to_bytes(self) -> bytes:
        """The secret itself, for the store. Never log it."""
        return self._key.private_bytes_raw()

    def agree(self, public: bytes) -> bytes:
        """The shared secret with the holder of `public`.

        Raises AuthenticationError where it is all zeros, as with every point of low order: such a secret is
        known to everyone (RFC 7748, section 6.1).
        """
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise AuthenticationError("the other side's X25519 key gives no secret") from error

    def __repr__(self) -> str:
        return f"OnionKey({self.public.hex()[:16]}…, secret not shown)"
