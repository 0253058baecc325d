"""Attention over ragged batches: each sequence attends to its own keys and values, of its own length.

A step's tokens lie one after another in a single row, so every linear layer is one matrix product over exactly the
tokens there are; no padding, and a sequence's result does not depend on the lengths of its neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody knows it by

RAGGED_ATTENTION = "clove_ragged"


class KVCache:
    """Keys and values of one sequence in every layer, for a fixed number of positions."""

    def __init__(
        self, layers: int, heads: int, capacity: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        # Untouched pages cost nothing on a CPU, so the whole capacity can be taken at once.
        shape = (layers, 2, heads, capacity, head_dim)
        self.blocks = torch.empty(shape, dtype=dtype, device=device)

    def extend(
        self, layer: int, start: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's new keys and values from position `start` on; all that it has now, as views."""
        end = start + keys.shape[1]
        block = self.blocks[layer]
        block[0, :, start:end] = keys
        block[1, :, start:end] = values
        return block[0, :, :end], block[1, :, :end]


@dataclass(frozen=True, slots=True)
class RaggedSpan:
    """Tokens of one sequence within a step: count of them, from position start of that sequence."""

    cache: KVCache
    start: int
    count: int


def ragged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    spans: Sequence[RaggedSpan],
    sliding_window: int | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Transformers' attention interface: query [1, heads, tokens, dim] to [1, tokens, heads, dim]."""
    layer = module.layer_idx
    parts, first = [], 0
    for span in spans:
        rows = slice(first, first + span.count)
        keys, values = span.cache.extend(layer, span.start, key[0, :, rows], value[0, :, rows])
        attend = _attend_one if span.count == 1 else _attend_many
        parts.append(attend(query[:, :, rows], keys[None], values[None], scaling, sliding_window))
        first = rows.stop
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _attend_one(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float, window: int | None
) -> torch.Tensor:
    """One new token sees everything before it, so the heads that share keys can be its rows: no copies, no mask."""
    if window is not None:
        keys, values = keys[:, :, -window:], values[:, :, -window:]
    grouped = query.reshape(1, keys.shape[1], -1, query.shape[3])
    attended = F.scaled_dot_product_attention(grouped, keys, values, scale=scaling)
    return attended.reshape(query.shape)


def _attend_many(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float, window: int | None
) -> torch.Tensor:
    group = query.shape[1] // keys.shape[1]
    count, total = query.shape[2], keys.shape[2]
    keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
    mask = _causal_mask(count, total, window, query.device)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scaling)


def _causal_mask(count: int, total: int, window: int | None, device: torch.device) -> torch.Tensor:
    """True where a query, the last `count` of `total` positions, may see a key."""
    queries = torch.arange(total - count, total, device=device)[:, None]
    positions = torch.arange(total, device=device)[None, :]
    mask = positions <= queries
    return mask if window is None else mask & (positions > queries - window)
