"""One step's attention on a CPU: all rows that decode in one call of a kernel, chunks of prompts part by part."""

import torch

from node.engine import cpu_kernels as kernels
from node.engine.attention import AttentionPlan, LayerStep, combine


def attend_rows(
    qkv: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float,
    plan: AttentionPlan,
    window: int | None,
) -> torch.Tensor:
    """Softmax attention of one layer, [rows, heads * dim].

    qkv: [rows, heads + 2 * kv heads, dim], turned; keys, values: that layer's part of the pool, the rows' own included.
    """
    rows, columns, dim = qkv.shape
    kv_heads = len(keys)
    heads = columns - 2 * kv_heads
    out = torch.empty(rows, heads * dim)
    parts, single = (plan.parts, plan.single) if window is None else (plan.windowed, plan.single_windowed)
    if parts:
        by_head = qkv.transpose(0, 1)
        query, key, value = by_head.split([heads, kv_heads, kv_heads])
        found = combine(LayerStep(query, key, value, keys, values, scaling), parts)
        out.view(rows, heads, dim).copy_(found.transpose(0, 1))
    if single is not None:
        kernels.attend(
            *(qkv.numpy(), keys.numpy(), values.numpy(), scaling),
            *(single.rows, single.first_run, single.runs, out.numpy()),
        )
    return out
