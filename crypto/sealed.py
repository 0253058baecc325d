"""Sealing to a model node: HPKE (RFC 9180), base mode, X25519 with HKDF-SHA256 and ChaCha20-Poly1305.

A sealed message is HPKE's `enc` (32 bytes) and its ciphertext with tag; it is 48 bytes longer than the
plaintext.
"""

from typing import NewType, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from crypto.entropy import Entropy
from crypto.errors import AuthenticationError, DecodeError

SealingPublicKey = NewType("SealingPublicKey", bytes)
"""The public half of a SealingKey, 32 bytes."""

SEALING_KEY_BYTES = 32
SEALED_OVERHEAD_BYTES = 48

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


class SealingKey:
    """A model node's HPKE key for one epoch."""

    __slots__ = ("_key", "public")

    def __init__(self, key: X25519PrivateKey) -> None:
        self._key = key
        self.public = SealingPublicKey(key.public_key().public_bytes_raw())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The key of 32 secret bytes. Raises DecodeError on another length."""
        if len(data) != SEALING_KEY_BYTES:
            raise DecodeError(f"a sealing key has {SEALING_KEY_BYTES} bytes, not {len(data)}")
        return cls(X25519PrivateKey.from_private_bytes(data))

    @classmethod
    def generate(cls, entropy: Entropy) -> Self:
        """A fresh key."""
        return cls.from_bytes(entropy(SEALING_KEY_BYTES))

    def to_bytes(self) -> bytes:
        """The secret itself, for the store. Never log it."""
        return self._key.private_bytes_raw()

    def unseal(self, sealed: bytes, *, info: bytes) -> bytes:
        """The plaintext. See the function `unseal`."""
        try:
            return _SUITE.decrypt(sealed, self._key, info)
        except (InvalidTag, ValueError) as error:
            raise AuthenticationError(
                "not sealed to this key for this purpose, or changed on the way"
            ) from error

    def __repr__(self) -> str:
        return f"SealingKey({self.public.hex()[:16]}…, secret not shown)"


def seal(public: SealingPublicKey, plaintext: bytes, *, info: bytes) -> bytes:
    """Seals `plaintext` to the holder of `public`'s key; it opens only with the same `info`.

    Raises AuthenticationError if `public` is a point of low order. The ephemeral key comes from the library's
    own source of entropy, not from a caller: a repeated one would repeat the AEAD key.
    """
    try:
        return _SUITE.encrypt(plaintext, X25519PublicKey.from_public_bytes(public), info)
    except ValueError as error:
        raise AuthenticationError("the sealing key gives no secret") from error


def unseal(key: SealingKey, sealed: bytes, *, info: bytes) -> bytes:
    """Opens what `seal` made. Raises DecodeError (too short) or AuthenticationError (does not open)."""
    if len(sealed) < SEALED_OVERHEAD_BYTES:
        raise DecodeError(f"a sealed message has at least {SEALED_OVERHEAD_BYTES} bytes, not {len(sealed)}")
    return key.unseal(sealed, info=info)
