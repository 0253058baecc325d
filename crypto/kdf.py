"""Keys from secrets: HKDF-SHA256 (RFC 5869) under a label that says what the key is for."""

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def derive(secret: bytes, label: bytes, length: int = 32, salt: bytes = b"") -> bytes:
    """`length` bytes for the purpose `label` (HKDF's info); at most 8,160."""
    return HKDF(SHA256(), length, salt, label).derive(secret)
