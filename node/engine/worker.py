"""The worker process: loads models, then alternates between reading commands and computing steps.

Run as `python -m node.engine.worker` by `node.engine.supervisor`; commands come on standard input, reports go to
standard output, people's text to standard error. It ends when its input does, so it never outlives the daemon.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from node.engine.block_manager import CACHE_KEY_BYTES, scope_of
from node.engine.errors import EngineError, UnknownModelError
from node.engine.load_reporter import LoadReporter
from node.engine.protocol import (
    Beat,
    Cancel,
    Command,
    Configure,
    FrameReader,
    LoadFailed,
    Ready,
    Refused,
    Report,
    ReportCache,
    Submit,
    Told,
    encode_frame,
    report_error,
)
from overlay.wire.prompt import ModelId

if TYPE_CHECKING:
    from node.engine.model_engine import ModelEngine

_READ_BYTES = 1 << 16


class Pipes:
    """Frames in and out of two file descriptors."""

    def __init__(self, input_fd: int, output_fd: int) -> None:
        self._input_fd = input_fd
        self._output_fd = output_fd
        self._reader = FrameReader()

    def receive(self, *, wait: bool) -> list[Command | Report] | None:
        """The frames that have come, none perhaps; None once the other side is gone."""
        if not wait and not select.select([self._input_fd], [], [], 0)[0]:
            return []
        data = os.read(self._input_fd, _READ_BYTES)
        return list(self._reader.feed(data)) if data else None

    def send(self, report: Report) -> None:
        """Write a frame; waits while the pipe is full."""
        rest = memoryview(encode_frame(report))
        while rest:
            rest = rest[os.write(self._output_fd, rest) :]


def main() -> int:
    """Serve until the input ends."""
    # Ctrl-C reaches the whole process group; the daemon drains first and then closes our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipes = Pipes(0, _claim_stdout())
    configure = _await_configure(pipes)
    try:
        return 0 if configure is None else _serve(pipes, configure)
    except BrokenPipeError:
        return 0


def _claim_stdout() -> int:
    """Keep the report pipe for ourselves: whatever a library prints goes to standard error."""
    reports = os.dup(1)
    os.dup2(2, 1)
    return reports


def _await_configure(pipes: Pipes) -> Configure | None:
    while (frames := pipes.receive(wait=True)) is not None:
        for frame in frames:
            if isinstance(frame, Configure):
                return frame
    return None


def _serve(pipes: Pipes, configure: Configure) -> int:
    started = time.perf_counter()
    import torch

    from node.engine.loading import load_engines

    settings = configure.settings
    settings = replace(settings, cache_key=settings.cache_key or os.urandom(CACHE_KEY_BYTES))
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.set_grad_enabled(mode=False)
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.inference_mode():
        try:
            engines = load_engines([Path(folder) for folder in configure.folders], settings, device)
        except EngineError as error:
            pipes.send(LoadFailed(report_error(error)))
            return 1
        pipes.send(Ready(tuple(engine.card for engine in engines), time.perf_counter() - started))
        return _run(pipes, {engine.card.model_id: engine for engine in engines})


def _run(pipes: Pipes, engines: "dict[ModelId, ModelEngine]") -> int:
    reporter = LoadReporter(engines, pipes.send, time.perf_counter)
    while True:
        busy = {model_id: engine for model_id, engine in engines.items() if not engine.is_idle}
        commands = pipes.receive(wait=not busy)
        if commands is None:
            return 0
        for engine in engines.values():
            engine.admission.beside_s = sum(
                each.admission.step_s for each in busy.values() if each is not engine
            )
        for command in commands:
            _obey(pipes, engines, command)
            reporter.note(command)
        if commands:
            reporter.commands_taken()
            _tell_cache(pipes, engines.values())
        for model_id, engine in busy.items():
            outputs = engine.step() if not engine.is_idle else []
            for request, event in outputs:
                pipes.send(Told(request, event))
            if not outputs:
                pipes.send(Beat())
            reporter.step_done(model_id)
            _tell_cache(pipes, [engine])


def _obey(pipes: Pipes, engines: "dict[ModelId, ModelEngine]", command: Command | Report) -> None:
    match command:
        case Submit():
            try:
                scope = scope_of(command.cache, command.session)
                engine = _engine(engines, command.model_id)
                for request, event in engine.submit(
                    command.request, command.prompt, command.forced_ids, scope, command.given_ids
                ):
                    pipes.send(Told(request, event))
            except EngineError as error:
                pipes.send(Refused(command.request, report_error(error)))
        case Cancel():
            for engine in engines.values():
                engine.cancel(command.request)
        case ReportCache(model_id, key):
            if model_id in engines:
                blocks = engines[model_id].public_blocks
                if key:
                    blocks.begin(key)
                else:
                    blocks.cease()
        case _:
            raise ValueError(f"a worker takes no {type(command).__name__}")


def _tell_cache(pipes: Pipes, engines: "Iterable[ModelEngine]") -> None:
    for engine in engines:
        for report in engine.public_blocks.reports():
            pipes.send(report)


def _engine(engines: "dict[ModelId, ModelEngine]", model_id: ModelId) -> "ModelEngine":
    if model_id not in engines:
        raise UnknownModelError(model_id)
    return engines[model_id]


if __name__ == "__main__":
    sys.exit(main())
