"""A second HPKE (RFC 9180, base mode, X25519, HKDF-SHA256, ChaCha20-Poly1305), written from the RFC.

It takes the ephemeral key as an argument, so vectors can be made from fixed seeds.
"""

import hmac

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

_KEM_SUITE = b"KEM\x00\x20"
_HPKE_SUITE = b"HPKE\x00\x20\x00\x01\x00\x03"


def hpke_seal(public: bytes, plaintext: bytes, info: bytes, ephemeral_secret: bytes) -> bytes:
    ephemeral = X25519PrivateKey.from_private_bytes(ephemeral_secret)
    enc = ephemeral.public_key().public_bytes_raw()
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(public))
    key, nonce = _schedule(_kem_secret(shared, enc + public), info)
    return enc + ChaCha20Poly1305(key).encrypt(nonce, plaintext, b"")


def hpke_open(secret: bytes, sealed: bytes, info: bytes) -> bytes:
    private = X25519PrivateKey.from_private_bytes(secret)
    enc = sealed[:32]
    shared = private.exchange(X25519PublicKey.from_public_bytes(enc))
    key, nonce = _schedule(_kem_secret(shared, enc + private.public_key().public_bytes_raw()), info)
    return ChaCha20Poly1305(key).decrypt(nonce, sealed[32:], b"")


def _kem_secret(shared: bytes, context: bytes) -> bytes:
    eae_prk = _extract(b"", _KEM_SUITE, b"eae_prk", shared)
    return _expand(eae_prk, _KEM_SUITE, b"shared_secret", context, 32)


def _schedule(shared: bytes, info: bytes) -> tuple[bytes, bytes]:
    psk_id_hash = _extract(b"", _HPKE_SUITE, b"psk_id_hash", b"")
    info_hash = _extract(b"", _HPKE_SUITE, b"info_hash", info)
    context = b"\x00" + psk_id_hash + info_hash
    secret = _extract(shared, _HPKE_SUITE, b"secret", b"")
    return (
        _expand(secret, _HPKE_SUITE, b"key", context, 32),
        _expand(secret, _HPKE_SUITE, b"base_nonce", context, 12),
    )


def _extract(salt: bytes, suite: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")


def _expand(prk: bytes, suite: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(prk, labelled + b"\x01", "sha256")[:length]
