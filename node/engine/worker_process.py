"""One life of the worker process as the supervisor sees it: its pipes, what waits to be sent, what it complained of."""

import signal
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from subprocess import PIPE

import structlog
import trio

from node.engine.errors import EngineCrashedError, EngineError
from node.engine.launch import child_environment
from node.engine.memory import process_memory
from node.engine.memory_watch import MemoryWatch
from node.engine.protocol import Command, encode_frame

_LOG = structlog.get_logger(__name__)

_STDERR_LINES = 20


@dataclass(slots=True, eq=False)
class WorkerProcess:
    """One life of the worker process. awaited_since: since when it owes us a sign of life; None while it is idle."""

    process: trio.Process
    stdin: trio.abc.SendStream
    stdout: trio.abc.ReceiveStream
    stderr: trio.abc.ReceiveStream
    outbox: deque[Command] = field(default_factory=deque)
    filled: trio.Event = field(default_factory=trio.Event)
    complaints: deque[str] = field(default_factory=lambda: deque(maxlen=_STDERR_LINES))
    awaited_since: float | None = field(default_factory=trio.current_time)
    cause: str | None = None
    refusal: EngineError | None = None
    memory: MemoryWatch | None = None

    def post(self, command: Command) -> None:
        """Queue a command for the worker."""
        self.outbox.append(command)
        self.filled.set()
        if self.awaited_since is None:
            self.awaited_since = trio.current_time()

    def note_sign(self, *, has_work: bool) -> None:
        """It said something; with work left it has to say more."""
        self.awaited_since = trio.current_time() if has_work or self.outbox else None

    def look_at_memory(self, *, is_ready: bool) -> None:
        """Kill it if it has grown too large; `cause` then says so."""
        if self.memory is None:
            return
        problem = self.memory.note(process_memory(self.process.pid), is_ready=is_ready)
        if problem is not None and self.cause is None:
            self.cause = problem
            self.process.kill()


async def start_worker(command: Sequence[str], threads: int | None) -> WorkerProcess:
    """Start the process, its three streams piped to us. Raises EngineCrashedError where the system refuses."""
    try:
        process = await trio.lowlevel.open_process(
            command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=child_environment(threads)
        )
    except OSError as error:
        # No memory or no descriptors left, say: at a later try there may be.
        raise EngineCrashedError(f"it could not be started: {error}") from error
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise EngineCrashedError("it was started without pipes")
    return WorkerProcess(process, process.stdin, process.stdout, process.stderr)


async def write_commands(worker: WorkerProcess) -> None:
    """Send commands in order, as fast as the worker reads."""
    try:
        while True:
            while worker.outbox:
                await worker.stdin.send_all(encode_frame(worker.outbox.popleft()))
            worker.filled = trio.Event()
            await worker.filled.wait()
    except trio.BrokenResourceError:
        return  # it is dead; the reader sees that too


async def collect_complaints(worker: WorkerProcess) -> None:
    """Log what the worker writes to standard error, and keep its end for the cause of a crash."""
    async for data in worker.stderr:
        for line in bytes(data).decode("utf-8", "replace").splitlines():
            worker.complaints.append(line[:500])
            _LOG.debug("engine worker", line=line[:500])


def cause_of(worker: WorkerProcess) -> str:
    """Why it ended, for people."""
    if worker.cause is not None:
        return worker.cause
    code = worker.process.returncode
    if code == -signal.SIGKILL:
        return "it was killed by another (signal 9), as the system does when memory runs out"
    last = next((line for line in reversed(worker.complaints) if line.strip()), "it said nothing")
    return f"it ended with {code} ({last.strip()})"
