"""The decoder layers of Llama and Gemma on a CPU, over the weights of transformers' modules.

Transformers' own layers make some fifty calls of PyTorch each, which takes longer than what they compute where the rows
are few. Here a layer is eight or nine calls of `cpu_kernels` and four of PyTorch. With many rows the matrix products
are PyTorch's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from node.engine import cpu_kernels as kernels
from node.engine.attention import AttentionPlan
from node.engine.cpu_attention import attend_rows
from node.engine.quantise import quantise_rows

Weights = Literal["fp32", "int8"]


_FEW_ROWS = {torch.int8: 32, torch.float32: 8}
"""With more, PyTorch's matrix product is the faster one."""
_WRITTEN_OUT_AT_ONCE = 1 << 22
"""Weights, 16 MiB in fp32: what has just been written out is then still in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Linear layers that read the same input, as one: their weights [n, k] and scales [n], one after another."""

    parts: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    bias: torch.Tensor | None
    columns: int

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, k] to [rows, columns]."""
        out = torch.empty(len(x), self.columns)
        column = 0
        for weights, scales in self.parts:
            if len(x) <= _FEW_ROWS[weights.dtype]:
                kernels.multiply(x.numpy(), weights.numpy(), scales.numpy(), out.numpy(), column)
            else:
                _multiply_many(x, weights, scales, out[:, column : column + len(weights)])
            column += len(weights)
        return out if self.bias is None else out.add_(self.bias)


def _multiply_many(x: torch.Tensor, weights: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
    """The same for many rows, by PyTorch; int8 weights are written out part by part."""
    if weights.dtype is torch.float32:
        out.copy_(functional.linear(x, weights))
        return
    count = max(1, _WRITTEN_OUT_AT_ONCE // weights.shape[1])
    written = torch.empty(min(count, len(weights)), weights.shape[1])
    for first in range(0, len(weights), count):
        part = weights[first : first + count]
        kernels.dequantise(part.numpy(), scales[first : first + count].numpy(), written[: len(part)].numpy())
        out[:, first : first + len(part)] = functional.linear(x, written[: len(part)])


def join_linears(linears: Sequence[Any], weights: Weights) -> Matrix:
    """One matrix of several linear layers. fp32 weights stay where they are, mapped from their file."""
    columns = sum(linear.out_features for linear in linears)
    parts = [_as_part(linear.weight, weights) for linear in linears]
    if weights == "int8":
        stacked = zip(*parts, strict=True)
        parts = [(torch.cat(next(stacked)), torch.cat(next(stacked)))]
    bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
    return Matrix(tuple(parts), bias, columns)


def _as_part(weight: torch.Tensor, weights: Weights) -> tuple[torch.Tensor, torch.Tensor]:
    if weights == "fp32":
        return weight.detach().contiguous(), torch.ones(len(weight))
    integers, scales = quantise_rows(weight.detach().numpy())
    return torch.from_numpy(integers), torch.from_numpy(scales)


@dataclass(frozen=True, slots=True)
class Norm:
    """A root-mean-square norm."""

    weight: torch.Tensor
    epsilon: float

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, width] to the same."""
        out = torch.empty_like(x)
        kernels.normalise(x.numpy(), self.weight.numpy(), self.epsilon, out.numpy())
        return out

    def apply_in_place(self, x: torch.Tensor) -> torch.Tensor:
        """The same, over its input."""
        kernels.normalise(x.numpy(), self.weight.numpy(), self.epsilon, x.numpy())
        return x


def read_norm(module: Any) -> Norm:  # noqa: ANN401 - transformers' modules have no common type
    """The norm of a module: Gemma's is stored as what it differs from 1 by."""
    weight = module.weight.detach().float()
    if hasattr(module, "variance_epsilon"):
        return Norm(weight, module.variance_epsilon)
    return Norm(1.0 + weight, module.eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One decoder layer. Where Gemma has more norms than Llama, Llama has None."""

    before_attention: Norm
    qkv: Matrix
    heads: Norm | None  # weight: [heads + kv heads, dim]
    output: Matrix
    after_attention: Norm | None
    before_mlp: Norm
    gate_up: Matrix
    activation: nn.Module
    down: Matrix
    after_mlp: Norm | None
    scaling: float
    window: int | None
    kind: str


class CpuDecoder:
    """A model's layers, ready to run. weights: how those of the linear layers are kept."""

    has_kernel = True

    def __init__(self, model: Any, weights: Weights) -> None:  # noqa: ANN401 - models have no common type
        kernels.use_threads(torch.get_num_threads())
        kernels.compile_all()
        self._model = model
        self._weights: Weights = weights
        # In int8 as many rows, with eight answers, as `cpu_kernels` take: with more, all weights are written out.
        self.mixed_prefill_tokens = 24 if weights == "int8" else 64
        self._layers = [self._read_layer(layer) for layer in model.model.layers]
        self._norm = read_norm(model.model.norm)
        self._head = join_linears([model.lm_head], weights)

    def hidden(self, ids: Sequence[int], positions: Sequence[int], plan: AttentionPlan) -> torch.Tensor:
        """The last hidden states, after the final norm: [rows, hidden_size]."""
        x = self._model.model.embed_tokens(torch.tensor([ids]))[0]
        turns = self._turns(x, torch.tensor([positions]))
        for index, layer in enumerate(self._layers):
            self._run_layer(index, layer, x, turns[layer.kind], plan)
        return self._norm.apply(x)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden_size] to [rows, vocabulary]."""
        return self._head.multiply(hidden)

    def _turns(
        self, x: torch.Tensor, positions: torch.Tensor
    ) -> dict[str, tuple[kernels.Floats, kernels.Floats]]:
        """Cosines and sines of the rows' positions, [rows, dim], for each kind of layer."""
        rotary = self._model.model.rotary_emb
        kinds = {layer.kind for layer in self._layers}
        turns = {kind: rotary(x[None], positions, *([kind] if kind else [])) for kind in kinds}
        return {kind: (cosine[0].numpy(), sine[0].numpy()) for kind, (cosine, sine) in turns.items()}

    def _run_layer(
        self,
        index: int,
        layer: Layer,
        x: torch.Tensor,
        turn: tuple[kernels.Floats, kernels.Floats],
        plan: AttentionPlan,
    ) -> None:
        """Add what a layer has to say to x, [rows, hidden_size]."""
        keys, values = plan.pool.keys[index], plan.pool.values[index]
        qkv = layer.qkv.multiply(layer.before_attention.apply(x)).view(len(x), -1, keys.shape[-1])
        if layer.heads is not None:
            kernels.normalise_heads(qkv.numpy(), layer.heads.weight.numpy(), layer.heads.epsilon)
        kernels.rotate_and_store(qkv.numpy(), turn, plan.slots.numpy(), keys.numpy(), values.numpy())
        seen = attend_rows(qkv, keys, values, layer.scaling, plan, layer.window)
        x += _after(layer.after_attention, layer.output.multiply(seen))
        gate, up = layer.gate_up.multiply(layer.before_mlp.apply(x)).chunk(2, dim=1)
        x += _after(layer.after_mlp, layer.down.multiply(layer.activation(gate) * up))

    def _read_layer(self, layer: Any) -> Layer:  # noqa: ANN401 - transformers' modules have no common type
        attention, mlp = layer.self_attn, layer.mlp
        is_gemma = hasattr(layer, "pre_feedforward_layernorm")

        def join(*linears: Any) -> Matrix:  # noqa: ANN401
            return join_linears(linears, self._weights)

        return Layer(
            before_attention=read_norm(layer.input_layernorm),
            qkv=join(attention.q_proj, attention.k_proj, attention.v_proj),
            heads=self._read_head_norms(attention),
            output=join(attention.o_proj),
            after_attention=read_norm(layer.post_attention_layernorm) if is_gemma else None,
            before_mlp=read_norm(
                layer.pre_feedforward_layernorm if is_gemma else layer.post_attention_layernorm
            ),
            gate_up=join(mlp.gate_proj, mlp.up_proj),
            activation=mlp.act_fn,
            down=join(mlp.down_proj),
            after_mlp=read_norm(layer.post_feedforward_layernorm) if is_gemma else None,
            scaling=attention.scaling,
            window=getattr(attention, "sliding_window", None),
            kind=getattr(attention, "layer_type", None) or "",
        )

    def _read_head_norms(self, attention: Any) -> Norm | None:  # noqa: ANN401
        if not hasattr(attention, "q_norm"):
            return None
        config = self._model.config
        query, key = read_norm(attention.q_norm), read_norm(attention.k_norm)
        weights = [query.weight] * config.num_attention_heads + [key.weight] * config.num_key_value_heads
        return Norm(torch.stack(weights), query.epsilon)


def _after(norm: Norm | None, x: torch.Tensor) -> torch.Tensor:
    return x if norm is None else norm.apply_in_place(x)
