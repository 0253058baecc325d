"""What must hold of bytes that were captured while a prompt was answered (docs/threat-model.md)."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from overlay.wire.limits import CELL_BYTES, CELL_HEADER_BYTES

WINDOW = 8


@dataclass
class Seam:
    """What passed one relay once Noise was off: cells and sealed payloads of control frames, in and out."""

    cells_in: list[bytes] = field(default_factory=list)
    cells_out: list[bytes] = field(default_factory=list)
    payloads_in: list[bytes] = field(default_factory=list)
    payloads_out: list[bytes] = field(default_factory=list)


def assert_nothing_readable(captured: Sequence[bytes], secrets: Iterable[str]) -> None:
    """No 8 bytes of any secret stand anywhere in what was captured."""
    seen = _windows(captured)
    for secret in secrets:
        shared = np.intersect1d(_windows([secret.encode()]), seen, assume_unique=True)
        assert not shared.size, f"{shared.tobytes()[:64]!r} of {secret[:20]!r}... can be read"


def assert_one_size(cells: Iterable[bytes]) -> None:
    """Every cell is as long as every other one."""
    assert {len(cell) for cell in cells} == {CELL_BYTES}


def assert_nothing_recurs(seams: Mapping[str, Seam]) -> None:
    """Nothing that came into a relay leaves it again: 8 bytes of a body, less than the 16 that are promised."""
    for name, seam in seams.items():
        came = _windows([*map(_body, seam.cells_in), *seam.payloads_in])
        went = _windows([*map(_body, seam.cells_out), *seam.payloads_out])
        assert not np.intersect1d(came, went, assume_unique=True).size, (
            f"bytes that came into {name} left it again"
        )


def _body(cell: bytes) -> bytes:
    return cell[CELL_HEADER_BYTES:]


def _windows(items: Iterable[bytes]) -> np.ndarray:
    """Every 8 bytes that stand together in one of the items, each once, in order."""
    by_length: dict[int, list[bytes]] = defaultdict(list)
    for item in items:
        by_length[len(item)].append(item)
    found = [np.empty(0, np.uint64)]
    for length, alike in by_length.items():
        if length >= WINDOW:
            rows = np.frombuffer(b"".join(alike), np.uint8).reshape(-1, length)
            windows = np.lib.stride_tricks.sliding_window_view(rows, WINDOW, axis=1)
            found.append(windows.copy().view(np.uint64).ravel())
    return np.unique(np.concatenate(found))
