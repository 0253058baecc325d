"""What a fetched model consists of, and the id that follows from it."""

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from node.engine.adapter import (
    ADAPTER_WEIGHTS,
    canonical_config,
    check_modules,
    own_files,
    read_adapter_config,
)
from node.engine.fetch import HUB_FILES
from node.engine.manifest import CountBytes, file_blocks, ignore_count
from overlay.wire.prompt import ModelId

_ID_LABEL = b"clove-model/1"
_ADAPTER_LABEL = b"clove-adapter/1"


def content_id(fetched: Path, count: CountBytes = ignore_count) -> ModelId:
    """The model id: `m-` and 40 hex digits of a hash over what decides the output.

    For GGUF that is the file, which holds weights, tokenizer and template. For a folder it is the files that we keep,
    by name. Not over our converted files: their bytes may change with a library's version, the model does not.
    """
    if fetched.is_file():
        return _hash(_ID_LABEL, b"", [("gguf", fetched)], count)
    named = [(path.name, path) for pattern in HUB_FILES for path in sorted(fetched.glob(pattern))]
    return _hash(_ID_LABEL, b"", named, count)


def adapter_id(fetched: Path, base_id: ModelId, base: Path, count: CountBytes = ignore_count) -> ModelId:
    """The model id of an adapter on a base: of the base's id, of what the adapter's settings mean, and of its files.

    Raises:
        UnsupportedModelError: it is no adapter that can be applied to this base.
    """
    config = read_adapter_config(fetched)
    meaning = canonical_config(config, check_modules(fetched, config, base))
    files = [(name, fetched / name) for name in (ADAPTER_WEIGHTS, *own_files(fetched, base))]
    return _hash(_ADAPTER_LABEL, f"{base_id}\0{meaning}\0".encode(), files, count)


def content_bytes(fetched: Path) -> int:
    """How much there is to read of a model's weights."""
    if fetched.is_file():
        return fetched.stat().st_size
    return sum(path.stat().st_size for path in fetched.glob("*.safetensors"))


def _hash(label: bytes, head: bytes, files: list[tuple[str, Path]], count: CountBytes) -> ModelId:
    digest = blake2b(head, digest_size=20, person=label)
    for block in _framed(files, count):
        digest.update(block)
    return ModelId(f"m-{digest.hexdigest()}")


def _framed(files: list[tuple[str, Path]], count: CountBytes) -> Iterator[bytes]:
    for name, path in files:
        yield f"{name}\0{path.stat().st_size}\0".encode()
        yield from file_blocks(path, count)
