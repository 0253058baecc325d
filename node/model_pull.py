"""Pulls a model with a progress bar on a terminal, or a line a stage elsewhere."""

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from node.engine.errors import DiskFullError, EngineError
from node.engine.models import ModelRecord, ModelStore
from node.engine.pull import PullProgress, pull
from node.engine.sources import parse_source
from node.errors import NodeError

_STAGES = {
    "check": "looking",
    "download": "fetching",
    "unpack": "unpacking",
    "convert": "converting",
    "done": "done",
}


def pull_with_progress(store_folder: Path, source_text: str) -> ModelRecord:
    """Bring a model into the store and show how far it is.

    Raises:
        NodeError: the source is unknown, unreachable or of a kind that can't be run, or the disk is full.
    """
    try:
        source = parse_source(source_text)
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as bar:
            task = bar.add_task(source.alias, total=None)
            stages: list[str] = []

            def show(progress: PullProgress) -> None:
                if stages[-1:] != [progress.stage]:
                    stages.append(progress.stage)
                    if not sys.stderr.isatty() and progress.stage not in ("check", "done"):
                        print(f"{source.alias}: {_STAGES[progress.stage]}", file=sys.stderr, flush=True)
                description = f"{_STAGES[progress.stage]} {source.alias}"
                bar.update(
                    task, description=description, completed=progress.done_bytes, total=progress.total_bytes
                )

            return pull(ModelStore(store_folder), source, show)
    except DiskFullError as error:
        raise NodeError(
            str(error), "free some room, or set CLOVE_MODELS to a folder on another disk"
        ) from None
    except EngineError as error:
        raise NodeError(str(error)) from None
    except OSError as error:
        raise NodeError(f"the model can't be stored in {store_folder}: {error.strerror}") from None


def has_model(store_folder: Path, alias: str) -> bool:
    """Whether a model is stored with every file of the right size."""
    try:
        ModelStore(store_folder).find(alias)
    except EngineError:
        return False
    return True
