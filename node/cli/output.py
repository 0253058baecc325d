"""Answers and data go to stdout, all else to stderr; text for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def note(text: str) -> None:
    """A line for the person at the terminal."""
    print(text, file=sys.stderr, flush=True)


def write(text: str) -> None:
    """A piece of the answer, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def print_json(value: Any) -> None:  # noqa: ANN401 -- any JSON value
    """A value for programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False), flush=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as their longest cell, plain enough for `cut` and `grep`."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    for line in [[name.upper() for name in columns], *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """One `name  value` a line."""
    listed = [(name, str(value)) for name, value in facts]
    width = max(len(name) for name, _ in listed)
    for name, value in listed:
        print(f"{name.ljust(width)}  {value}")


def short(node_id: str) -> str:
    """A node id as people read it."""
    return node_id[:12]


def span(seconds: float) -> str:
    """A time span as people read it."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
