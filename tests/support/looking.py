"""Looking at other processes until they are so far."""

import time

from node.clock import monotonic

LOOK_S = 0.1
"""Between two looks: without a pause the looks would take half a core from those that are looked at."""


def look_until(is_so, timeout_s, problem="not in time"):
    """What `is_so` returns once that is true. problem: what to say where it never is; may be a function."""
    deadline = monotonic() + timeout_s
    while not (found := is_so()):
        assert monotonic() < deadline, problem() if callable(problem) else problem
        time.sleep(LOOK_S)
    return found
