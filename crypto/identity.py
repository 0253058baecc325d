"""Who a node is: an Ed25519 key, its public half as the node's id, signatures bound to one purpose each."""

from typing import NewType, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from crypto.entropy import Entropy
from crypto.errors import AuthenticationError, DecodeError

NodeId = NewType("NodeId", bytes)
"""A node's raw Ed25519 public key, 32 bytes."""

NODE_ID_BYTES = 32
SEED_BYTES = 32
SIGNATURE_BYTES = 64
MAX_CONTEXT_BYTES = 255

_SIGNATURE_DOMAIN = b"clovenet-signature/1"

# Ed25519 verifiers accept a public key of small order, for which signatures that fit *any* message are easy
# to make. No honest node has such a key. The y coordinates of the eight points, and p for the encodings above
# it:
_FIELD_PRIME = 2**255 - 19
_SMALL_ORDER_Y = frozenset(
    int.from_bytes(bytes.fromhex(y), "little")
    for y in (
        "00" * 32,
        "01" + "00" * 31,
        "ec" + "ff" * 30 + "7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    )
)


def decode_node_id(data: bytes) -> NodeId:
    """Reads a node id from outside. Raises DecodeError where no honest key has these bytes."""
    if len(data) != NODE_ID_BYTES:
        raise DecodeError(f"a node id has {NODE_ID_BYTES} bytes, not {len(data)}")
    y = int.from_bytes(data, "little") & (2**255 - 1)
    if y >= _FIELD_PRIME or y in _SMALL_ORDER_Y:
        raise DecodeError("a node id must be a canonical Ed25519 key of full order")
    return NodeId(bytes(data))


class IdentityKey:
    """A node's long-lived signing key."""

    __slots__ = ("_key", "node_id")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.node_id = NodeId(key.public_key().public_bytes_raw())

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """The key of a 32-byte seed. Raises DecodeError on another length."""
        if len(seed) != SEED_BYTES:
            raise DecodeError(f"an identity seed has {SEED_BYTES} bytes, not {len(seed)}")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def generate(cls, entropy: Entropy) -> Self:
        """A fresh key."""
        return cls.from_seed(entropy(SEED_BYTES))

    @property
    def seed(self) -> bytes:
        """The secret itself, for the key file and for the transport's handshake. Never log it."""
        return self._key.private_bytes_raw()

    def sign(self, context: bytes, message: bytes) -> bytes:
        """Signs `message` for the purpose that `context` names; 64 bytes. No other purpose will accept it."""
        return self._key.sign(_signed_bytes(context, message))

    def __repr__(self) -> str:
        return f"IdentityKey({self.node_id.hex()[:16]}…, secret not shown)"


def check_signature(node_id: NodeId, context: bytes, message: bytes, signature: bytes) -> None:
    """Raises AuthenticationError unless `node_id` signed `message` for the purpose `context`."""
    try:
        key = Ed25519PublicKey.from_public_bytes(decode_node_id(node_id))
        key.verify(signature, _signed_bytes(context, message))
    except (InvalidSignature, DecodeError, ValueError) as error:
        raise AuthenticationError("the signature does not hold") from error


def _signed_bytes(context: bytes, message: bytes) -> bytes:
    """Domain, context with its length, message: no two (context, message) pairs share an encoding."""
    if not 0 < len(context) <= MAX_CONTEXT_BYTES:
        raise ValueError(f"a signature's context has 1 to {MAX_CONTEXT_BYTES} bytes")
    return _SIGNATURE_DOMAIN + bytes([len(context)]) + context + message
