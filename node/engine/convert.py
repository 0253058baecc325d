"""Turns a fetched model into the files that the runner maps: safetensors, config, tokenizer, chat template.

Run as `python -m node.engine.convert SOURCE DESTINATION [BASE]`, in a process of its own: it needs torch and
transformers and a gigabyte of memory for some seconds, and the daemon should have none of that. SOURCE is a GGUF file,
which is de-quantised to fp32, a folder with safetensors, whose files are copied, or an adapter for the model in BASE.
Exit codes: 0 done, 65 not supported (standard error says why), 28 disk full.
"""

import errno
import json
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

from node.engine.adapter import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    TOKENIZER_FILES,
    canonical_config,
    check_modules,
    own_files,
    read_adapter_config,
)
from node.engine.architectures import ARCHITECTURES, GGUF_ARCHITECTURES
from node.engine.errors import UnsupportedModelError
from node.engine.tensor_file import not_finite, read_header
from node.engine.tokenizer import PromptTokenizer

EXIT_UNSUPPORTED = 65
EXIT_DISK_FULL = errno.ENOSPC
_SETTINGS = ("config.json", "generation_config.json")
_KEPT = (*_SETTINGS, *TOKENIZER_FILES)


def main(source: Path, destination: Path, base: Path | None = None) -> int:
    """Convert and say by exit code how it went."""
    try:
        destination.mkdir(parents=True)
        if base is not None:
            copy_adapter(source, destination, base)
        elif source.is_dir():
            copy_folder(source, destination)
        else:
            convert_gguf(source, destination)
        check_tokenizer(destination)
        compile_kernels()
    except UnsupportedModelError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_UNSUPPORTED
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_DISK_FULL if error.errno == errno.ENOSPC else 1
    return 0


def compile_kernels() -> None:
    """Have the CPU's kernels compiled and kept, which takes seconds: better now than when the model first starts."""
    from node.engine.cpu_attention import compile_all

    compile_all()


def copy_folder(source: Path, destination: Path) -> None:
    """Take over a model that is in safetensors already."""
    weights = sorted(source.glob("*.safetensors"))
    missing = [name for name in ("config.json", "tokenizer.json") if not (source / name).is_file()]
    missing += [] if weights else ["*.safetensors"]
    if missing:
        raise UnsupportedModelError(
            f"{source} lacks {', '.join(missing)}; a model's folder has config.json, tokenizer.json and safetensors"
        )
    check_settings(source / "config.json")
    for file in weights:
        read_header(file)
    _copy(source, destination, _KEPT)
    for file in weights:
        shutil.copyfile(file, destination / file.name)


def copy_adapter(source: Path, destination: Path, base: Path) -> None:
    """Take over an adapter: what we understood of its settings, its tensors, and its base's small files."""
    config = read_adapter_config(source)
    modules = check_modules(source, config, base)
    if (name := not_finite(source / ADAPTER_WEIGHTS)) is not None:
        raise UnsupportedModelError(f"the adapter's tensor {name} has values that are no finite numbers")
    own = own_files(source, base)
    # A tokenizer's settings without the tokenizer that they are for would be worse than none.
    inherited = _KEPT if TOKENIZER_FILES[0] not in own else _SETTINGS
    _copy(base, destination, inherited)
    _copy(source, destination, own)
    (destination / ADAPTER_CONFIG).write_text(canonical_config(config, modules), encoding="utf-8")
    shutil.copyfile(source / ADAPTER_WEIGHTS, destination / ADAPTER_WEIGHTS)


def _copy(source: Path, destination: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, destination / name)


def convert_gguf(source: Path, destination: Path) -> None:
    """De-quantise a GGUF file with transformers' own reading of it."""
    import gguf
    import torch

    # transformers parses the whole file three times and rebuilds the name map for every submodule: most of a minute.
    # This process only converts one file, so both may be remembered.
    gguf.GGUFReader = cache(gguf.GGUFReader)
    gguf.get_tensor_name_map = cache(gguf.get_tensor_name_map)
    check_gguf(source)
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    try:
        config = AutoConfig.from_pretrained(**where)
        check_architecture(config.model_type)
        tokenizer = AutoTokenizer.from_pretrained(**where)
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config)
        tensors = load_gguf_checkpoint(str(source), return_tensors=True, model_to_load=empty)["tensors"]
    except (ValueError, KeyError, NotImplementedError) as error:
        raise UnsupportedModelError(f"this GGUF file can't be read: {_one_line(error)}") from error
    config.save_pretrained(destination)
    tokenizer.save_pretrained(destination)
    mend_pre_tokenizer(source, destination / "tokenizer.json")
    weights = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(weights, destination / "model.safetensors", metadata={"format": "pt"})


def check_gguf(source: Path) -> None:
    """Whole, of an architecture that we run, in quantisations that can be undone; else UnsupportedModelError."""
    import gguf

    try:
        reader = gguf.GGUFReader(str(source))
    except (ValueError, KeyError, IndexError, OverflowError) as error:  # as numpy and enum say it
        raise UnsupportedModelError(
            f"{source.name} is cut short, or no GGUF file ({_one_line(error)}); fetch it again"
        ) from error
    field = reader.get_field("general.architecture")
    name = None if field is None else str(field.contents())
    if name not in GGUF_ARCHITECTURES:
        known = ", ".join(GGUF_ARCHITECTURES)
        raise UnsupportedModelError(f"GGUF architecture {name!r} is not supported; these are: {known}")
    unread = sorted({_show_type(tensor) for tensor in reader.tensors if not _can_dequantise(tensor)})
    if unread:
        raise UnsupportedModelError(
            f"{source.name} has tensors quantised as {', '.join(unread)}, which can't be undone here; "
            "take the model as safetensors, or in another quantisation (Q8_0, Q4_K_M, Q4_1 ...)"
        )


def _can_dequantise(tensor: Any) -> bool:  # noqa: ANN401 - gguf has no types
    from gguf.quants import dequantize

    try:
        dequantize(tensor.data[:1], tensor.tensor_type)
    except NotImplementedError:
        return False
    return True


def _show_type(tensor: Any) -> str:  # noqa: ANN401 - gguf has no types
    return str(tensor.tensor_type.name)


def check_settings(file: Path) -> None:
    """A config.json of an architecture that we run; else UnsupportedModelError."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        model_type, context = settings.get("model_type"), settings.get("max_position_embeddings")
    except (ValueError, AttributeError, RecursionError) as error:
        raise UnsupportedModelError(f"{file.name} can't be read: {error}") from error
    check_architecture(model_type)
    if not isinstance(context, int) or context < 1:
        raise UnsupportedModelError(
            f"{file.name} does not say how long a context may be: max_position_embeddings"
        )


def check_architecture(model_type: object) -> None:
    """Raise UnsupportedModelError unless the runner knows this model_type."""
    if model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UnsupportedModelError(f"architecture {model_type!r} is not supported; these are: {known}")


def check_tokenizer(folder: Path) -> None:
    """Raise UnsupportedModelError unless the tokenizer can be loaded and gives no ids that the model doesn't have."""
    tokenizer = PromptTokenizer(folder)
    size = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("vocab_size")
    if isinstance(size, int) and tokenizer.highest_id >= size:
        raise UnsupportedModelError(
            f"the tokenizer has an id {tokenizer.highest_id}, the model only {size} tokens from 0 on"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def mend_pre_tokenizer(source: Path, tokenizer_file: Path) -> None:
    """Split numbers into digits where the GGUF says so: transformers ignores `tokenizer.ggml.pre`."""
    if _pre_tokenizer_name(source) != "smollm":
        return
    tokenizer = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    digits = {"type": "Digits", "individual_digits": True}
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, tokenizer["pre_tokenizer"]]}
    tokenizer_file.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def _pre_tokenizer_name(source: Path) -> str | None:
    from gguf import GGUFReader

    field = GGUFReader(str(source)).get_field("tokenizer.ggml.pre")
    return None if field is None else str(field.contents())


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
