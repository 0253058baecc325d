"""How a child Python process of ours is started: the same interpreter, with these rooms importable."""

import os
import sys
from pathlib import Path

THREAD_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "7000"}


def module_command(module: str) -> tuple[str, ...]:
    """The arguments that run a module of this tree as a process of its own."""
    return (sys.executable, "-m", module)


def child_environment(threads: int | None = None) -> dict[str, str]:
    """Our environment, with the folder that holds `node` importable and its thread pools told their size.

    Threads that wait for the next of many small operations spin for some microseconds, then sleep. Sleeping at once
    takes a third of an engine's speed; spinning on, two engines of two threads each on two cores fall to an eighth.
    """
    root = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([root, inherited]) if inherited else root
    environment.update(THREAD_WAITING)
    environment.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TRANSFORMERS_VERBOSITY="error")
    if threads is not None:
        environment.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    return environment
