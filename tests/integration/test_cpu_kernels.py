"""The compiled loops against plain PyTorch. They are compiled once for a machine, which takes some seconds."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from node.engine import cpu_decoder
from node.engine import cpu_kernels as kernels
from node.engine.cpu_decoder import join_linears

pytestmark = pytest.mark.integration

FEW_AND_MANY = [1, 3, 4, 7, 8, 13, 32, 33, 40]


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", FEW_AND_MANY)
@pytest.mark.parametrize("weights", ["fp32", "int8"])
@pytest.mark.parametrize("has_bias", [False, True])
def test_joined_matrices_multiply_as_each_would(rows, weights, has_bias):
    linears = [torch.nn.Linear(70, width, bias=has_bias) for width in (5, 33)]
    with torch.inference_mode():
        found = join_linears(linears, weights).multiply(noise(rows, 70))
        expected = torch.cat([linear(noise(rows, 70)) for linear in linears], dim=1)
    # int8: half a step of 1/127 of the greatest weight, over 70 inputs
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 if weights == "fp32" else 0.02)


def test_weights_are_written_out_part_by_part(monkeypatch):
    monkeypatch.setattr(cpu_decoder, "_WRITTEN_OUT_AT_ONCE", 100)
    with torch.inference_mode():
        matrix = join_linears([torch.nn.Linear(70, 33, bias=False)], "int8")
        torch.testing.assert_close(matrix.multiply(noise(40, 70))[:8], matrix.multiply(noise(40, 70)[:8]))


@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_a_row_gets_the_same_product_in_any_company_but_for_rounding(weights):
    with torch.inference_mode():
        matrix = join_linears([torch.nn.Linear(96, 40, bias=False)], weights)
        x = noise(40, 96)
        together = matrix.multiply(x)
        for count in FEW_AND_MANY:
            torch.testing.assert_close(matrix.multiply(x[:count]), together[:count], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 40])
def test_normalise_is_the_root_mean_square_norm(rows):
    x, weight, out = noise(rows, 64), noise(64, seed=2), torch.empty(rows, 64)
    kernels.normalise(x.numpy(), weight.numpy(), 1e-5, out.numpy())
    torch.testing.assert_close(out, functional.rms_norm(x, (64,), weight, 1e-5))


@pytest.mark.parametrize("rows", [1, 40])
def test_heads_are_normalised_each_by_itself_and_values_left_alone(rows):
    qkv, weights = noise(rows, 5, 16), noise(4, 16, seed=2)
    expected = torch.cat([functional.rms_norm(qkv[:, :4], (16,), None, 1e-6) * weights, qkv[:, 4:]], dim=1)
    kernels.normalise_heads(qkv.numpy(), weights.numpy(), 1e-6)
    torch.testing.assert_close(qkv, expected)


@pytest.mark.parametrize("rows", [1, 40])
def test_queries_and_keys_are_turned_and_keys_and_values_stored(rows):
    heads, groups, dim = 4, 2, 8
    qkv, keys, values = noise(rows, heads + 2 * groups, dim), torch.zeros(2, 90, dim), torch.zeros(2, 90, dim)
    angles = noise(rows, dim // 2, seed=3).repeat(1, 2)
    slots = torch.randperm(90, generator=torch.Generator().manual_seed(4))[:rows]
    before = qkv.clone()
    turn = (angles.cos().numpy(), angles.sin().numpy())
    kernels.rotate_and_store(qkv.numpy(), turn, slots.numpy(), keys.numpy(), values.numpy())
    turned, rest = before[:, : heads + groups], before[:, heads + groups :]
    crossed = torch.cat([-turned[..., dim // 2 :], turned[..., : dim // 2]], dim=-1)
    expected = turned * angles.cos()[:, None] + crossed * angles.sin()[:, None]
    torch.testing.assert_close(qkv, torch.cat([expected, rest], dim=1))
    torch.testing.assert_close(keys[:, slots], expected[:, heads:].transpose(0, 1))
    torch.testing.assert_close(values[:, slots], rest.transpose(0, 1))


@pytest.mark.parametrize("size", [1.0, 60.0, 1e4])
def test_attention_weights_are_those_of_softmax_however_far_apart_scores_are(size):
    """A value that is its own position shows the weights."""
    count, dim = 50, 64
    keys, values = noise(1, count, dim), torch.eye(count, dim)[None].contiguous()
    qkv = noise(1, 3, dim, seed=2) * size
    out = torch.empty(1, dim)
    rows, first, runs = np.array([0]), np.array([0, 2]), np.array([[0, 20], [20, count]])
    kernels.attend(qkv.numpy(), keys.numpy(), values.numpy(), 0.125, rows, first, runs, out.numpy())
    expected = (keys[0] @ qkv[0, 0] * 0.125).softmax(dim=0)
    torch.testing.assert_close(out[0, :count], expected, rtol=1e-4, atol=1e-6)
    assert out[0].sum() == pytest.approx(1.0, abs=1e-5)
