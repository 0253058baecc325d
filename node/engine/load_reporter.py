"""When the worker says how busy its models are.

Once commands were taken, since they change it; when a model has nothing left to do; and otherwise a few times a second:
a forecast takes about a millisecond, some more where queues are long.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from node.engine.events import EngineLoad
from node.engine.protocol import Command, LoadReport, Report, Submit
from overlay.wire.prompt import ModelId

REPORT_EVERY_S = 0.25


class Reported(Protocol):
    """What is reported on: a `node.engine.model_engine.ModelEngine`."""

    @property
    def is_idle(self) -> bool:
        """There is nothing to compute."""
        ...

    @property
    def load(self) -> EngineLoad:
        """How busy it is."""
        ...


class LoadReporter:
    """Reports on the models of one worker."""

    def __init__(
        self,
        engines: Mapping[ModelId, Reported],
        send: Callable[[Report], None],
        clock: Callable[[], float],
    ) -> None:
        self._engines = engines
        self._send = send
        self._clock = clock
        self._taken = dict.fromkeys(engines, 0)
        self._told_at = dict.fromkeys(engines, -REPORT_EVERY_S)

    def note(self, command: Command | Report) -> None:
        """A command was taken."""
        if isinstance(command, Submit) and command.model_id in self._taken:
            self._taken[command.model_id] = command.request

    def commands_taken(self) -> None:
        """Several were; what they changed is told before the step that follows, which may be a long one."""
        for model_id in self._engines:
            self._tell(model_id)

    def step_done(self, model_id: ModelId) -> None:
        """A step was computed."""
        is_due = self._clock() - self._told_at[model_id] >= REPORT_EVERY_S
        if is_due or self._engines[model_id].is_idle:
            self._tell(model_id)

    def _tell(self, model_id: ModelId) -> None:
        self._told_at[model_id] = self._clock()
        self._send(LoadReport(self._engines[model_id].load, self._taken[model_id]))
