"""What a stored model consists of: `manifest.json` in its folder, written last."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from node.engine.errors import ModelDamagedError
from overlay.wire.prompt import ModelId

MANIFEST = "manifest.json"
FORMAT = 1
_BLOCK_BYTES = 1 << 20

CountBytes = Callable[[int], None]
"""Told of so many more bytes that were read."""


def ignore_count(_: int) -> None:
    """Nobody is watching."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a stored model and what it must be."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Base:
    """The stored model whose weights an adapter changes; the alias is what it was called then."""

    model_id: ModelId
    alias: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A stored model: its names, where it came from, and its files. base: of an adapter, whose weights are changes."""

    model_id: ModelId
    alias: str
    source: str
    architecture: str
    context_tokens: int
    files: tuple[StoredFile, ...]
    base: Base | None = None

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.size for file in self.files)

    def check_sizes(self, folder: Path) -> None:
        """Every file is there and as long as it was: cheap enough for each start.

        Raises:
            ModelDamagedError: one is not.
        """
        for file in self.files:
            path = folder / file.name
            if not path.is_file():
                raise ModelDamagedError(self.alias, file.name, "is missing")
            if (found := path.stat().st_size) != file.size:
                raise ModelDamagedError(self.alias, file.name, f"has {found} bytes instead of {file.size}")

    def check_content(self, folder: Path, count: CountBytes = ignore_count) -> None:
        """Every byte is as it was stored.

        Raises:
            ModelDamagedError: one is not.
        """
        self.check_sizes(folder)
        for file in self.files:
            if file_digest(folder / file.name, count) != file.digest:
                raise ModelDamagedError(self.alias, file.name, "is not what was stored")


def file_digest(path: Path, count: CountBytes = ignore_count) -> str:
    """BLAKE2b-256 of a file, hex."""
    digest = blake2b(digest_size=32)
    for block in file_blocks(path, count):
        digest.update(block)
    return digest.hexdigest()


def file_blocks(path: Path, count: CountBytes = ignore_count) -> Iterator[bytes]:
    """A file's bytes, a megabyte at a time."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            count(len(block))
            yield block


def describe_files(folder: Path, count: CountBytes = ignore_count) -> tuple[StoredFile, ...]:
    """The files of a folder as they are now, by name."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    return tuple(StoredFile(path.name, path.stat().st_size, file_digest(path, count)) for path in paths)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest beside the files it describes."""
    content: dict[str, object] = {
        "format": FORMAT,
        "model_id": manifest.model_id,
        "alias": manifest.alias,
        "source": manifest.source,
        "architecture": manifest.architecture,
        "context_tokens": manifest.context_tokens,
        "files": {file.name: {"bytes": file.size, "blake2b": file.digest} for file in manifest.files},
    }
    if manifest.base is not None:
        content["base"] = {"model_id": manifest.base.model_id, "alias": manifest.base.alias}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a stored model.

    Raises:
        ModelDamagedError: it is missing or not a manifest.
    """
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ModelDamagedError(folder.name, MANIFEST, f"has format {content['format']}, not {FORMAT}")
        return Manifest(
            model_id=ModelId(str(content["model_id"])),
            alias=str(content["alias"]),
            source=str(content["source"]),
            architecture=str(content["architecture"]),
            context_tokens=int(content["context_tokens"]),
            files=tuple(
                StoredFile(str(name), int(file["bytes"]), str(file["blake2b"]))
                for name, file in content["files"].items()
            ),
            base=_read_base(content.get("base")),
        )
    except FileNotFoundError as error:
        raise ModelDamagedError(folder.name, MANIFEST, "is missing") from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ModelDamagedError(folder.name, MANIFEST, f"can't be read ({error})") from error


def _read_base(content: dict[str, object] | None) -> Base | None:
    return None if content is None else Base(ModelId(str(content["model_id"])), str(content["alias"]))
