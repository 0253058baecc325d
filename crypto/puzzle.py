"""Proof of work for a loaded relay: a SHA-256 over relay, epoch and build key that starts with zero bits.

It is checked before any Diffie-Hellman, so that a flood of builds costs the sender more than the relay.
"""

from hashlib import sha256

from crypto.entropy import Entropy
from crypto.identity import NodeId

PUZZLE_NONCE_BYTES = 8
MAX_DIFFICULTY_BITS = 20
"""No relay may ask for more: about a million hashes, one second of a slow machine."""

_DOMAIN = b"clove-pow"
_NONCES = 1 << (8 * PUZZLE_NONCE_BYTES)


def solve_puzzle(
    node_id: NodeId, epoch: int, ephemeral: bytes, difficulty: int, *, entropy: Entropy
) -> bytes:
    """A nonce that `check_puzzle` accepts. Takes about 2**difficulty hashes; ValueError above the bound."""
    if not 0 <= difficulty <= MAX_DIFFICULTY_BITS:
        raise ValueError(f"a puzzle's difficulty is 0 to {MAX_DIFFICULTY_BITS} bits, not {difficulty}")
    start = int.from_bytes(entropy(PUZZLE_NONCE_BYTES), "big")
    nonce = start.to_bytes(PUZZLE_NONCE_BYTES, "big")
    while not check_puzzle(node_id, epoch, ephemeral, nonce, difficulty):
        start = (start + 1) % _NONCES
        nonce = start.to_bytes(PUZZLE_NONCE_BYTES, "big")
    return nonce


def check_puzzle(node_id: NodeId, epoch: int, ephemeral: bytes, nonce: bytes, difficulty: int) -> bool:
    """Whether the hash starts with `difficulty` zero bits."""
    digest = sha256(_DOMAIN + node_id + epoch.to_bytes(4, "big") + ephemeral + nonce).digest()
    return int.from_bytes(digest, "big") >> (256 - difficulty) == 0
