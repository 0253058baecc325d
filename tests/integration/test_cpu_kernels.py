"""The compiled loops against plain PyTorch. They are compiled once for a machine, which takes some seconds."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers.activations import ACT2FN

from node.engine import cpu_kernels as kernels
from node.engine.cpu_attention import attend_single
from node.engine.cpu_decoder import join_linears

pytestmark = pytest.mark.integration

FEW_AND_MANY = [1, 3, 4, 7, 8, 13, 32, 33, 40]


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def multiply(linears, weights, x, scratch=1 << 12):
    matrix = join_linears(linears, weights, torch.empty(scratch))
    out = torch.empty(len(x), matrix.columns)
    matrix.multiply(x.numpy(), out.numpy())
    return out


@pytest.mark.parametrize("rows", FEW_AND_MANY)
@pytest.mark.parametrize("weights", ["fp32", "int8"])
@pytest.mark.parametrize("has_bias", [False, True])
def test_joined_matrices_multiply_as_each_would(rows, weights, has_bias):
    linears = [torch.nn.Linear(70, width, bias=has_bias) for width in (5, 33)]
    with torch.inference_mode():
        found = multiply(linears, weights, noise(rows, 70))
        expected = torch.cat([linear(noise(rows, 70)) for linear in linears], dim=1)
    # int8: half a step of 1/127 of the greatest weight, over 70 inputs
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 if weights == "fp32" else 0.02)


def test_weights_are_written_out_part_by_part():
    linears = [torch.nn.Linear(70, 33, bias=False)]
    with torch.inference_mode():
        at_once, in_parts = (multiply(linears, "int8", noise(40, 70), scratch) for scratch in (1 << 12, 150))
        torch.testing.assert_close(at_once, in_parts)


@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_a_row_gets_the_same_product_in_any_company_but_for_rounding(weights):
    linears, x = [torch.nn.Linear(96, 40, bias=False)], noise(40, 96)
    with torch.inference_mode():
        together = multiply(linears, weights, x)
        for count in FEW_AND_MANY:
            torch.testing.assert_close(
                multiply(linears, weights, x[:count]), together[:count], rtol=0, atol=1e-6
            )


@pytest.mark.parametrize("rows", [1, 2, 3, 40])
@pytest.mark.parametrize(
    ("kind", "activation"), [(kernels.SILU, "silu"), (kernels.GELU, "gelu_pytorch_tanh")]
)
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_gates_are_those_of_transformers_activations(rows, kind, activation, size):
    gate_up, out = noise(rows, 2 * 37) * size, torch.empty(rows, 37)
    kernels.gate(gate_up.numpy(), kind, out.numpy())
    gate, up = gate_up.double().chunk(2, dim=1)  # in fp32 what it takes from 1 is lost, left of zero
    torch.testing.assert_close(out.double(), ACT2FN[activation](gate) * up, rtol=2e-6, atol=1e-6)


def test_a_gate_that_is_no_number_shows():
    gate_up, out = np.full((1, 4), np.nan, np.float32), np.zeros((1, 2), np.float32)
    kernels.gate(gate_up, kernels.SILU, out)
    assert np.isnan(out).all()


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
    attend_single(qkv.numpy(), keys.numpy(), values.numpy(), 0.125, rows, first, runs, out.numpy())
    expected = (keys[0] @ qkv[0, 0] * 0.125).softmax(dim=0)
    torch.testing.assert_close(out[0, :count], expected, rtol=1e-4, atol=1e-6)
    assert out[0].sum() == pytest.approx(1.0, abs=1e-5)
