"""What every benchmark prints: a table for people, then one line of JSON for programs."""

import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter, process_time_ns
from typing import Literal


@dataclass(frozen=True, slots=True)
class Target:
    """A bar that a figure should clear."""

    what: str
    value: float
    bar: float
    better: Literal["higher", "lower"]

    @property
    def is_met(self) -> bool:
        """Whether it does."""
        return self.value >= self.bar if self.better == "higher" else self.value <= self.bar


def timed(action: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start = perf_counter()
    action()
    return perf_counter() - start


def best_us(actions: Mapping[str, Callable[[], object]], *, calls: int, rounds: int) -> dict[str, float]:
    """CPU microseconds of one call of each action, the best of several rounds.

    Every round times every action, so that a busy machine slows all of them or none.
    """
    best = dict.fromkeys(actions, float("inf"))
    for _ in range(rounds):
        for name, action in actions.items():
            start = process_time_ns()
            for _ in range(calls):
                action()
            best[name] = min(best[name], (process_time_ns() - start) / calls / 1000)
    return best


def print_report(name: str, results: Mapping[str, object], targets: list[Target]) -> None:
    """Print the targets, then the JSON line. A missed target is a finding, not a failure."""
    for target in targets:
        verdict = "met" if target.is_met else "MISSED"
        print(f"{verdict}: {target.what}: {target.value} (bar {target.bar}, {target.better} is better)")
    report = {
        "name": name,
        "commit": find_commit(),
        "machine": describe_machine(),
        "results": results,
        "targets": [
            {
                "what": target.what,
                "value": target.value,
                "bar": target.bar,
                "better": target.better,
                "met": target.is_met,
            }
            for target in targets
        ],
    }
    print(json.dumps(report))


def describe_machine() -> str:
    """Processor and Python, no name."""
    return f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"


def find_commit() -> str:
    """The commit measured, or `unknown` outside a checkout."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"
