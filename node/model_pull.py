"""Pulls a model with a progress bar on a terminal, or a line a stage elsewhere."""

import sys
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from node.engine.errors import DiskFullError, EngineError
from node.engine.models import ModelRecord, ModelStore
from node.engine.pull import Wanted, pull
from node.engine.pull_progress import PullProgress, Stage
from node.engine.sources import parse_source
from node.errors import NodeError

_STAGES: dict[Stage, str] = {
    "check": "looking for",
    "download": "fetching",
    "unpack": "unpacking",
    "read": "reading",
    "copy": "copying",
    "convert": "converting",
    "record": "recording",
    "done": "done with",
}
_QUIET: tuple[Stage, ...] = ("check", "done")


def pull_with_progress(
    store_folder: Path, source_text: str, *, alias: str | None = None, base: str | None = None
) -> ModelRecord:
    """Bring a model into the store and show how far it is. alias: its name there; base: of an adapter.

    Raises:
        NodeError: the source is unknown, unreachable or of a kind that can't be run, or the disk is full.
    """
    try:
        wanted = Wanted(source=parse_source(source_text), alias=alias, base=base)
        with _Shown(wanted.name) as shown:
            return pull(ModelStore(store_folder), wanted, shown.show)
    except DiskFullError as error:
        raise NodeError(
            str(error), "free some room, or set CLOVE_MODELS to a folder on another disk"
        ) from None
    except EngineError as error:
        raise NodeError(str(error)) from None
    except OSError as error:
        raise NodeError(f"the model can't be stored in {store_folder}: {error.strerror}") from None


class _Shown:
    """A bar for the stage that runs, on a terminal; it goes when all is done. Elsewhere a line as each begins."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._stage: Stage | None = None
        self._is_terminal = sys.stderr.isatty()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeElapsedColumn(),
        )
        self._bar = Progress(
            *columns, console=Console(stderr=True), disable=not self._is_terminal, transient=True
        )
        self._task = self._bar.add_task(name, total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, progress: PullProgress) -> None:
        """Take over what a pull tells of itself."""
        if progress.stage != self._stage:
            self._begin(progress.stage)
        self._bar.update(self._task, completed=progress.done_bytes, total=progress.total_bytes)

    def _begin(self, stage: Stage) -> None:
        self._stage = stage
        self._bar.reset(self._task, description=f"{_STAGES[stage]} {self._name}", total=None)
        if not self._is_terminal and stage not in _QUIET:
            print(f"{self._name}: {_STAGES[stage]}", file=sys.stderr, flush=True)


def has_model(store_folder: Path, alias: str) -> bool:
    """Whether a model is stored with every file of the right size."""
    try:
        ModelStore(store_folder).find(alias)
    except EngineError:
        return False
    return True
