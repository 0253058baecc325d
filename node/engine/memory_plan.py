"""What models will need, worked out from their files before anything is loaded, and how they share the cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from node.engine.adapter import check_modules, read_adapter_config
from node.engine.errors import ModelDamagedError, ModelError, NoMemoryError, UnsupportedModelError
from node.engine.manifest import Manifest
from node.engine.models import weights_folder
from node.engine.tensor_file import TensorInfo, read_header

FEWEST_BLOCKS = 8
"""A context of 128 tokens: with less a model is of no use."""

_WORKING_BYTES = 256 << 20
"""For activations, logits and what a library takes on the way."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelNeeds:
    """Bytes that one model takes. shared: weights mapped from the files in `folder`, which count once.

    own: weights of its own; block: one block of its cache.
    """

    alias: str
    folder: Path
    shared: int
    own: int
    block: int


def needs_of(
    folder: Path, manifest: Manifest, dtype: str, block_bytes: int, *, has_int8: bool = False
) -> ModelNeeds:
    """What a stored model takes when its weights are used as this dtype (F32, BF16). has_int8: and copied to int8.

    Raises:
        MissingBaseError, ModelDamagedError, UnsupportedModelError: something about its files.
    """
    weights = weights_folder(folder, manifest)
    tensors = _tensors(weights, manifest.alias)
    shared = sum(_bytes(info, dtype) for info in tensors.values() if info.dtype == dtype)
    own = sum(_bytes(info, dtype) for info in tensors.values() if info.dtype != dtype)
    if manifest.base is not None:
        config = read_adapter_config(folder)
        # The matrices that an adapter changes become copies.
        changed = {f"{name}.weight" for name in check_modules(folder, config, weights)}
        own += sum(_bytes(info, dtype) for name, info in tensors.items() if name in changed)
    if has_int8:
        own += sum(prod(info.shape) for info in tensors.values())
    return ModelNeeds(manifest.alias, weights, shared, own, block_bytes)


def _tensors(folder: Path, alias: str) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            tensors |= read_header(file)
        except UnsupportedModelError as error:
            raise ModelDamagedError(alias, file.name, f"can't be read ({error})") from error
    return tensors


def _bytes(info: TensorInfo, dtype: str) -> int:
    return prod(info.shape) * (4 if dtype == "F32" else 2)


def share_cache(models: Sequence[ModelNeeds], cache_bytes: int) -> int:
    """How many blocks each model gets: all the same number, so that all can hold as many tokens.

    Raises:
        ModelError: too few to be of use; the message says how much would do.
    """
    together = sum(model.block for model in models)
    blocks = cache_bytes // together
    if blocks < FEWEST_BLOCKS:
        raise ModelError(
            f"model {_names(models)}: {cache_bytes // _MIB} MiB for keys and values are too few; "
            f"set engine.cache_mb to {FEWEST_BLOCKS * together // _MIB + 1} or more"
        )
    return blocks


def check_room(models: Sequence[ModelNeeds], cache_bytes: int, free_bytes: int | None) -> None:
    """Refuse models that don't fit into what is free. None: nobody knows, so let us try.

    Raises:
        NoMemoryError: both figures, and what would fit.
    """
    weights = sum({model.folder: model.shared for model in models}.values()) + sum(m.own for m in models)
    needed = weights + cache_bytes + _WORKING_BYTES
    if free_bytes is None or needed <= free_bytes:
        return
    left = free_bytes - weights - _WORKING_BYTES
    least = FEWEST_BLOCKS * sum(model.block for model in models)
    fits = (
        f"with engine.cache_mb = {left // _MIB} it would fit"
        if left // _MIB * _MIB >= least
        else "even without it they don't fit: free some memory, or serve fewer or smaller models"
    )
    raise NoMemoryError(
        f"model {_names(models)}: {_show(needed)} of memory needed (weights {_show(weights)}, cache "
        f"{_show(cache_bytes)}, work {_show(_WORKING_BYTES)}), {_show(free_bytes)} free; {fits}"
    )


def _names(models: Sequence[ModelNeeds]) -> str:
    return ", ".join(model.alias for model in models)


def _show(size: int) -> str:
    return f"{size // _MIB} MiB"
