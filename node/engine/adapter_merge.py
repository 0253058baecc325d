"""Puts a checked adapter into the weights of its base, once, at load: no step of the forward pass knows of it."""

import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file

from node.engine.adapter import ADAPTER_WEIGHTS, check_modules, read_adapter_config
from node.engine.errors import UnsupportedModelError


def merge_adapter(model: torch.nn.Module, folder: Path, base: Path) -> None:
    """Change the weights of `model`, whose files are in `base`, by the adapter in `folder`.

    The matrices that it touches become copies in memory; all others stay mapped from the base's file. Takes seconds,
    most of them peft's import, which only nodes with an adapter pay for.

    Raises:
        UnsupportedModelError: it is no adapter for this base, or its numbers are not finite.
    """
    adapter = read_adapter_config(folder)
    modules = check_modules(folder, adapter, base)
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    # Built from what was checked, never from the file: names in full, so that peft's patterns have nothing to guess.
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        target_modules=list(modules),
        rank_pattern={name: adapter.rank_of(name) for name in modules if adapter.ranks},
        alpha_pattern={name: adapter.alpha_of(name) for name in modules if adapter.alphas},
        use_rslora=adapter.rank_stabilised,
        init_lora_weights=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecations between the two libraries
        adapted = get_peft_model(model, config)
        left = set_peft_model_state_dict(adapted, load_file(folder / ADAPTER_WEIGHTS)).unexpected_keys
        if left:
            raise UnsupportedModelError(f"the adapter's tensor {left[0]!r} has no place in its base")
        try:
            adapted.merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise UnsupportedModelError(f"the adapter can't be merged: {error}") from error
