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
"""With more a matrix product of PyTorch's is faster than `multiply`, and what is done row by row is worth threads."""

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


@_compiled(parallel=True)
def multiply(x: Floats, weights: Weights, scales: Floats, out: Floats, column: int) -> None:
    """Write x @ (weights * scales[:, None]).T to out[:, column:].

    x: [rows, k]; weights: [n, k], int8 or fp32; scales: [n]; out: [rows, at least column + n].
    """
    rows, k = x.shape
    for n in prange(weights.shape[0]):
        w = weights[n]
        row = 0
        while row + 8 <= rows:
            x0, x1, x2, x3 = x[row], x[row + 1], x[row + 2], x[row + 3]
            x4, x5, x6, x7 = x[row + 4], x[row + 5], x[row + 6], x[row + 7]
            s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = np.float32(0)
            for i in range(k):
                v = np.float32(w[i])
                s0 += v * x0[i]
                s1 += v * x1[i]
                s2 += v * x2[i]
                s3 += v * x3[i]
                s4 += v * x4[i]
                s5 += v * x5[i]
                s6 += v * x6[i]
                s7 += v * x7[i]
            at = column + n
            out[row, at] = s0 * scales[n]
            out[row + 1, at] = s1 * scales[n]
            out[row + 2, at] = s2 * scales[n]
            out[row + 3, at] = s3 * scales[n]
            out[row + 4, at] = s4 * scales[n]
            out[row + 5, at] = s5 * scales[n]
            out[row + 6, at] = s6 * scales[n]
            out[row + 7, at] = s7 * scales[n]
            row += 8
        while row + 4 <= rows:
            x0, x1, x2, x3 = x[row], x[row + 1], x[row + 2], x[row + 3]
            s0 = s1 = s2 = s3 = np.float32(0)
            for i in range(k):
                v = np.float32(w[i])
                s0 += v * x0[i]
                s1 += v * x1[i]
                s2 += v * x2[i]
                s3 += v * x3[i]
            at = column + n
            out[row, at] = s0 * scales[n]
            out[row + 1, at] = s1 * scales[n]
            out[row + 2, at] = s2 * scales[n]
            out[row + 3, at] = s3 * scales[n]
            row += 4
        while row < rows:
            x0 = x[row]
            s0 = np.float32(0)
            for i in range(k):
                s0 += np.float32(w[i]) * x0[i]
            out[row, column + n] = s0 * scales[n]
            row += 1


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
            at = 0
            highest = np.float32(-np.inf)
            for run in range(first_run[each], first_run[each + 1]):
                for slot in range(runs[run, 0], runs[run, 1]):
                    key = keys[head, slot]
                    score = np.float32(0)
                    for i in range(dim):
                        score += query[i] * key[i]
                    score *= np.float32(scaling)
                    scores[at] = score
                    highest = max(highest, score)
                    at += 1
            factor = np.float32(1) / _exponentials(scores, length, highest)
            start = (head * group + member) * dim
            result = out[row, start : start + dim]
            result[:] = np.float32(0)
            at = 0
            for run in range(first_run[each], first_run[each + 1]):
                for slot in range(runs[run, 0], runs[run, 1]):
                    value = values[head, slot]
                    weight = scores[at] * factor
                    for i in range(dim):
                        result[i] += weight * value[i]
                    at += 1


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
