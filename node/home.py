"""The home folder of one daemon: where its files are, its keys, its lock.

Layout: config.toml, identity.key and admin.token (0600), state.sqlite, daemon.lock, daemon.json, models/,
logs/, testbed/. `CLOVE_HOME` names the folder, else the platform's data folder; `CLOVE_MODELS` may name a
model cache that several homes share.
"""

import contextlib
import fcntl
import json
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs

from node.errors import AlreadyRunningError, HomeError, KeyFileError

KEY_BYTES = 32
_TOKEN_BYTES = 32
_LOCK_TRIES = 10
_LOCK_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class DaemonInfo:
    """What a running daemon tells commands about itself, in daemon.json."""

    pid: int
    node_id: str
    api_url: str
    addresses: tuple[str, ...]
    started_unix: float


@dataclass(frozen=True, slots=True)
class Home:
    """Paths under one home folder, and what may be done with them."""

    path: Path

    @classmethod
    def locate(cls, given: Path | None = None) -> "Home":
        """The home asked for, else `CLOVE_HOME`, else the platform's data folder."""
        chosen = (
            given or os.environ.get("CLOVE_HOME") or platformdirs.user_data_dir("clovenet", appauthor=False)
        )
        return cls(Path(chosen).expanduser().absolute())

    @property
    def config_file(self) -> Path:
        """The TOML file; it may be absent."""
        return self.path / "config.toml"

    @property
    def identity_file(self) -> Path:
        """The Ed25519 seed that the node is known by."""
        return self.path / "identity.key"

    @property
    def admin_token_file(self) -> Path:
        """What a command sends to change the node."""
        return self.path / "admin.token"

    @property
    def state_file(self) -> Path:
        """The sqlite database of `node.store`."""
        return self.path / "state.sqlite"

    @property
    def lock_file(self) -> Path:
        """Locked while a daemon runs; holds its pid."""
        return self.path / "daemon.lock"

    @property
    def daemon_file(self) -> Path:
        """`DaemonInfo` of the running daemon."""
        return self.path / "daemon.json"

    @property
    def models_dir(self) -> Path:
        """The model cache."""
        shared = os.environ.get("CLOVE_MODELS")
        return Path(shared).expanduser().absolute() if shared else self.path / "models"

    @property
    def logs_dir(self) -> Path:
        """Where the testbed and background daemons write their logs."""
        return self.path / "logs"

    @property
    def testbed_dir(self) -> Path:
        """Homes and testbed.json of the local test network."""
        return self.path / "testbed"

    def create(self) -> None:
        """Make the folder, readable by its owner only. An existing one is left as it is.

        Raises:
            HomeError: it can't be made or is no folder.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise HomeError(
                f"home {self.path} can't be made: {error.strerror}", "set CLOVE_HOME elsewhere"
            ) from None

    def load_or_create_key(self, file: Path, create_bytes: int = KEY_BYTES) -> bytes:
        """The raw bytes of a key file, made at first use.

        Raises:
            KeyFileError: others may read it, its length is wrong, or it can't be read.
        """
        if not file.exists():
            write_private(file, secrets.token_bytes(create_bytes))
        key = read_private(file)
        if len(key) != create_bytes:
            raise KeyFileError(
                f"{file} is damaged: {len(key)} bytes instead of {create_bytes}",
                f"restore it from a copy, or remove it to start with a new key: rm {file}",
            )
        return key

    def identity_seed(self) -> bytes:
        """The node's Ed25519 seed: 32 bytes, stable across restarts."""
        return self.load_or_create_key(self.identity_file)

    def admin_token(self) -> str:
        """The token for requests that change the node or show its circuits and answers; made at first use."""
        if not self.admin_token_file.exists():
            write_private(self.admin_token_file, secrets.token_hex(_TOKEN_BYTES).encode())
        try:
            token = read_private(self.admin_token_file).decode("ascii").strip()
        except UnicodeDecodeError:
            token = ""
        if len(token) != 2 * _TOKEN_BYTES:
            raise KeyFileError(
                f"{self.admin_token_file} is damaged", f"remove it: rm {self.admin_token_file}"
            )
        return token

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold this home for one daemon.

        Raises:
            AlreadyRunningError: another daemon has it; the message says its pid.
        """
        self.create()
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _take(descriptor):
                pid = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
                raise AlreadyRunningError(
                    f"a daemon already runs on {self.path} (pid {pid})",
                    "stop it with `clove shutdown`, or give this one its own home: CLOVE_HOME=… clove up",
                )
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def holder(self) -> int | None:
        """The pid of the daemon that holds this home, None where none does: the lock is asked, not a file."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.read(descriptor, 32).decode("ascii", "replace").strip()
            return int(text) if text.isdecimal() else None
        else:
            return None
        finally:
            os.close(descriptor)

    def publish(self, info: DaemonInfo) -> None:
        """Write daemon.json, for commands to find this daemon."""
        write_private(self.daemon_file, json.dumps(asdict(info), indent=1).encode())

    def unpublish(self) -> None:
        """Remove daemon.json."""
        self.daemon_file.unlink(missing_ok=True)

    def daemon(self) -> DaemonInfo | None:
        """The daemon that runs on this home, None where none does or it isn't ready to be asked yet."""
        holder = self.holder()
        if holder is None:
            return None
        try:
            table = json.loads(self.daemon_file.read_text("utf-8"))
            info = DaemonInfo(
                pid=int(table["pid"]),
                node_id=str(table["node_id"]),
                api_url=str(table["api_url"]),
                addresses=tuple(map(str, table["addresses"])),
                started_unix=float(table["started_unix"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        # A file of a daemon that was killed lies there until the next one has written its own.
        return info if info.pid == holder else None


def _take(descriptor: int) -> bool:
    """Take the lock. Whoever asks for its holder has it for a moment, so a refusal counts when it repeats."""
    pause = threading.Event()
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pause.wait(_LOCK_PAUSE_S)
        else:
            return True
    return False


def read_private(file: Path) -> bytes:
    """Read a file that only its owner may read.

    Raises:
        KeyFileError: it is missing, unreadable, or open to others.
    """
    try:
        with file.open("rb") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            if mode & 0o077:
                raise KeyFileError(
                    f"{file} can be read by others (mode {mode:04o})", f"mend it: chmod 600 {file}"
                )
            return opened.read()
    except OSError as error:
        raise KeyFileError(f"{file} can't be read: {error.strerror}") from None


def write_private(file: Path, data: bytes) -> None:
    """Write a 0600 file whole or not at all.

    Raises:
        HomeError: the folder can't be written.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise HomeError(f"{file} can't be written: {error.strerror}") from None
