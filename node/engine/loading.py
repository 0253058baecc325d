"""Loads a node's models in the worker: looks first whether they fit, and says so if they don't."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from node.engine.block_manager import BLOCK_TOKENS
from node.engine.errors import NoMemoryError
from node.engine.manifest import read_manifest
from node.engine.memory import available_memory
from node.engine.memory_plan import ModelNeeds, check_room, needs_of, share_cache
from node.engine.model_engine import ModelEngine
from node.engine.model_runner import cache_bytes_per_token, dtype_on, load_config
from node.engine.settings import EngineSettings, WeightsChoice

_REFUSED = ("can't allocate memory", "not enough memory", "Cannot allocate memory")
"""How torch and the system say, in errors of no special kind, that there was no memory."""


def load_engines(folders: Sequence[Path], settings: EngineSettings, device: str) -> list[ModelEngine]:
    """The models in these folders, loaded; settings.cache_bytes is for all of them together.

    Raises:
        ModelError: something about a model's files, or too little memory for them (NoMemoryError).
    """
    models = [estimate(folder, torch.device(device), settings.weights) for folder in folders]
    blocks = share_cache(models, settings.cache_bytes)
    check_room(models, blocks * sum(model.block for model in models), free_memory(torch.device(device)))
    with _explained([model.alias for model in models]):
        return [
            ModelEngine(
                folder, replace(settings, cache_bytes=blocks * model.block), device, time.perf_counter
            )
            for folder, model in zip(folders, models, strict=True)
        ]


def estimate(folder: Path, device: torch.device, weights: WeightsChoice = "auto") -> ModelNeeds:
    """What a stored model will take on a device."""
    manifest = read_manifest(folder)
    manifest.check_sizes(folder)
    _, config = load_config(folder, manifest.alias)
    dtype = dtype_on(device)
    name = "F32" if dtype is torch.float32 else "BF16"
    has_int8 = device.type == "cpu" and weights != "fp32"
    block_bytes = BLOCK_TOKENS * cache_bytes_per_token(config, dtype)
    return needs_of(folder, manifest, name, block_bytes, has_int8=has_int8)


def free_memory(device: torch.device) -> int | None:
    """Bytes that a device can still give; None where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory()


@contextmanager
def _explained(names: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:  # torch's own are RuntimeErrors
        is_ours = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_ours and not any(words in str(error) for words in _REFUSED):
            raise
        raise NoMemoryError(
            f"model {', '.join(names)}: memory ran out on the way ({' '.join(str(error).split())[:200]}); "
            "free some, lower engine.cache_mb, or serve fewer or smaller models"
        ) from error
