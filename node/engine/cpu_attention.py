"""Attention of the rows that decode, all of a step in one call, compiled by numba for the machine at hand."""

import numpy as np
from numba import prange

from node.engine.compiled import AHEAD, Floats, Integers, compiled, prefetch
from node.engine.cpu_kernels import compile_kernels, exponentials


@compiled(parallel=False)
def _score(
    query: Floats, keys: Floats, scaling: float, runs: Integers, scores: Floats, ahead: int
) -> np.float32:
    """The scores of the runs' slots, one after another; returns the highest. Four keys at once share the query.

    ahead: how many values ahead the keys are asked for, or 0: they are near already.
    """
    at = 0
    highest = np.float32(-np.inf)
    width = len(query)
    flat = keys.reshape(-1)
    for run in range(len(runs)):
        slot, end = runs[run]
        while slot < end:
            if slot + 4 <= end:
                if ahead:
                    for line in range(0, 4 * width, 16):
                        prefetch(flat, slot * width + line + ahead)
                k0, k1, k2, k3 = keys[slot], keys[slot + 1], keys[slot + 2], keys[slot + 3]
                s0 = s1 = s2 = s3 = np.float32(0)
                for i in range(len(query)):
                    s0 += query[i] * k0[i]
                    s1 += query[i] * k1[i]
                    s2 += query[i] * k2[i]
                    s3 += query[i] * k3[i]
                scores[at], scores[at + 1], scores[at + 2], scores[at + 3] = s0, s1, s2, s3
                slot += 4
                at += 4
            else:
                s0 = np.float32(0)
                for i in range(len(query)):
                    s0 += query[i] * keys[slot, i]
                scores[at] = s0
                slot += 1
                at += 1
    for i in range(at):
        scores[i] *= np.float32(scaling)
        highest = max(highest, scores[i])
    return highest


@compiled(parallel=False)
def _mix(
    weights: Floats, factor: np.float32, values: Floats, runs: Integers, result: Floats, ahead: int
) -> None:
    """Write the sum of the runs' values to result, each times its weight and the factor. Four at once share the sum.

    ahead: as for `_score`.
    """
    result[:] = np.float32(0)
    at = 0
    width = len(result)
    flat = values.reshape(-1)
    for run in range(len(runs)):
        slot, end = runs[run]
        while slot < end:
            if slot + 4 <= end:
                if ahead:
                    for line in range(0, 4 * width, 16):
                        prefetch(flat, slot * width + line + ahead)
                w0, w1, w2, w3 = weights[at], weights[at + 1], weights[at + 2], weights[at + 3]
                v0, v1, v2, v3 = values[slot], values[slot + 1], values[slot + 2], values[slot + 3]
                for i in range(len(result)):
                    result[i] += (w0 * v0[i] + w1 * v1[i]) + (w2 * v2[i] + w3 * v3[i])
                slot += 4
                at += 4
            else:
                for i in range(len(result)):
                    result[i] += weights[at] * values[slot, i]
                slot += 1
                at += 1
    for i in range(len(result)):
        result[i] *= factor


@compiled(parallel=True)
def attend_single(
    qkv: Floats,
    keys: Floats,
    values: Floats,
    scaling: float,
    rows: Integers,
    first_run: Integers,
    runs: Integers,
    out: Floats,
) -> None:
    """Softmax attention of single rows, each over its own runs of the pool.

    qkv: [step's rows, heads + 2 * kv heads, dim], turned; keys, values: [kv heads, slots, dim]; rows: which of the
    step's rows attend; first_run: [rows + 1], where each one's runs begin in runs [count, 2] of first and end slots;
    out: [step's rows, heads * dim].
    """
    kv_heads, _, dim = keys.shape
    group = (qkv.shape[1] - 2 * kv_heads) // kv_heads
    count = rows.shape[0]
    # Head by head: rows that begin with the same blocks find them in the core's own cache.
    for task in prange(kv_heads * count):
        head, each = task // count, task % count
        row = rows[each]
        length = 0
        for run in range(first_run[each], first_run[each + 1]):
            length += runs[run, 1] - runs[run, 0]
        scores = np.empty(length, np.float32)
        for member in range(group):
            query = qkv[row, head * group + member]
            ahead = AHEAD // 4 if member == 0 else 0
            highest = _score(
                query, keys[head], scaling, runs[first_run[each] : first_run[each + 1]], scores, ahead
            )
            factor = np.float32(1) / exponentials(scores, length, highest)
            start = (head * group + member) * dim
            result = out[row, start : start + dim]
            _mix(scores, factor, values[head], runs[first_run[each] : first_run[each + 1]], result, ahead)


def compile_all() -> None:
    """Compile what no earlier start has left compiled, some seconds of work, so that no request waits for it."""
    compile_kernels()
    ones, pool = np.ones((1, 3, 2), np.float32), np.ones((1, 1, 2), np.float32)
    runs = (np.array([0]), np.array([0, 1]), np.array([[0, 1]]))
    attend_single(ones, pool, pool, 1.0, *runs, np.empty((1, 2), np.float32))
