"""Brings a testbed up for a person to watch: the model first, then the processes, with a progress bar."""

import sys
from collections.abc import Mapping
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from node.cli.output import note
from node.errors import UsageError
from node.home import Home
from node.model_pull import has_model, pull_with_progress
from node.testbed import Progress, bring_up, is_running
from node.testbed_plan import lay_out
from node.testbed_record import NetworkRecord, read_record


def start_testbed(
    base: Home, nodes: int, models: int, model: str, timeout_s: float, settings: Mapping[str, object]
) -> NetworkRecord:
    """Start a network under a home and wait until it answers.

    Raises:
        UsageError: one runs there already, or its size makes no sense.
        NodeError: the model can't be had, or the network did not come up.
    """
    running = read_record(base)
    if running is not None and any(is_running(node) for node in running.nodes):
        raise UsageError(f"a testbed runs under {base.path} already", "end it: clove testbed down")
    base.create()
    plan = lay_out(base, nodes=nodes, models=models, model=model, settings=settings)
    if not has_model(base.models_dir, model):
        pull_with_progress(base.models_dir, model)
    with _Display(len(plan.nodes)) as display:
        return bring_up(base, plan, timeout_s=timeout_s, show=display.show)


class _Display:
    """A bar on a terminal; elsewhere a line whenever what is waited for changes."""

    def __init__(self, total: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._is_terminal = sys.stderr.isatty()
        self._bar = Bar(*columns, console=Console(stderr=True), disable=not self._is_terminal, transient=True)
        self._task = self._bar.add_task("starting", total=total)
        self._last = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, progress: Progress) -> None:
        """Say how far it is."""
        waiting = progress.waiting_for
        description = f"waiting for {waiting}" if waiting else "ready"
        self._bar.update(self._task, description=description, completed=progress.listening)
        kind = waiting.partition(":")[0] if ":" in waiting else waiting and "processes"
        if not self._is_terminal and kind and kind != self._last:
            self._last = kind
            note(f"testbed: waiting for {'processes' if kind == 'processes' else waiting}")
