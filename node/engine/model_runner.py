"""The forward pass: loads a stored model with transformers' modules and computes the chunks of one step."""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from node.engine.adapter_merge import merge_adapter
from node.engine.architectures import ARCHITECTURES, Architecture
from node.engine.attention import PAGED_ATTENTION, AttentionPlan, KVPool, paged_attention, plan_attention
from node.engine.block_manager import BLOCK_TOKENS
from node.engine.errors import ModelDamagedError, UnsupportedModelError
from node.engine.fingerprint import encode_fingerprints, projection_matrix
from node.engine.manifest import read_manifest
from node.engine.models import weights_folder
from node.engine.penalties import Penalties
from node.engine.sampler import Candidates
from node.engine.sequence import Chunk
from node.engine.settings import NUMERICS, WeightsChoice
from overlay.wire.prompt import MAX_TOP_K


class ModelConfig(Protocol):
    """What the runner reads of a transformers configuration."""

    num_hidden_layers: int
    num_key_value_heads: int
    num_attention_heads: int
    hidden_size: int
    head_dim: int
    max_position_embeddings: int
    vocab_size: int
    _attn_implementation: str


class Decoder(Protocol):
    """What runs a model's layers. mixed_prefill_tokens: of prompts in one step, without holding up answers for long."""

    has_kernel: bool
    mixed_prefill_tokens: int

    def hidden(self, ids: Sequence[int], positions: Sequence[int], plan: AttentionPlan) -> torch.Tensor:
        """The last hidden states, [rows, hidden_size]."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden_size] to [rows, vocabulary]."""


class TransformersDecoder:
    """The layers as transformers runs them, on any device."""

    has_kernel = False
    mixed_prefill_tokens = 64

    def __init__(self, model: Any, device: torch.device) -> None:  # noqa: ANN401 - models have no common type
        self._model = model
        self._device = device

    def hidden(self, ids: Sequence[int], positions: Sequence[int], plan: AttentionPlan) -> torch.Tensor:
        """See `Decoder`."""
        hidden: torch.Tensor = self._model.model(
            input_ids=torch.tensor([ids], device=self._device),
            position_ids=torch.tensor([positions], device=self._device),
            use_cache=False,
            plan=plan,
        ).last_hidden_state[0]
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `Decoder`."""
        logits: torch.Tensor = self._model.lm_head(hidden)
        return logits


class ModelRunner:
    """Weights, and the pool of keys and values, which `reserve` makes.

    weights: how those of linear layers are kept; auto is int8 on a CPU, and bf16 elsewhere.
    """

    def __init__(self, folder: Path, alias: str, device: str, weights: WeightsChoice = "auto") -> None:
        self.device = torch.device(device)
        self.dtype = dtype_on(self.device)
        model, self.config = load_model(folder, alias, self.device, self.dtype)
        self._decoder: Decoder
        if self.device.type == "cpu":
            # Compiling and loading numba's code takes a second, which a node with a GPU need not spend.
            from node.engine.cpu_decoder import CpuDecoder

            kept: Literal["fp32", "int8"] = "int8" if weights == "auto" else weights
            self._decoder = CpuDecoder(model, kept)
            self.numerics_class = NUMERICS[kept]
        else:
            self._decoder = TransformersDecoder(model, self.device)
            self.numerics_class = NUMERICS["bf16"]
        self._projection = projection_matrix(self.config.hidden_size).to(self.device)
        self._pool: KVPool | None = None

    @property
    def cache_bytes_per_token(self) -> int:
        """Memory that one position of one sequence takes."""
        return cache_bytes_per_token(self.config, self.dtype)

    @property
    def mixed_prefill_tokens(self) -> int:
        """See `Decoder`."""
        return self._decoder.mixed_prefill_tokens

    def reserve(self, blocks: int) -> None:
        """Take memory for so many blocks of the pool."""
        config = self.config
        slots = blocks * BLOCK_TOKENS
        heads, dim = config.num_key_value_heads, config.head_dim
        self._pool = KVPool(config.num_hidden_layers, heads, slots, dim, self.dtype, self.device)

    def run(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        """Compute the chunks, whose tables have room for them.

        Returns the last hidden states of the wanted rows, chunk after chunk: [rows, hidden_size].
        """
        ids: list[int] = []
        positions: list[int] = []
        rows: list[int] = []
        if self._pool is None:
            raise RuntimeError("no blocks were reserved")
        for chunk in chunks:
            ids += chunk.sequence.tokens(chunk.start, chunk.count)
            positions += range(chunk.start, chunk.start + chunk.count)
            rows += range(len(ids) - chunk.wanted, len(ids))
        has_kernel = self._decoder.has_kernel
        plan = plan_attention(self._pool, chunks, self._window, self.device, has_kernel=has_kernel)
        hidden = self._decoder.hidden(ids, positions, plan)
        return hidden if len(rows) == len(ids) else hidden[rows]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits in fp32, [rows, vocabulary]."""
        return self._decoder.logits(hidden).float()

    def fingerprints(self, hidden: torch.Tensor) -> list[bytes]:
        """Fingerprints of hidden states, one per row."""
        return encode_fingerprints(hidden, self._projection)

    @property
    def _window(self) -> int | None:
        return getattr(self.config, "sliding_window", None)


def dtype_on(device: torch.device) -> torch.dtype:
    """What weights and cache are computed with on a device."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def cache_bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """Memory that keys and values of one position take, in all layers."""
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.itemsize)


def adjust_logits(logits: torch.Tensor, penalties: Sequence[Penalties | None]) -> torch.Tensor:
    """The logits that tokens are drawn from: what each row's penalties make of it. The raw ones stay as they are."""
    active = [(row, each) for row, each in enumerate(penalties) if each is not None and not each.is_idle]
    if not active:
        return logits
    rows = torch.from_numpy(np.concatenate([np.full(len(each.ids), row) for row, each in active]))
    columns = torch.from_numpy(np.concatenate([each.ids for _, each in active]))
    at = rows.to(logits.device), columns.to(logits.device)
    raw = logits[at].cpu().numpy()
    ends = np.cumsum([len(each.ids) for _, each in active])
    parts = zip(active, np.split(raw, ends[:-1]), strict=True)
    adjusted = logits.clone()
    changed = np.concatenate([each.adjust(part) for (_, each), part in parts])
    adjusted[at] = torch.from_numpy(changed).to(logits.device)
    return adjusted


def top_candidates(logits: torch.Tensor) -> list[Candidates]:
    """The 64 most likely tokens of each row of logits, equal logits by rising id."""
    count = min(MAX_TOP_K, logits.shape[-1])
    # One more than wanted shows whether the last place is contested.
    values, ids = logits.topk(min(count + 1, logits.shape[-1]), dim=-1)
    found = []
    for row, (row_values, row_ids) in enumerate(zip(values.tolist(), ids.tolist(), strict=True)):
        lowest = row_values[count - 1]
        is_crowded = row_values[count:] == [lowest]
        pairs = _with_tied(logits[row], lowest) if is_crowded else zip(row_values, row_ids, strict=True)
        ordered = sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[:count]
        found.append(Candidates([pair[1] for pair in ordered], [pair[0] for pair in ordered]))
    return found


def _with_tied(logits: torch.Tensor, lowest: float) -> list[tuple[float, int]]:
    """Every token at or over the lowest candidate's logit: topk picks among equal ones as it likes."""
    ids = (logits >= lowest).nonzero().flatten()
    return list(zip(logits[ids].tolist(), ids.tolist(), strict=True))


def load_config(folder: Path, alias: str) -> tuple[Architecture, ModelConfig]:
    """What a stored model's config.json says, with transformers' defaults for what it doesn't.

    Raises:
        UnsupportedModelError: it is of an architecture that we don't run.
        ModelDamagedError: it can't be read.
    """
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architecture = ARCHITECTURES.get(settings.get("model_type"))
        if architecture is None:
            known = ", ".join(ARCHITECTURES)
            raise UnsupportedModelError(
                f"model {alias}: architecture {settings.get('model_type')!r} is not supported; these are: {known}"
            )
        config_class = getattr(importlib.import_module(architecture.config_module), architecture.config_class)
        config: ModelConfig = config_class(**settings)
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise ModelDamagedError(alias, "config.json", f"can't be read ({error})") from error
    return architecture, config


def load_model(
    folder: Path, alias: str, device: torch.device, dtype: torch.dtype
) -> tuple[torch.nn.Module, ModelConfig]:
    """A transformers model with its weights mapped from safetensors files, changed by the adapter if it is one.

    Built on the meta device and filled by assignment: from_pretrained would import and initialise much that a server
    of one model doesn't need, and start-up counts.
    """
    architecture, config = load_config(folder, alias)
    weights = weights_folder(folder, read_manifest(folder))
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(PAGED_ATTENTION, paged_attention)
    model_class = getattr(importlib.import_module(architecture.model_module), architecture.model_class)
    config._attn_implementation = PAGED_ATTENTION  # noqa: SLF001 - the documented way in is from_pretrained
    with torch.device("meta"):
        model = model_class(config)
    model.load_state_dict(_read_weights(weights, alias, dtype), strict=False, assign=True)
    model.tie_weights()
    _restore_buffers(model, config)
    left = [name for name, tensor in _tensors(model) if tensor.is_meta]
    if left:
        raise ModelDamagedError(alias, "model.safetensors", f"lacks {left[0]} and {len(left) - 1} more")
    if weights != folder:
        merge_adapter(model, folder, weights)
    # Only the device: rotary frequencies stay fp32 whatever the weights are.
    return model.to(device=device).eval().requires_grad_(requires_grad=False), config


def _tensors(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _read_weights(folder: Path, alias: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """All tensors; those of the wanted dtype stay mapped from the file, and are shared with other processes."""
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            weights.update((name, tensor.to(dtype)) for name, tensor in load_file(file).items())
        except (SafetensorError, OSError) as error:
            raise ModelDamagedError(alias, file.name, f"can't be read ({error})") from error
    return weights


def _restore_buffers(model: torch.nn.Module, config: object) -> None:
    """Buffers that no file holds, since they follow from the configuration."""
    inner = model.model
    inner.rotary_emb = type(inner.rotary_emb)(config)
    embeddings = inner.embed_tokens
    if hasattr(embeddings, "scalar_embed_scale"):
        embeddings.embed_scale = torch.tensor(float(embeddings.scalar_embed_scale))
