"""A LoRA adapter (arXiv 2106.09685) as `peft` saves one: what its folder may hold, and whether it fits its base.

An adapter comes from a stranger. Of its `adapter_config.json` we take a few fields, each checked, and write them down
anew; the rest either doesn't matter to a finished adapter or is refused by name. Patterns are plain names here, though
peft takes regular expressions. What is adapted is read off the tensors: each module has two, whose shapes must fit the
base's. No torch here: only headers are read.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from filecmp import cmpfiles
from pathlib import Path
from typing import TypeVar

from node.engine.errors import UnsupportedModelError
from node.engine.tensor_file import FLOATS, read_header

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
MAX_RANK = 512

T = TypeVar("T")

_MAX_CONFIG_BYTES = 1 << 20
_MAX_ALPHA = 1e6
_MAX_PATTERNS = 1024
_NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")
_TENSOR = re.compile(r"base_model\.model\.(model\.layers\.[A-Za-z0-9_.]{1,200})\.lora_([AB])\.weight")
_PLAIN_INITS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin a training that leave the base as it is. Others (PiSSA, LoftQ, CorDA ...) change its weights."""

_MERGE_IT = "Merge it into its base with peft (merge_and_unload), and pull the whole model"

_TAKEN = frozenset(
    {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "target_modules"}
)
_CHECKED = frozenset({"base_model_name_or_path", "bias", "init_lora_weights"})
_WITHOUT_EFFECT = frozenset(
    {
        *("auto_mapping", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules"),
        *("inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout"),
        *("lora_ga_config", "megatron_config", "megatron_core", "peft_version", "qalora_group_size"),
        *("revision", "runtime_config", "task_type"),
    }
)
"""Fields that say how the adapter was trained; its tensors say the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """What decides, with the tensors, what an adapter does. targets: how its modules' names end, if it says so."""

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rank_stabilised: bool
    targets: tuple[str, ...]
    base_name: str

    def rank_of(self, module: str) -> int:
        """The rank that a module's tensors must have."""
        return _of_module(self.ranks, module, self.rank)

    def alpha_of(self, module: str) -> float:
        """What a module's update is scaled by, before it is divided by the rank or its root."""
        return _of_module(self.alphas, module, self.alpha)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter rather than a whole model."""
    return (folder / ADAPTER_CONFIG).is_file()


def read_adapter_config(folder: Path) -> AdapterConfig:
    """The folder's `adapter_config.json`.

    Raises:
        UnsupportedModelError: it is no such file, or asks for something other than plain LoRA.
    """
    file = folder / ADAPTER_CONFIG
    try:
        if file.stat().st_size > _MAX_CONFIG_BYTES:
            raise UnsupportedModelError(f"{ADAPTER_CONFIG} is longer than {_MAX_CONFIG_BYTES} bytes")
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnsupportedModelError(f"{ADAPTER_CONFIG} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise UnsupportedModelError(f"{ADAPTER_CONFIG} is no JSON object")
    _check_kind(content)
    return AdapterConfig(
        rank=_read_rank("r", content.get("r")),
        alpha=_read_alpha("lora_alpha", content.get("lora_alpha")),
        ranks=_read_pattern("rank_pattern", content.get("rank_pattern"), _read_rank),
        alphas=_read_pattern("alpha_pattern", content.get("alpha_pattern"), _read_alpha),
        rank_stabilised=content.get("use_rslora") is True,
        targets=_read_targets(content.get("target_modules")),
        base_name=str(content.get("base_model_name_or_path") or ""),
    )


def own_files(folder: Path, base: Path) -> tuple[str, ...]:
    """Files that an adapter brings in place of its base's: a tokenizer with its settings, a chat template.

    None where they are its base's very own, which trainers save beside the adapter.
    """
    names = TOKENIZER_FILES if (folder / TOKENIZER_FILES[0]).is_file() else TOKENIZER_FILES[-1:]
    found = tuple(name for name in names if (folder / name).is_file())
    same, _, _ = cmpfiles(folder, base, found, shallow=False)
    is_whole = len(found) == sum((base / name).is_file() for name in names)
    return () if is_whole and len(same) == len(found) else found


def canonical_config(config: AdapterConfig, modules: Iterable[str]) -> str:
    """What was understood of it, in peft's own form: the same text for the same adapter."""
    content = {
        "peft_type": "LORA",
        "r": config.rank,
        "lora_alpha": config.alpha,
        "rank_pattern": dict(sorted(config.ranks.items())),
        "alpha_pattern": dict(sorted(config.alphas.items())),
        "use_rslora": config.rank_stabilised,
        "target_modules": sorted({module.rpartition(".")[2] for module in modules}),
    }
    return json.dumps(content, indent=1) + "\n"


def check_modules(folder: Path, config: AdapterConfig, base: Path) -> tuple[str, ...]:
    """The names of the modules that an adapter changes, in order, each with tensors that fit the base in this folder.

    Raises:
        UnsupportedModelError: a tensor is no LoRA tensor, its module isn't in the base, or its shape doesn't fit.
    """
    if not (folder / ADAPTER_WEIGHTS).is_file():
        pickled = next(folder.glob("adapter_model.*"), None)
        why = (
            ""
            if pickled is None
            else f"; {pickled.name} may hold code and is never read: save it as safetensors"
        )
        raise UnsupportedModelError(f"the adapter lacks {ADAPTER_WEIGHTS}{why}")
    parts = _read_parts(folder / ADAPTER_WEIGHTS)
    layers = _linear_shapes(base)
    for module, shapes in parts.items():
        _check_module(module, shapes, config.rank_of(module), layers)
    for target in config.targets:
        if not any(_names(target, module) for module in parts):
            raise UnsupportedModelError(f"the adapter's target module {target!r} has no tensors")
    return tuple(sorted(parts))


def _check_module(
    module: str, shapes: Mapping[str, tuple[int, ...]], rank: int, layers: Mapping[str, tuple[int, ...]]
) -> None:
    if module not in layers:
        raise UnsupportedModelError(f"the adapter changes {module}, which its base doesn't have")
    outputs, inputs = layers[module]
    wanted = {"A": (rank, inputs), "B": (outputs, rank)}
    if shapes != wanted:
        raise UnsupportedModelError(
            f"the adapter's tensors for {module} have the shapes {_show(shapes)}; its base needs {_show(wanted)}"
        )


def _read_parts(file: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of lora_A and lora_B of each module."""
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, (shape, dtype) in read_header(file).items():
        match = _TENSOR.fullmatch(name)
        if match is None or dtype not in FLOATS:
            raise UnsupportedModelError(
                f"the adapter's tensor {name[:200]!r} ({dtype}) is no LoRA matrix of a module in the layers. "
                + _MERGE_IT
            )
        parts.setdefault(match[1], {})[match[2]] = shape
    if not parts:
        raise UnsupportedModelError("the adapter has no tensors")
    return parts


def _linear_shapes(base: Path) -> dict[str, tuple[int, ...]]:
    """[outputs, inputs] of the base's linear modules."""
    return {
        name.removesuffix(".weight"): shape
        for file in sorted(base.glob("*.safetensors"))
        for name, (shape, _) in read_header(file).items()
        if name.endswith(".weight") and len(shape) == 2
    }


def _check_kind(content: Mapping[str, object]) -> None:
    kind = content.get("peft_type")
    if kind != "LORA":
        raise UnsupportedModelError(
            f"the adapter's peft_type is {kind!r}; only 'LORA' is supported. {_MERGE_IT}"
        )
    if content.get("bias") not in (None, "none") or content.get("init_lora_weights") not in _PLAIN_INITS:
        asked = {name: content.get(name) for name in ("bias", "init_lora_weights")}
        raise UnsupportedModelError(
            f"the adapter asks for {asked}; only plain LoRA is supported. {_MERGE_IT}"
        )
    for name, value in content.items():
        if value and name not in _TAKEN | _CHECKED | _WITHOUT_EFFECT:
            raise UnsupportedModelError(
                f"the adapter's setting {name[:100]!r} is not supported, only plain LoRA is. {_MERGE_IT}"
            )


def _read_rank(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_RANK:
        raise UnsupportedModelError(f"the adapter's {name} is {_cut(value)}; it must be 1 to {MAX_RANK}")
    return value


def _read_alpha(name: str, value: object) -> float:
    # The comparisons are false for NaN too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_ALPHA:
        raise UnsupportedModelError(
            f"the adapter's {name} is {_cut(value)}; it must be a number, at most 10^6"
        )
    return float(value)


def _read_pattern(name: str, value: object, read: Callable[[str, object], T]) -> dict[str, T]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > _MAX_PATTERNS or not all(map(_NAME.fullmatch, value)):
        raise UnsupportedModelError(
            f"the adapter's {name} must map plain names of modules, at most {_MAX_PATTERNS}. {_MERGE_IT}"
        )
    return {key: read(name, each) for key, each in value.items()}


def _read_targets(value: object) -> tuple[str, ...]:
    """A list of names. A text is a pattern that was matched when the adapter was made; its tensors tell what it hit."""
    if value is None or isinstance(value, str):
        return ()
    if (
        not isinstance(value, list)
        or len(value) > _MAX_PATTERNS
        or not all(isinstance(each, str) for each in value)
    ):
        raise UnsupportedModelError(
            f"the adapter's target_modules is {_cut(value)}; it must be a list of names"
        )
    return tuple(value)


def _of_module(pattern: Mapping[str, T], module: str, default: T) -> T:
    return next((value for name, value in pattern.items() if _names(name, module)), default)


def _names(name: str, module: str) -> bool:
    return module == name or module.endswith(f".{name}")


def _show(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{part} {list(shape)}" for part, shape in sorted(shapes.items()))


def _cut(value: object) -> str:
    return repr(value)[:100]
