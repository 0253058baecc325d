"""How much memory the machine can still give, and how much a process has. None where the system doesn't say."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_KIB = 1024
_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Bytes that a process has in memory. mapped: of files, which it shares, and which the system can take back."""

    own: int
    mapped: int


def process_memory(pid: int, proc: Path = _PROC) -> ProcessMemory | None:
    """What a process has now; None for one that is gone, and where there is no /proc."""
    found = _read_table(proc / str(pid) / "status")
    try:
        own = found["RssAnon"] + found.get("RssShmem", 0)
        return ProcessMemory(own * _KIB, found["RssFile"] * _KIB)
    except KeyError:
        return None


def available_memory(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int | None:
    """Bytes that can be taken without swapping: of the machine, and within the limits of our control groups."""
    machine = _read_table(proc / "meminfo").get("MemAvailable")
    rooms = list(_cgroup_rooms(proc, cgroups))
    if machine is not None:
        rooms.append(machine * _KIB)
    return max(0, min(rooms)) if rooms else None


def _cgroup_rooms(proc: Path, cgroups: Path) -> Iterator[int]:
    """What is left of each limit on us, from our own group up to the root: a limit holds for all below it."""
    for line in _read_text(proc / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        root = cgroups / "memory" if controllers else cgroups
        files = _VERSION_1 if controllers else _VERSION_2
        # In a container the path is the host's; what is mounted is then our own group.
        named = Path(os.path.normpath(root / path.strip("/")))
        group = named if named.is_relative_to(root) and named.is_dir() else root
        while group.is_relative_to(root):
            room = _room_of(group, *files)
            if room is not None:
                yield room
            group = group.parent


def _room_of(group: Path, limit_file: str, usage_file: str, reclaimable: str) -> int | None:
    try:
        limit = int(_read_text(group / limit_file))
        usage = int(_read_text(group / usage_file))
    except ValueError:  # there is none, or it says "max"
        return None
    return limit - usage + _read_table(group / "memory.stat").get(reclaimable, 0)


def _read_table(file: Path) -> dict[str, int]:
    """Lines of a name and a number, with or without colon and unit."""
    table = {}
    for line in _read_text(file).splitlines():
        name, *values = line.replace(":", " ").split()[:2] or [""]
        if values and values[0].isdecimal():
            table[name] = int(values[0])
    return table


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
