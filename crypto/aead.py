"""Authenticated encryption with ChaCha20-Poly1305, and AES-CTR key streams where a tag is elsewhere."""

from typing import NewType, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from crypto.entropy import Entropy
from crypto.errors import AuthenticationError

Nonce = NewType("Nonce", bytes)
"""Twelve bytes that one key sees once."""

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16

ONE_USE_NONCE = Nonce(bytes(NONCE_BYTES))
"""For a key that seals one thing in its life."""

_ZERO_IV = bytes(16)


def counter_nonce(counter: int) -> Nonce:
    """The nonce of the counter-th message under a key: the counter in 12 bytes, big-endian."""
    return Nonce(counter.to_bytes(NONCE_BYTES, "big"))


class AeadKey:
    """A ChaCha20-Poly1305 key. Keep the object: a new one costs more than sealing a cell."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        self._cipher = ChaCha20Poly1305(key)

    @classmethod
    def generate(cls, entropy: Entropy) -> Self:
        """A fresh key."""
        return cls(entropy(KEY_BYTES))

    def seal(self, nonce: Nonce, plaintext: bytes, aad: bytes | None = None) -> bytes:
        """Ciphertext and, behind it, the 16-byte tag."""
        return self._cipher.encrypt(nonce, plaintext, aad)

    def open(self, nonce: Nonce, sealed: bytes, aad: bytes | None = None) -> bytes:
        """The plaintext. Raises AuthenticationError on anything that `seal` did not make."""
        try:
            return self._cipher.decrypt(nonce, sealed, aad)
        except InvalidTag as error:
            raise AuthenticationError("the tag does not hold") from error

    def __repr__(self) -> str:
        return "AeadKey(not shown)"


def key_stream(key: bytes) -> CipherContext:
    """AES-256-CTR from a zero counter: `update(data)` XORs the next stretch of the stream into data.

    It authenticates nothing; use it only where a tag covers the same bytes.
    """
    return Cipher(AES256(key), CTR(_ZERO_IV)).encryptor()
