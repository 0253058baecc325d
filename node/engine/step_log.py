"""A log of what steps took, for whoever wants to model this machine: one JSON line a step, no word of any prompt.

    {"answers": 3, "prompt_tokens": 16, "attended": 2310.0, "seconds": 0.0413}

It ends at MOST_BYTES; so it can be left on.
"""

import json
from contextlib import suppress
from pathlib import Path

from node.engine.step_time import StepWork

MOST_BYTES = 64 << 20


class StepLog:
    """Appends to one file. What can't be written is left out: an engine must not fail over its log."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def measured(self, work: StepWork, seconds: float) -> None:
        """A step took so long."""
        fields = {
            "answers": work.decodes,
            "prompt_tokens": work.prefill_tokens,
            "attended": work.attended,
            "seconds": round(seconds, 6),
        }
        with suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            if file.tell() < MOST_BYTES:
                file.write(json.dumps(fields) + "\n")
