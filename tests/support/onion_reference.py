"""A second onion, written from docs/spec/onion.md and nothing else: slow, plain, and a check on the first.

Keys are plain bytes, key streams are recomputed from their start for every cell, HKDF is two lines of HMAC.
"""

import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR


@dataclass(frozen=True)
class ReferenceHop:
    """What one hop and the client share: names as in the specification."""

    k_rec: bytes
    k_fs: bytes
    k_bs: bytes
    kf: bytes
    kpad: bytes
    kb: bytes
    kconf: bytes
    ktok: bytes
    transcript: bytes


def agree(node_id: bytes, onion_secret: bytes, x_public: bytes, y_secret: bytes) -> ReferenceHop:
    """The relay's side of both key agreements."""
    static, fresh = map(X25519PrivateKey.from_private_bytes, (onion_secret, y_secret))
    client = X25519PublicKey.from_public_bytes(x_public)
    ss1, ss2 = static.exchange(client), fresh.exchange(client)
    record = node_id + static.public_key().public_bytes_raw() + x_public
    transcript = record + fresh.public_key().public_bytes_raw()
    keys = hkdf(b"clove-onion/1|build", ss1, record, 96) + hkdf(
        b"clove-onion/1|data", ss1 + ss2, transcript, 160
    )
    return ReferenceHop(*(keys[at : at + 32] for at in range(0, 256, 32)), transcript)


def answer_build(body: bytes, node_id: bytes, hop: ReferenceHop, tail: bytes) -> tuple[bytes, bytes]:
    """The record's plaintext, and the body that goes on (BUILT not yet hidden)."""
    slots = [body[at : at + 128] for at in range(0, 640, 128)]
    mine = next(number for number, slot in enumerate(slots) if slot[:16] == node_id[:16])
    plaintext = ChaCha20Poly1305(hop.k_rec).decrypt(bytes(12), slots[mine][56:], hop.transcript[:96])
    granted = b"\0" + plaintext[37:41] + bytes(75)
    slots[mine] = hop.transcript[96:] + ChaCha20Poly1305(hop.kconf).encrypt(
        bytes(12), granted, hop.transcript
    )
    return plaintext, xor(b"".join(slots), stream(hop.k_fs, 0, 640)) + tail


def peel_outbound(body: bytes, hop: ReferenceHop, number: int) -> bytes:
    """Cell `number` of the circuit, counted from 0: its layer off and the padding on."""
    opened = ChaCha20Poly1305(hop.kf).decrypt(number.to_bytes(12, "big"), body[16:] + body[:16], None)
    return opened + stream(hop.kpad, 16 * number, 16)


def seal_inbound(content: bytes, hop: ReferenceHop, number: int) -> bytes:
    sealed = ChaCha20Poly1305(hop.kb).encrypt(number.to_bytes(12, "big"), content, None)
    return sealed[1000:] + sealed[:1000]


def wrap_inbound(body: bytes, hop: ReferenceHop, number: int) -> bytes:
    return xor(body, stream(hop.kb, 1016 * number, 1016))


def hide_built(body: bytes, hop: ReferenceHop) -> bytes:
    return xor(body, stream(hop.k_bs, 0, 1016))


def reply_token(hop: ReferenceHop, message_id: bytes) -> bytes:
    return hmac.digest(hop.ktok, b"clove-onion/1|reply" + message_id, "sha256")[:16]


def stream(key: bytes, start: int, length: int) -> bytes:
    return Cipher(AES256(key), CTR(bytes(16))).encryptor().update(bytes(start + length))[start:]


def hkdf(salt: bytes, secret: bytes, info: bytes, length: int) -> bytes:
    prk = hmac.digest(salt, secret, "sha256")
    block, okm = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(prk, block + info + bytes([counter]), "sha256")
        okm += block
    return okm[:length]


def xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
