"""The loops of a decoder layer that PyTorch has no fast call for on a CPU, compiled by numba for the machine at hand.

A step that decodes has one row for each answer. With so few rows PyTorch's matrix products reach a fraction of what
the memory gives, int8 weights have no fast product at all, and paged attention takes one call for each answer. Here
every weight is read once for all rows, and all answers attend in one call.

Arrays are C-contiguous; `rows` are tokens. Sums are taken in an order that the compiler picks for the machine's
vectors: results agree with PyTorch's within fp32 rounding.
"""

import math
from typing import Any

import numpy as np
from numba import prange

from node.engine.compiled import AHEAD, FEW_ROWS, Floats, Integers, both, compiled, prefetch

_FEW_ROWS_OF_GATES = 2  # exponentials take longer than what the other loops do with a row

Weights = np.ndarray[Any, np.dtype[np.int8]] | Floats

Gate = tuple[np.float32, np.float32]
"""An activation z * sigmoid(slope * z * (1 + cubic * z * z)): slope and cubic."""
SILU: Gate = (np.float32(1), np.float32(0))
GELU: Gate = (np.float32(2 * math.sqrt(2 / math.pi)), np.float32(0.044715))
"""GELU by its approximation with tanh."""

_LOG2_E = np.float32(1.4426950408889634)
_LN_2 = np.float32(0.6931471805599453)
_LOWEST_EXPONENT = np.float32(-87.0)


# Written out row by row: sums in an array would live in memory, and be read and written at every product.
@compiled(parallel=False)
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


@compiled(parallel=False)
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


@compiled(parallel=False)
def _multiply_one(
    x: Floats, row: int, weights: Weights, scales: Floats, n: int, out: Floats, at: int
) -> None:
    w, x0 = weights[n], x[row]
    s0 = np.float32(0)
    for k in range(len(w)):
        s0 += np.float32(w[k]) * x0[k]
    out[row, at] = s0 * scales[n]


@compiled(parallel=False)
def _multiply_two(
    x: Floats, row: int, end: int, weights: Weights, scales: Floats, n: int, out: Floats, at: int
) -> None:
    """The rows of x up to end, at most eight, by two of the weights."""
    if row + 8 == end:
        _multiply_eight(x, row, weights, scales, n, out, at)
        return
    if row + 4 <= end:
        _multiply_four(x, row, weights, scales, n, out, at)
        row += 4
    for single in range(row, end):
        _multiply_one(x, single, weights, scales, n, out, at)
        _multiply_one(x, single, weights, scales, n + 1, out, at + 1)


@compiled(parallel=True)
def multiply(x: Floats, weights: Weights, scales: Floats, out: Floats, column: int) -> None:
    """Write x @ (weights * scales[:, None]).T to out[:, column:].

    x: [rows, k]; weights: [n, k], int8 or fp32; scales: [n]; out: [rows, at least column + n].
    """
    rows, (count, width) = len(x), weights.shape
    flat = weights.reshape(-1)
    line, distance = 64 // weights.itemsize, AHEAD // weights.itemsize
    # Eight rows of x and eight of the weights fit the core's first cache: each is used eight times while it is there.
    for tile in prange((count + 7) // 8):
        last = min(8 * tile + 8, count)
        for row in range(0, rows, 8):
            end = min(row + 8, rows)
            for n in range(8 * tile, last, 2):
                if row == 0:
                    for at in range(n * width, (n + 2) * width, line):
                        prefetch(flat, at + distance)
                if n + 2 <= last:
                    _multiply_two(x, row, end, weights, scales, n, out, column + n)
                else:
                    for single in range(row, end):
                        _multiply_one(x, single, weights, scales, n, out, column + n)


@compiled(parallel=True)
def dequantise(weights: Weights, scales: Floats, out: Floats) -> None:
    """Write weights * scales[:, None] to out, [n, k]."""
    for n in prange(weights.shape[0]):
        for i in range(weights.shape[1]):
            out[n, i] = np.float32(weights[n, i]) * scales[n]


@compiled(parallel=False)
def exponentials(scores: Floats, count: int, highest: np.float32) -> np.float32:
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
        # Halves of their own: where both are one array the compiler can't tell that writing one leaves the other.
        cosine_a, cosine_b = cosine[row, :half], cosine[row, half:]
        sine_a, sine_b = sine[row, :half], sine[row, half:]
        for head in range(turned):
            a, b = qkv[row, head, :half], qkv[row, head, half:]
            for i in range(half):
                u, v = a[i], b[i]
                a[i] = u * cosine_a[i] - v * sine_a[i]
                b[i] = v * cosine_b[i] + u * sine_b[i]
        slot = slots[row]
        for head in range(kv_heads):
            for i in range(dim):
                keys[head, slot, i] = qkv[row, turned - kv_heads + head, i]
                values[head, slot, i] = qkv[row, turned + head, i]


def _gate(gate_up: Floats, slope: np.float32, cubic: np.float32, out: Floats) -> None:
    rows, width = out.shape
    both = gate_up.reshape(rows, 2, width)
    for row in prange(rows):
        gate, up, result = both[row, 0], both[row, 1], out[row]
        # sigmoid(z) = 1 / (1 + e) or, left of zero, e / (1 + e), with e = exp(-|z|) that can't overflow.
        for i in range(width):
            result[i] = -abs(slope * gate[i] * (np.float32(1) + cubic * gate[i] * gate[i]))
        exponentials(result, width, np.float32(0))
        for i in range(width):
            e = result[i]
            result[i] = gate[i] * up[i] * (np.float32(1) if gate[i] >= 0 else e) / (np.float32(1) + e)


_NORMALISE = both(_normalise)
_NORMALISE_HEADS = both(_normalise_heads)
_ROTATE_AND_STORE = both(_rotate_and_store)
_GATE = both(_gate)


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


def gate(gate_up: Floats, kind: Gate, out: Floats) -> None:
    """Write activation(gate) * up to out, [rows, width]. gate_up: [rows, 2 * width], the gate first."""
    _GATE[len(out) > _FEW_ROWS_OF_GATES](gate_up, *kind, out)


def compile_kernels() -> None:
    """Compile what no earlier start has left compiled."""
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
        gate(turn, SILU, np.empty((rows, 1), np.float32))
        rotate_and_store(qkv, (turn, turn), none[:rows], pool, pool)
