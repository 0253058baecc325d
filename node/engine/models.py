"""The models that a node has on disk, and how to find, check and remove one.

Each model is a folder named by its alias under one store folder, with a manifest. `node.engine.pull` fills it.
"""

import fcntl
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from node.engine.errors import (
    MissingBaseError,
    ModelDamagedError,
    ModelNeededError,
    UnknownModelError,
)
from node.engine.manifest import MANIFEST, CountBytes, Manifest, ignore_count, read_manifest
from overlay.wire.prompt import ModelId

PARTIAL_PREFIX = ".partial-"

# What sources.make_alias gives: a plain folder name, which can't lead out of the store.
_ALIAS = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model on disk."""

    folder: Path
    manifest: Manifest

    @property
    def model_id(self) -> ModelId:
        """Hash of what decides its output."""
        return self.manifest.model_id

    @property
    def alias(self) -> str:
        """Its readable name."""
        return self.manifest.alias


class ModelStore:
    """A folder of models. Several processes may share one: readers need no lock, writers take `locked`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def list(self) -> tuple[ModelRecord, ...]:
        """Every model whose manifest can be read, by alias."""
        if not self.folder.is_dir():
            return ()
        records = (self._read(entry) for entry in sorted(self.folder.iterdir()) if _is_model(entry))
        return tuple(record for record in records if record is not None)

    def find(self, name: str) -> ModelRecord:
        """A model by alias or model id, its files there and of the right sizes, and its base's too if it has one.

        Raises:
            UnknownModelError: there is none of that name.
            ModelDamagedError: a file of it is missing or has the wrong size.
            MissingBaseError: it is an adapter, and its base is not stored.
        """
        record = self._lookup(name)
        record.manifest.check_sizes(record.folder)
        self.weights_of(record)
        return record

    def check(self, name: str, count: CountBytes = ignore_count) -> ModelRecord:
        """Like find, but reads and hashes every byte of this model."""
        record = self._lookup(name)
        record.manifest.check_content(record.folder, count)
        self.weights_of(record)
        return record

    def weights_of(self, record: ModelRecord) -> Path:
        """The folder with the weights of a model, before its adapter changes them: its own, or its base's.

        Raises:
            MissingBaseError, ModelDamagedError: as for find.
        """
        base = record.manifest.base
        if base is None:
            return record.folder
        try:
            found = self._lookup(base.model_id)
        except UnknownModelError:
            raise MissingBaseError(
                f"model {record.alias} is an adapter for {base.alias} ({base.model_id}), which is not stored; "
                f"bring it back: clove models pull {base.alias}"
            ) from None
        found.manifest.check_sizes(found.folder)
        return found.folder

    def check_unneeded(self, model_id: ModelId) -> None:
        """Raise ModelNeededError if a stored adapter has this model as its base, and no copy of it is stored."""
        records = self.list()
        of_it = [r for r in records if r.manifest.base is not None and r.manifest.base.model_id == model_id]
        copies = sum(record.model_id == model_id for record in records)
        if of_it and copies == 1:
            names = ", ".join(record.alias for record in of_it)
            raise ModelNeededError(
                f"{names} can't do without this base; remove first: clove models rm {of_it[0].alias}"
            )

    def remove(self, name: str) -> None:
        """Delete a model. A process that serves it keeps its mapped weights until it ends.

        Raises:
            UnknownModelError: there is none of that name.
            ModelNeededError: it is the base of an adapter that is stored.
        """
        with self.locked():
            try:
                record = self._lookup(name)
                folder = record.folder
                self.check_unneeded(record.model_id)
            except ModelDamagedError:
                folder = self.folder / name
            shutil.rmtree(folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process at a time adds or removes models; leftovers of one that was killed are cleared."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in self.folder.glob(f"{PARTIAL_PREFIX}*"):
                shutil.rmtree(left, ignore_errors=True)
            yield

    def place(self, finished: Path, alias: str) -> ModelRecord:
        """Move a finished model folder to its name, in one rename, over an older one if there is one.

        Call it with the lock held.
        """
        target = self.folder / alias
        if target.exists():
            target.rename(finished.with_name(f"{finished.name}-old"))
        finished.rename(target)
        return ModelRecord(target, read_manifest(target))

    def _lookup(self, name: str) -> ModelRecord:
        records = self.list()
        for record in records:
            if name in (record.alias, record.model_id):
                return record
        if _ALIAS.fullmatch(name) and (self.folder / name).is_dir():
            read_manifest(self.folder / name)  # says what is wrong with it
        raise UnknownModelError(name, tuple(record.alias for record in records))

    @staticmethod
    def _read(folder: Path) -> ModelRecord | None:
        try:
            return ModelRecord(folder, read_manifest(folder))
        except ModelDamagedError:
            return None


def _is_model(entry: Path) -> bool:
    return not entry.name.startswith(".") and (entry / MANIFEST).is_file()


def weights_folder(folder: Path, manifest: Manifest) -> Path:
    """The folder with the weights that a stored model starts from; raises like `ModelStore.find`."""
    return ModelStore(folder.parent).weights_of(ModelRecord(folder, manifest))
