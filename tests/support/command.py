"""The `clove` command, run as a process from this tree, with nothing of the caller's own configuration."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def clove(*words, home, timeout_s=60, **environment):
    """Run a command to its end; its output is text."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CLOVE_")}
    return subprocess.run(
        [sys.executable, "-m", "node", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**inherited, "CLOVE_HOME": str(home), "PYTHONPATH": str(ROOT), **environment},
        timeout=timeout_s,
        check=False,
    )
