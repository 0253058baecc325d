"""How far a pull is, as it is told to whoever watches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from node.engine.manifest import CountBytes

Stage = Literal["check", "download", "unpack", "read", "copy", "convert", "record", "done"]
_STEP_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a stage is. total_bytes is None where it isn't known."""

    stage: Stage
    done_bytes: int = 0
    total_bytes: int | None = None


Progress = Callable[[PullProgress], None]


def ignore_progress(_: PullProgress) -> None:
    """Nobody is watching."""


def count_into(progress: Progress, stage: Stage, total_bytes: int) -> CountBytes:
    """A counter of bytes that reports the stage now and then, and begins it now."""
    done, told = 0, 0
    progress(PullProgress(stage, 0, total_bytes))

    def count(more: int) -> None:
        nonlocal done, told
        done += more
        if done - told >= _STEP_BYTES or done >= total_bytes:
            told = done
            progress(PullProgress(stage, done, total_bytes))

    return count
