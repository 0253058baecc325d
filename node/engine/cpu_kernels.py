"""The loops of a decoder layer that PyTorch has no fast call for on a CPU, compiled by numba for the machine at hand.

A step that decodes has one row for each answer. With so few rows PyTorch's matrix products reach a fraction of what
the memory gives, int8 weights have no fast product at all, and paged attention takes one call for each answer. Here
every weight is read once for all rows, and all answers attend in one call.

Arrays are C-contiguous; `rows` are tokens. Sums are taken in an order that the compiler picks for the machine's
vectors: results agree with PyTorch's within fp32 rounding.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import binding
from numba import njit, prange
from platformdirs import user_cache_path

Floats = np.ndarray[Any, np.dtype[np.float32]]
Integers = np.ndarray[Any, np.dtype[np.int64]]
Weights = np.ndarray[Any, np.dtype[np.int8]] | Floats
_Kernel = TypeVar("_Kernel", bound=Callable[..., object])

FEW_ROWS = 32
"""With more, what is done row by row is worth the other threads."""

_CACHE_FOLDER = Path(os.environ.get("NUMBA_CACHE_DIR") or user_cache_path("clovenet"))
# No "nnan" or "ninf": a model that overflows shall show it.
_FASTMATH = {"reassoc", "contract", "nsz", "arcp"}
_LOG2_E = np.float32(1.4426950408889634)
_LN_2 = np.float32(0.6931471805599453)
_LOWEST_EXPONENT = np.float32(-87.0)


def _prepare(settings: Any) -> bool:  # noqa: ANN401 - numba's own settings have no type
    """Tell numba about vectors, threads and files. Returns whether compiled code can be kept for the next start."""
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        # LLVM takes half vectors by default, for processors that clock down; whole ones make products twice as fast.
        settings.CPU_NAME = binding.get_host_cpu_name()
        settings.CPU_FEATURES = features.flatten() + ",-prefer-256-bit"
    # OpenMP's threads are PyTorch's own: a second pool would wait for the cores while the first one spins.
    settings.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]
    try:
        _CACHE_FOLDER.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    settings.CACHE_DIR = str(_CACHE_FOLDER)
    return os.access(_CACHE_FOLDER, os.W_OK)


_CAN_CACHE = _prepare(numba.config)


def use_threads(count: int) -> None:
    """Run what is parallel on so many threads, as far as the process may use them."""
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))


def _compiled(*, parallel: bool) -> Callable[[_Kernel], _Kernel]:
    return cast(
        "Callable[[_Kernel], _Kernel]",
        njit(parallel=parallel, fastmath=_FASTMATH, cache=_CAN_CACHE, nogil=True),
    )


def _both(function: _Kernel) -> tuple[_Kernel, _Kernel]:
    """Compiled for a few rows, on this thread alone, and for many, on all: starting the others takes microseconds."""
    return _compiled(parallel=False)(function), _compiled(parallel=True)(function)


# Written out row by row: sums in an array would live in memory, and be read and written at every product.
@_compiled(parallel=False)
def _multiply_eight(
    x: Floats, row: int, weights: Weights, scales: Floats, n: int, out: Floats, at: int
) -> None:
    """Eight rows of x by two of the weights: what is read is used 8 and 2 times, and all sums stay in registers."""
    w, z = weights[n], weights[n + 1]
    x0 = x[row]
    x1 = x[row + 1]
    x2 = x[row + 2]
    x3 = x[row + 3]
    x4 = x[row + 4]
    x5 = x[row + 5]
    x6 = x[row + 6]
    x7 = x[row + 7]
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = np.float32(0)
    t0 = t1 = t2 = t3 = t4 = t5 = t6 = t7 = np.float32(0)
    for k in range(len(w)):
        v, u = np.float32(w[k]), np.float32(z[k])
        s0 += v * x0[k]
        t0 += u * x0[k]
        s1 += v * x1[k]
        t1 += u * x1[k]
        s2 += v * x2[k]
        t2 += u * x2[k]
        s3 += v * x3[k]
        t3 += u * x3[k]
        s4 += v * x4[k]
        t4 += u * x4[k]
        s5 += v * x5[k]
        t5 += u * x5[k]
        s6 += v * x6[k]
        t6 += u * x6[k]
        s7 += v * x7[k]
        t7 += u * x7[k]
    out[row, at], out[row, at + 1] = s0 * scales[n], t0 * scales[n + 1]
    out[row + 1, at], out[row + 1, at + 1] = s1 * scales[n], t1 * scales[n + 1]
    out[row + 2, at], out[row + 2, at + 1] = s2 * scales[n], t2 * scales[n + 1]
    out[row + 3, at], out[row + 3, at + 1] = s3 * scales[n], t3 * scales[n + 1]
    out[row + 4, at], out[row + 4, at + 1] = s4 * scales[n], t4 * scales[n + 1]
    out[row + 5, at], out[row + 5, at + 1] = s5 * scales[n], t5 * scales[n + 1]
    out[row + 6, at], out[row + 6, at + 1] = s6 * scales[n], t6 * scales[n + 1]
    out[row + 7, at], out[row + 7, at + 1] = s7 * scales[n], t7 * scales[n + 1]


@_compiled(parallel=False)
def _multiply_four(
    x: Floats, row: int, weights: Weights, scales: Floats, n: int, out: Floats, at: int
) -> None:
    """Four rows of x by two of the weights: what is read is used 4 and 2 times, and all sums stay in registers."""
    w, z = weights[n], weights[n + 1]
    x0 = x[row]
    x1 = x[row + 1]
    x2 = x[row + 2]
    x3 = x[row + 3]
    s0 = s1 = s2 = s3 = np.float32(0)
    t0 = t1 = t2 = t3 = np.float32(0)
    for k in range(len(w)):
        v, u = np.float32(w[k]), np.float32(z[k])
        s0 += v * x0[k]
        t0 += u * x0[k]
        s1 += v * x1[k]
        t1 += u * x1[k]
        s2 += v * x2[k]
        t2 += u * x2[k]
        s3 += v * x3[k]
        t3 += u * x3[k]
    out[row, at], out[row, at + 1] = s0 * scales[n], t0 * scales[n + 1]
    out[row + 1, at], out[row + 1, at + 1] = s1 * scales[n], t1 * scales[n + 1]
    out[row + 2, at], out[row + 2, at + 1] = s2 * scales[n], t2 * scales[n + 1]
    out[row + 3, at], out[row + 3, at + 1] = s3 * scales[n], t3 * scales[n + 1]


@_compiled(parallel=False)
def _multiply_one(
    x: Floats, row: int, weights: Weights, scales: Floats, n: int, out: Floats, at: int
) -> None:
    w, x0 = weights[n], x[row]
    s0 = np.float32(0)
    for k in range(len(w)):
        s0 += np.float32(w[k]) * x0[k]
    out[row, at] = s0 * scales[n]


@_compiled(parallel=True)
def multiply(x: Floats, weights: Weights, scales: Floats, out: Floats, column: int) -> None:
    """Write x @ (weights * scales[:, None]).T to out[:, column:].

    x: [rows, k]; weights: [n, k], int8 or fp32; scales: [n]; out: [rows, at least column + n].
    """
    rows, count = len(x), len(weights)
    for pair in prange((count + 1) // 2):
        n = 2 * pair
        row = 0
        if n + 1 < count:
            while row + 8 <= rows:
                _multiply_eight(x, row, weights, scales, n, out, column + n)
                row += 8
            if row + 4 <= rows:
                _multiply_four(x, row, weights, scales, n, out, column + n)
                row += 4
        for each in range(n, min(n + 2, count)):
            for left in range(row, rows):
                _multiply_one(x, left, weights, scales, each, out, column + each)


@_compiled(parallel=True)
def dequantise(weights: Weights, scales: Floats, out: Floats) -> None:
    """Write weights * scales[:, None] to out, [n, k]."""
    for n in prange(weights.shape[0]):
        for i in range(weights.shape[1]):
            out[n, i] = np.float32(weights[n, i]) * scales[n]


def _normalise(x: Floats, weight: Floats, epsilon: float, out: Floats) -> None:
    rows, width = x.shape
    for row in prange(rows):
        squares = np.float32(0)
        for i in range(width):
            squares += x[row, i] * x[row, i]
        factor = np.float32(1) / np.sqrt(squares / np.float32(width) + np.float32(epsilon))
        for i in range(width):
            out[row, i] = x[row, i] * factor * weight[i]


def _normalise_heads(qkv: Floats, weights: Floats, epsilon: float) -> None:
    rows, _, dim = qkv.shape
    for row in prange(rows):
        for head in range(weights.shape[0]):
            squares = np.float32(0)
            for i in range(dim):
                squares += qkv[row, head, i] * qkv[row, head, i]
            factor = np.float32(1) / np.sqrt(squares / np.float32(dim) + np.float32(epsilon))
            for i in range(dim):
                qkv[row, head, i] *= factor * weights[head, i]


def _rotate_and_store(
    qkv: Floats,
    cosine: Floats,
    sine: Floats,
    slots: Integers,
    keys: Floats,
    values: Floats,
) -> None:
    rows, columns, dim = qkv.shape
    kv_heads, half = keys.shape[0], dim // 2
    turned = columns - kv_heads
    for row in prange(rows):
        for head in range(turned):
            for i in range(half):
                a, b = qkv[row, head, i], qkv[row, head, half + i]
                qkv[row, head, i] = a * cosine[row, i] - b * sine[row, i]
                qkv[row, head, half + i] = b * cosine[row, half + i] + a * sine[row, half + i]
        slot = slots[row]
        for head in range(kv_heads):
            for i in range(dim):
                keys[head, slot, i] = qkv[row, turned - kv_heads + head, i]
                values[head, slot, i] = qkv[row, turned + head, i]


_NORMALISE = _both(_normalise)
_NORMALISE_HEADS = _both(_normalise_heads)
_ROTATE_AND_STORE = _both(_rotate_and_store)


def normalise(x: Floats, weight: Floats, epsilon: float, out: Floats) -> None:
    """Write x / rms(x) * weight to out, row by row, [rows, width]; x and out may be the same."""
    _NORMALISE[len(x) > FEW_ROWS](x, weight, epsilon, out)


def normalise_heads(qkv: Floats, weights: Floats, epsilon: float) -> None:
    """The same for each head by itself, in place. qkv: [rows, columns, dim]; weights: [columns that are meant, dim]."""
    _NORMALISE_HEADS[len(qkv) > FEW_ROWS](qkv, weights, epsilon)


def rotate_and_store(
    qkv: Floats, turn: tuple[Floats, Floats], slots: Integers, keys: Floats, values: Floats
) -> None:
    """Rotary positions for queries and keys, in place; keys and values go to their slots of the pool too.

    qkv: [rows, heads + 2 * kv heads, dim]; turn: cosines and sines, [rows, dim]; slots: [rows];
    keys, values: [kv heads, slots, dim].
    """
    _ROTATE_AND_STORE[len(qkv) > FEW_ROWS](qkv, *turn, slots, keys, values)


@_compiled(parallel=False)
def _exponentials(scores: Floats, count: int, highest: np.float32) -> np.float32:
    """scores[:count] = exp(scores - highest), all at most 1; returns their sum.

    2 to the whole part is put together from bits, the rest is a polynomial of relative error 2e-8: vectors have no
    exponential of their own.
    """
    bits = scores.view(np.int32)
    for i in range(count):
        x = max(scores[i] - highest, _LOWEST_EXPONENT)
        whole = np.floor(x * _LOG2_E + np.float32(0.5))
        r = x - whole * _LN_2
        p = np.float32(1 / 5040)
        p = p * r + np.float32(1 / 720)
        p = p * r + np.float32(1 / 120)
        p = p * r + np.float32(1 / 24)
        p = p * r + np.float32(1 / 6)
        p = p * r + np.float32(0.5)
        p = p * r + np.float32(1)
        scores[i] = p * r + np.float32(1)
        bits[i] += np.int32(whole) << 23
    total = np.float32(0)
    for i in range(count):
        total += scores[i]
    return total


@_compiled(parallel=False)
def _score(query: Floats, keys: Floats, scaling: float, runs: Integers, scores: Floats) -> np.float32:
    """The scores of the runs' slots, one after another; returns the highest. Four keys at once share the query."""
    at = 0
    highest = np.float32(-np.inf)
    for run in range(len(runs)):
        slot, end = runs[run]
        while slot < end:
            if slot + 4 <= end:
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


@_compiled(parallel=False)
def _mix(weights: Floats, factor: np.float32, values: Floats, runs: Integers, result: Floats) -> None:
    """Write the sum of the runs' values to result, each times its weight and the factor. Four at once share the sum."""
    result[:] = np.float32(0)
    at = 0
    for run in range(len(runs)):
        slot, end = runs[run]
        while slot < end:
            if slot + 4 <= end:
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


@_compiled(parallel=True)
def attend(
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
            highest = _score(query, keys[head], scaling, runs[first_run[each] : first_run[each + 1]], scores)
            factor = np.float32(1) / _exponentials(scores, length, highest)
            start = (head * group + member) * dim
            result = out[row, start : start + dim]
            _mix(scores, factor, values[head], runs[first_run[each] : first_run[each + 1]], result)


def compile_all() -> None:
    """Compile what no earlier start has left compiled, some seconds of work, so that no request waits for it."""
    ones = np.ones((FEW_ROWS + 1, 3, 2), np.float32)
    pool, square, line = np.ones((1, 1, 2), np.float32), np.ones((2, 2), np.float32), np.ones(2, np.float32)
    none = np.zeros(FEW_ROWS + 1, np.int64)
    for weights in (square, square.astype(np.int8)):
        multiply(square, weights, line, np.empty_like(square), 0)
    dequantise(square.astype(np.int8), line, np.empty_like(square))
    for rows in (1, FEW_ROWS + 1):
        qkv = ones[:rows].copy()
        turn = qkv[:, 0].copy()
        normalise(turn, line, 1e-6, turn)
        normalise_heads(qkv, square, 1e-6)
        rotate_and_store(qkv, (turn, turn), none[:rows], pool, pool)
    attend(
        ones, pool, pool, 1.0, none[:1], np.array([0, 1]), np.array([[0, 1]]), np.empty((1, 2), np.float32)
    )
