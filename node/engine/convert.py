"""Turns a fetched model into the files that the runner maps: safetensors, config, tokenizer, chat template.

Run as `python -m node.engine.convert SOURCE DESTINATION`, in a process of its own: it needs torch and transformers and
a gigabyte of memory for some seconds, and the daemon should have none of that. SOURCE is a GGUF file, which is
de-quantised to fp32, or a folder with safetensors, whose files are copied. Exit codes: 0 done, 65 not supported
(standard error says why), 28 disk full.
"""

import errno
import json
import shutil
import sys
from functools import cache
from pathlib import Path

from node.engine.architectures import ARCHITECTURES
from node.engine.errors import UnsupportedModelError

EXIT_UNSUPPORTED = 65
EXIT_DISK_FULL = errno.ENOSPC
_KEPT = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


def main(source: Path, destination: Path) -> int:
    """Convert and say by exit code how it went."""
    try:
        destination.mkdir(parents=True)
        if source.is_dir():
            copy_folder(source, destination)
        else:
            convert_gguf(source, destination)
    except UnsupportedModelError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_UNSUPPORTED
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_DISK_FULL if error.errno == errno.ENOSPC else 1
    return 0


def copy_folder(source: Path, destination: Path) -> None:
    """Take over a model that is in safetensors already."""
    weights = sorted(source.glob("*.safetensors"))
    missing = [name for name in ("config.json", "tokenizer.json") if not (source / name).is_file()]
    if missing or not weights:
        raise UnsupportedModelError(f"{source} lacks {', '.join(missing) or 'safetensors files'}")
    settings = json.loads((source / "config.json").read_text(encoding="utf-8"))
    check_architecture(settings.get("model_type"))
    for name in _KEPT:
        if (source / name).is_file():
            shutil.copyfile(source / name, destination / name)
    for file in weights:
        shutil.copyfile(file, destination / file.name)


def convert_gguf(source: Path, destination: Path) -> None:
    """De-quantise a GGUF file with transformers' own reading of it."""
    import gguf
    import torch

    # transformers parses the whole file three times and rebuilds the name map for every submodule: most of a minute.
    # This process only converts one file, so both may be remembered.
    gguf.GGUFReader = cache(gguf.GGUFReader)
    gguf.get_tensor_name_map = cache(gguf.get_tensor_name_map)
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
        raise UnsupportedModelError(f"this GGUF file can't be read: {error}") from error
    config.save_pretrained(destination)
    tokenizer.save_pretrained(destination)
    mend_pre_tokenizer(source, destination / "tokenizer.json")
    weights = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(weights, destination / "model.safetensors", metadata={"format": "pt"})


def check_architecture(model_type: object) -> None:
    """Raise UnsupportedModelError unless the runner knows this model_type."""
    if model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UnsupportedModelError(f"architecture {model_type!r} is not supported; these are: {known}")


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
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
