"""Attention over a pool of keys and values that all sequences share.

A step's tokens lie one after another in a single row, so every linear layer is one matrix product over exactly the
tokens there are; no padding, and a sequence's result does not depend on the lengths of its neighbours.

What a token attends to lies in a few runs of the pool (`block_manager`). Each run is one call over a view, nothing is
copied, and the parts are put together by their log-sum-exps, which gives exactly the softmax over all of them (as in
FlashAttention, arXiv 2205.14135, and in cascade inference). A prompt's chunk attends to what was before it without a
mask and to itself causally. Answers that share a prefix attend to it in one call together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import Any

import numpy as np
import torch

from node.engine.block_manager import BLOCK_TOKENS
from node.engine.sequence import Chunk

PAGED_ATTENTION = "clove_paged"

Attended = tuple[torch.Tensor, torch.Tensor]
"""Output [heads, rows, dim], and the log-sum-exp of its scores [heads, rows]."""


class KVPool:
    """Keys and values of every layer, [kv heads, slots, dim] each."""

    def __init__(
        self, layers: int, heads: int, slots: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        # On a CPU, pages that are never written cost nothing, so the whole pool can be taken at once.
        shape = (layers, heads, slots, head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)


@dataclass(frozen=True, slots=True)
class Past:
    """These rows see all of a run of the pool. rows: a slice, or the indices of rows of several sequences."""

    rows: slice | torch.Tensor
    first_slot: int
    end_slot: int

    def attend(self, step: "LayerStep") -> Attended:
        """One run, no mask: heads that share keys can be rows of one query, and no key is read twice."""
        query = step.query[:, self.rows]
        keys, values = (part[:, self.first_slot : self.end_slot][None] for part in (step.keys, step.values))
        heads, count, dim = query.shape
        output, total = attend(query.reshape(1, keys.shape[1], -1, dim), keys, values, step.scaling)
        return output.reshape(heads, count, dim), total.reshape(heads, count)


@dataclass(frozen=True, slots=True)
class Itself:
    """The rows of a chunk see each other, each those before it and itself."""

    rows: slice

    def attend(self, step: "LayerStep") -> Attended:
        """The chunk's own keys, causally. Heads that share keys read them through a stride of 0."""
        query, key, value = (part[:, self.rows] for part in (step.query, step.key, step.value))
        heads, count, dim = query.shape
        grouped = query.reshape(key.shape[0], -1, count, dim)
        output, total = attend(
            grouped, _shared(key, grouped), _shared(value, grouped), step.scaling, is_causal=True
        )
        return output.reshape(heads, count, dim), total.reshape(heads, count)


@dataclass(frozen=True, slots=True)
class Window:
    """Rows of a chunk each see so many positions up to their own: the runs are put together, under a mask."""

    rows: slice
    runs: tuple[tuple[int, int], ...]
    mask: torch.Tensor  # to be added to the scores

    def attend(self, step: "LayerStep") -> Attended:
        """Masked, over a copy: windows are short."""
        query = step.query[:, self.rows]
        keys, values = (
            torch.cat([part[:, first:end] for first, end in self.runs], dim=1)
            for part in (step.keys, step.values)
        )
        heads, count, dim = query.shape
        grouped = query.reshape(keys.shape[0], -1, count, dim)
        output, total = attend(
            grouped, _shared(keys, grouped), _shared(values, grouped), step.scaling, mask=self.mask
        )
        return output.reshape(heads, count, dim), total.reshape(heads, count)


def _shared(part: torch.Tensor, grouped: torch.Tensor) -> torch.Tensor:
    """Keys or values [kv heads, tokens, dim] for each query head of a group, through a stride of 0."""
    return part[:, None].expand(-1, grouped.shape[1], -1, -1)


Part = Past | Itself | Window


@dataclass(frozen=True, slots=True)
class Placed:
    """A part, and whether others come before or after it for the same rows."""

    part: Part
    is_first: bool
    is_last: bool


@dataclass(frozen=True, slots=True)
class LayerStep:
    """One layer of one step: fresh query, key, value [heads, rows, dim], and that layer's part of the pool."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    scaling: float


Integers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class SingleRows:
    """Rows that each attend to runs of their own, for `cpu_kernels.attend`.

    rows: which of the step's; first_run: [rows + 1], where each one's begin in runs, [count, 2]: first and end slots.
    """

    rows: Integers
    first_run: Integers
    runs: Integers


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """What every layer of a step does, worked out once.

    slots: where each row's key and value go. parts: for layers that see everything. windowed: for those that don't.
    single and single_windowed: rows of answers that a kernel takes all at once, and that are in none of the parts.
    """

    pool: KVPool
    slots: torch.Tensor
    parts: tuple[Placed, ...]
    windowed: tuple[Placed, ...]
    single: SingleRows | None = None
    single_windowed: SingleRows | None = None


def plan_attention(
    pool: KVPool,
    chunks: Sequence[Chunk],
    window: int | None,
    device: torch.device,
    *,
    has_kernel: bool,
) -> AttentionPlan:
    """The plan of a step. window: of the model's windowed layers, if it has such. has_kernel: for single rows."""
    slots = [
        chunk.sequence.table.slot(position)
        for chunk in chunks
        for position in range(chunk.start, chunk.start + chunk.count)
    ]
    placed, first = [], 0
    for chunk in chunks:
        placed.append((chunk, slice(first, first + chunk.count)))
        first += chunk.count
    single = [each for each in placed if has_kernel and each[0].count == 1]
    placed = [each for each in placed if each not in single]
    windowed = () if window is None else _windowed_parts(placed, window, pool)
    return AttentionPlan(
        pool=pool,
        slots=torch.tensor(slots, device=device),
        parts=tuple(_full_parts(placed, device)),
        windowed=tuple(windowed),
        single=_single_rows(single, None),
        single_windowed=_single_rows(single, window) if window is not None else None,
    )


_Rows = tuple[Chunk, slice]
"""A chunk, and which rows of the step are its."""


def _single_rows(placed: Sequence[_Rows], window: int | None) -> SingleRows | None:
    if not placed:
        return None
    first_run, runs = [0], []
    for chunk, _ in placed:
        end = chunk.start + 1
        runs += chunk.sequence.table.runs(end, 0 if window is None else max(0, end - window))
        first_run.append(len(runs))
    rows = [rows.start for _, rows in placed]
    return SingleRows(np.array(rows), np.array(first_run), np.array(runs))


def _full_parts(placed: Sequence[_Rows], device: torch.device) -> list[Placed]:
    parts: list[Placed] = []
    single = sorted((each for each in placed if each[0].count == 1), key=_first_block)
    for _, group in groupby(single, key=_first_block):
        parts += _shared_parts(list(group), device)
    for chunk, rows in placed:
        if chunk.count > 1:
            past = [Past(rows, *run) for run in chunk.sequence.table.runs(chunk.start)]
            parts += _in_order([*past, Itself(rows)])
    return parts


def _first_block(placed: _Rows) -> int:
    return placed[0].sequence.table.blocks[0]


def _shared_parts(group: Sequence[_Rows], device: torch.device) -> list[Placed]:
    """Single tokens of sequences that begin with the same block: what they have in common once, then the rest.

    Each has a rest: the block that its newest token goes to is its own.
    """
    tables = [chunk.sequence.table for chunk, _ in group]
    common = 0
    if len(group) > 1:
        alike = takewhile(
            lambda row: len(set(row)) == 1, zip(*(table.blocks for table in tables), strict=False)
        )
        common = sum(1 for _ in alike) * BLOCK_TOKENS
    parts: list[Placed] = []
    if common:
        rows = torch.tensor([rows.start for _, rows in group], device=device)
        parts += _in_order([Past(rows, *run) for run in tables[0].runs(common)], ends=False)
    for chunk, own in group:
        rest = [Past(own, *run) for run in chunk.sequence.table.runs(chunk.start + 1, common)]
        parts += _in_order(rest, begins=not common)
    return parts


def _windowed_parts(placed: Sequence[_Rows], window: int, pool: KVPool) -> list[Placed]:
    parts: list[Placed] = []
    for chunk, rows in placed:
        table, end = chunk.sequence.table, chunk.start + chunk.count
        begin = max(0, chunk.start + 1 - window)
        if chunk.count == 1:
            parts += _in_order([Past(rows, *run) for run in table.runs(end, begin)])
        elif end <= window:
            parts += _in_order([*(Past(rows, *run) for run in table.runs(chunk.start)), Itself(rows)])
        else:
            mask = _window_mask(chunk, begin, window, pool)
            parts += _in_order([Window(rows, tuple(table.runs(end, begin)), mask)])
    return parts


def _in_order(parts: Sequence[Part], *, begins: bool = True, ends: bool = True) -> list[Placed]:
    last = len(parts) - 1
    return [Placed(part, begins and index == 0, ends and index == last) for index, part in enumerate(parts)]


def _window_mask(chunk: Chunk, begin: int, window: int, pool: KVPool) -> torch.Tensor:
    """0 where a row of the chunk may see a position from `begin` on, else minus infinity."""
    device = pool.keys.device
    queries = torch.arange(chunk.start, chunk.start + chunk.count, device=device)[:, None]
    positions = torch.arange(begin, chunk.start + chunk.count, device=device)[None, :]
    seen = (positions <= queries) & (positions > queries - window)
    return torch.zeros(seen.shape, dtype=pool.keys.dtype, device=device).masked_fill(~seen, -math.inf)


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    plan: AttentionPlan,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Transformers' attention interface: query [1, heads, tokens, dim] to [1, tokens, heads, dim]."""
    keys, values = plan.pool.keys[module.layer_idx], plan.pool.values[module.layer_idx]
    keys.index_copy_(1, plan.slots, key[0])
    values.index_copy_(1, plan.slots, value[0])
    step = LayerStep(query[0], key[0], value[0], keys, values, scaling)
    parts = plan.parts if sliding_window is None else plan.windowed
    output = combine(step, parts)
    return output.transpose(0, 1)[None], None


def combine(step: LayerStep, parts: Sequence[Placed]) -> torch.Tensor:
    """All parts of all rows, put together: [heads, rows, dim]."""
    if len(parts) == 1 and _is_all(parts[0].part.rows, step):
        return parts[0].part.attend(step)[0]
    output = torch.empty_like(step.query)
    total = torch.empty(output.shape[:2], dtype=torch.float32, device=output.device)
    for placed in parts:
        rows = placed.part.rows
        found, weight = placed.part.attend(step)
        if not placed.is_first:
            before = total[:, rows]
            after = torch.logaddexp(before, weight)
            kept, added = torch.exp(before - after)[..., None], torch.exp(weight - after)[..., None]
            found, weight = output[:, rows] * kept + found * added, after
        output[:, rows] = found
        if not placed.is_last:
            total[:, rows] = weight
    return output


def _is_all(rows: slice | torch.Tensor, step: LayerStep) -> bool:
    return isinstance(rows, slice) and rows == slice(0, step.query.shape[1])


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float,
    *,
    is_causal: bool = False,
    mask: torch.Tensor | None = None,
) -> Attended:
    """Softmax attention of [batch, heads, rows, dim], and the log-sum-exp of the scores [batch, heads, rows]."""
    if query.device.type == "cpu":
        # The public function does not give the log-sum-exp.
        found: Attended = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(  # noqa: SLF001
            query,
            keys,
            values,
            is_causal=is_causal,
            attn_mask=None if mask is None else mask[None, None],
            scale=scaling,
        )
        return found
    scores = (query @ keys.transpose(-1, -2)).float() * scaling
    if is_causal:
        mask = torch.full(scores.shape[-2:], -math.inf, device=scores.device).triu(1)
    if mask is not None:
        scores = scores + mask
    total = scores.logsumexp(dim=-1)
    return torch.exp(scores - total[..., None]).to(values.dtype) @ values, total
