"""The per-token sampling noise, which client, model node and auditor all derive alike.

A client picks a nonce; the noise of token v at answer position t is a function of (nonce, prompt, t, v) and nothing
else. Sampling at temperature T is then argmax(logits + T * noise): exactly softmax sampling (the Gumbel-max trick),
and whoever has the weights can replay it. Keyed by token id, not by rank, so that a tiny difference in logits
reorders nothing. Byte layout and vectors: docs/spec/sampling.md.
"""

import math
import struct
from collections.abc import Sequence
from hashlib import blake2b

NONCE_BYTES = 32
SEED_BYTES = 32
PROMPT_HASH_BYTES = 32

_PROMPT_LABEL = b"clove-prompt/1"
_SEED_LABEL = b"clove-seed/1"
_GUMBEL_LABEL = b"clove-gumbel/1"

# Logarithms may differ between C libraries in their last bit; rounded to this grid they practically never do.
_GRID = float(1 << 24)


def prompt_hash(token_ids: Sequence[int]) -> bytes:
    """Hash of a prompt's token ids: 32 bytes of BLAKE2b over each id as u32 little-endian."""
    packed = struct.pack(f"<{len(token_ids)}I", *token_ids)
    return blake2b(packed, digest_size=PROMPT_HASH_BYTES, person=_PROMPT_LABEL).digest()


def token_seed(nonce: bytes, hashed_prompt: bytes, position: int) -> bytes:
    """The seed of one answer position, 32 bytes.

    Args:
        nonce: 32 bytes, chosen by the client.
        hashed_prompt: `prompt_hash` of the original prompt, also when the answer goes on at another node.
        position: index in the whole answer, from 0.

    Raises:
        ValueError: nonce or hash is not 32 bytes, or the position is out of u32's range.
    """
    if len(nonce) != NONCE_BYTES or len(hashed_prompt) != PROMPT_HASH_BYTES:
        raise ValueError("nonce and prompt hash are 32 bytes each")
    if not 0 <= position < 1 << 32:
        raise ValueError(f"position {position} is not a u32")
    material = nonce + hashed_prompt + position.to_bytes(4, "little")
    return blake2b(material, digest_size=SEED_BYTES, person=_SEED_LABEL).digest()


def gumbel_noise(seed: bytes, token_ids: Sequence[int]) -> list[float]:
    """Standard Gumbel noise of these tokens under one position's seed, in the order given."""
    return [_gumbel(seed, token_id) for token_id in token_ids]


def _gumbel(seed: bytes, token_id: int) -> float:
    digest = blake2b(seed + token_id.to_bytes(4, "little"), digest_size=8, person=_GUMBEL_LABEL).digest()
    # 52 bits and a half: strictly between 0 and 1, and exact in a double, so both logarithms are finite.
    uniform = ((int.from_bytes(digest, "little") >> 12) + 0.5) * 2.0**-52
    return round(-math.log(-math.log(uniform)) * _GRID) / _GRID
