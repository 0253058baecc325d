"""The decoder layers of Llama and Gemma on a CPU, over the weights of transformers' modules.

Transformers' own layers make some fifty calls of PyTorch each, which takes longer than what they compute where the rows
are few. Here a layer is some ten calls of `cpu_kernels`, over arrays that are there already. With many rows the matrix
products are PyTorch's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from node.engine import cpu_kernels as kernels
from node.engine.attention import AttentionPlan, LayerStep, combine
from node.engine.compiled import Floats, Integers, use_threads
from node.engine.cpu_attention import attend_single, compile_all
from node.engine.errors import UnsupportedModelError
from node.engine.quantise import quantise_rows

_FEW_ROWS = {np.int8: 32, np.float32: 24}
"""With more, PyTorch's matrix product is the faster one."""
_SCRATCH = 1 << 22
"""Weights that are written out at once, 16 MiB in fp32: they are then still in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Linear layers that read the same input, as one: their weights [n, k] and scales [n], one after another.

    scratch: where int8 weights are written out in fp32, part by part, for products of many rows.
    """

    parts: tuple[tuple[kernels.Weights, Floats], ...]
    bias: Floats | None
    columns: int
    scratch: torch.Tensor

    @property
    def width(self) -> int:
        """How many columns its input has."""
        return int(self.parts[0][0].shape[1])

    def multiply(self, x: Floats, out: Floats) -> None:
        """Write the product of x, [rows, k], to out, [rows, columns]."""
        column = 0
        for weights, scales in self.parts:
            if len(x) <= _FEW_ROWS[weights.dtype.type]:
                kernels.multiply(x, weights, scales, out, column)
            else:
                self._multiply_many(x, weights, scales, out[:, column : column + len(weights)])
            column += len(weights)
        if self.bias is not None:
            out += self.bias

    def _multiply_many(self, x: Floats, weights: kernels.Weights, scales: Floats, out: Floats) -> None:
        rows, products = torch.from_numpy(x), torch.from_numpy(out)
        if weights.dtype == np.float32:
            torch.mm(rows, torch.from_numpy(weights).t(), out=products)
            return
        count = len(self.scratch) // self.width
        for first in range(0, len(weights), count):
            part = weights[first : first + count]
            written = self.scratch[: part.size].view(part.shape)
            kernels.dequantise(part, scales[first : first + count], written.numpy())
            torch.mm(rows, written.t(), out=products[:, first : first + len(part)])


def join_linears(linears: Sequence[Any], kept_as: Literal["fp32", "int8"], scratch: torch.Tensor) -> Matrix:
    """One matrix of several linear layers. fp32 weights stay where they are, mapped from their file.

    scratch: fp32, at least as many as the layers have inputs; the more, the fewer products.
    """
    weights = [linear.weight.detach().contiguous().numpy() for linear in linears]
    if kept_as == "fp32":
        parts = [(part, np.ones(len(part), np.float32)) for part in weights]
    else:
        integers, scales = zip(*map(quantise_rows, weights), strict=True)
        parts = [(np.concatenate(integers), np.concatenate(scales))]
    biases = [linear.bias.detach().numpy() for linear in linears if linear.bias is not None]
    bias = np.concatenate(biases) if biases else None
    return Matrix(tuple(parts), bias, sum(map(len, weights)), scratch)


@dataclass(frozen=True, slots=True)
class Norm:
    """A root-mean-square norm."""

    weight: Floats
    epsilon: float

    def apply(self, x: Floats, out: Floats) -> None:
        """[rows, width] to the same; both may be one array."""
        kernels.normalise(x, self.weight, self.epsilon, out)


def read_norm(module: Any) -> Norm:  # noqa: ANN401 - transformers' modules have no common type
    """The norm of a module: Gemma's is stored as what it differs from 1 by."""
    weight = module.weight.detach().float().numpy()
    if hasattr(module, "variance_epsilon"):
        return Norm(weight, module.variance_epsilon)
    return Norm(1 + weight, module.eps)


_GATES = {"silu": kernels.SILU, "gelu_pytorch_tanh": kernels.GELU}


def _read_gate(config: Any) -> kernels.Gate:  # noqa: ANN401 - configurations have no common type
    name = getattr(config, "hidden_activation", None) or config.hidden_act
    if name not in _GATES:
        raise UnsupportedModelError(
            f"the model's activation is {name}; on a CPU those are supported: {', '.join(_GATES)}"
        )
    return _GATES[name]


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
    down: Matrix
    after_mlp: Norm | None
    scaling: float
    window: int | None
    kind: str


@dataclass(frozen=True, slots=True)
class Buffers:
    """What the layers write in a step, each array over again in every layer."""

    normed: Floats  # [rows, hidden_size]
    qkv: Floats  # [rows, (heads + 2 * kv heads) * dim]
    seen: Floats  # [rows, heads * dim]
    gate_up: Floats  # [rows, 2 * intermediate_size]
    inner: Floats  # [rows, intermediate_size]
    added: Floats  # [rows, hidden_size]

    def first(self, rows: int) -> "Buffers":
        """The same for fewer rows."""
        return Buffers(
            *(self.normed[:rows], self.qkv[:rows], self.seen[:rows]),
            *(self.gate_up[:rows], self.inner[:rows], self.added[:rows]),
        )


def _make_buffers(rows: int, layer: Layer) -> Buffers:
    # PyTorch's arrays begin with a line of the cache, as whole vectors like it; numpy's need not.
    widths = [
        *(layer.qkv.width, layer.qkv.columns, layer.output.width),
        *(layer.gate_up.columns, layer.down.width, layer.down.columns),
    ]
    return Buffers(*(torch.empty(rows, width).numpy() for width in widths))


@dataclass(frozen=True, slots=True)
class Step:
    """The rows of one step on their way through the layers."""

    x: Floats  # [rows, hidden_size]
    turns: dict[str, tuple[Floats, Floats]]  # cosines and sines, [rows, dim], by the layers' kinds
    slots: Integers  # [rows]
    keys: Floats  # [layers, kv heads, slots, dim]
    values: Floats
    plan: AttentionPlan
    buffers: Buffers


def attend_rows(
    qkv: Floats,
    keys: Floats,
    values: Floats,
    scaling: float,
    plan: AttentionPlan,
    window: int | None,
    out: Floats,
) -> None:
    """Write the softmax attention of one layer to out, [rows, heads * dim].

    qkv: [rows, heads + 2 * kv heads, dim], turned; keys, values: that layer's part of the pool, the rows' own included.
    """
    rows, columns, dim = qkv.shape
    kv_heads = len(keys)
    heads = columns - 2 * kv_heads
    parts, single = (plan.parts, plan.single) if window is None else (plan.windowed, plan.single_windowed)
    if parts:
        by_head = torch.from_numpy(qkv).transpose(0, 1)
        query, key, value = by_head.split([heads, kv_heads, kv_heads])
        pool = (torch.from_numpy(keys), torch.from_numpy(values))
        found = combine(LayerStep(query, key, value, *pool, scaling), parts)
        torch.from_numpy(out).view(rows, heads, dim).copy_(found.transpose(0, 1))
    if single is not None:
        attend_single(qkv, keys, values, scaling, single.rows, single.first_run, single.runs, out)


class CpuDecoder:
    """A model's layers, ready to run. weights: how those of the linear layers are kept."""

    has_kernel = True

    def __init__(self, model: Any, weights: Literal["fp32", "int8"]) -> None:  # noqa: ANN401 - no common type
        self._gate = _read_gate(model.config)
        use_threads(torch.get_num_threads())
        compile_all()
        self._model = model
        self._weights: Literal["fp32", "int8"] = weights
        self._scratch = torch.empty(_SCRATCH if weights == "int8" else 0)
        # What holds running answers up least, for a long prompt that still gets on: int8 steps are short.
        self.mixed_prefill_tokens = 16 if weights == "int8" else 64
        self._layers = [self._read_layer(layer) for layer in model.model.layers]
        self._norm = read_norm(model.model.norm)
        self._head = join_linears([model.lm_head], weights, self._scratch)
        self._buffers = _make_buffers(_FEW_ROWS[np.int8], self._layers[0])

    def hidden(self, ids: Sequence[int], positions: Sequence[int], plan: AttentionPlan) -> torch.Tensor:
        """The last hidden states, after the final norm: [rows, hidden_size]."""
        x = self._model.model.embed_tokens(torch.tensor([ids]))[0]
        step = Step(
            x.numpy(),
            self._turns(x, torch.tensor([positions])),
            plan.slots.numpy(),
            plan.pool.keys.numpy(),
            plan.pool.values.numpy(),
            plan,
            self._buffers_for(len(ids)),
        )
        for index, layer in enumerate(self._layers):
            self._run_layer(index, layer, step)
        out = torch.empty_like(x)
        self._norm.apply(step.x, out.numpy())
        return out

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden_size] to [rows, vocabulary]."""
        out = torch.empty(len(hidden), self._head.columns)
        self._head.multiply(hidden.numpy(), out.numpy())
        return out

    def _buffers_for(self, rows: int) -> Buffers:
        """The first rows of what the largest step so far took: a step is slow where its memory is new."""
        if rows > len(self._buffers.normed):
            self._buffers = _make_buffers(rows, self._layers[0])
        return self._buffers.first(rows)

    def _turns(self, x: torch.Tensor, positions: torch.Tensor) -> dict[str, tuple[Floats, Floats]]:
        """Cosines and sines of the rows' positions, [rows, dim], for each kind of layer."""
        rotary = self._model.model.rotary_emb
        kinds = {layer.kind for layer in self._layers}
        turns = {kind: rotary(x[None], positions, *([kind] if kind else [])) for kind in kinds}
        return {kind: (cosine[0].numpy(), sine[0].numpy()) for kind, (cosine, sine) in turns.items()}

    def _run_layer(self, index: int, layer: Layer, step: Step) -> None:
        """Add what a layer has to say to the step's x."""
        x, to = step.x, step.buffers
        keys, values = step.keys[index], step.values[index]
        layer.before_attention.apply(x, to.normed)
        layer.qkv.multiply(to.normed, to.qkv)
        qkv = to.qkv.reshape(len(x), -1, keys.shape[-1])
        if layer.heads is not None:
            kernels.normalise_heads(qkv, layer.heads.weight, layer.heads.epsilon)
        kernels.rotate_and_store(qkv, step.turns[layer.kind], step.slots, keys, values)
        attend_rows(qkv, keys, values, layer.scaling, step.plan, layer.window, to.seen)
        layer.output.multiply(to.seen, to.added)
        _add(x, to.added, layer.after_attention)
        layer.before_mlp.apply(x, to.normed)
        layer.gate_up.multiply(to.normed, to.gate_up)
        kernels.gate(to.gate_up, self._gate, to.inner)
        layer.down.multiply(to.inner, to.added)
        _add(x, to.added, layer.after_mlp)

    def _read_layer(self, layer: Any) -> Layer:  # noqa: ANN401 - transformers' modules have no common type
        attention, mlp = layer.self_attn, layer.mlp
        is_gemma = hasattr(layer, "pre_feedforward_layernorm")

        def join(*linears: Any) -> Matrix:  # noqa: ANN401
            return join_linears(linears, self._weights, self._scratch)

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
        return Norm(np.stack(weights), query.epsilon)


def _add(x: Floats, added: Floats, norm: Norm | None) -> None:
    if norm is not None:
        norm.apply(added, added)
    np.add(x, added, out=x)
