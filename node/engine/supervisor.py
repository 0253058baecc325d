"""The engine as the daemon has it: a worker process, watched, and the requests that it holds.

Life of the worker: started -> configured -> ready -> (crashed, stuck, or ended with the daemon). A crash fails only
the requests it held; it is then started again, after a pause that grows while starts fail. A worker that says nothing
for `stuck_after_s` while it has work is killed and counts as crashed. At the first start a model that can't be loaded
is the operator's problem: `serve` raises it.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
import trio

from node.engine.cache_feed import CacheFeeds
from node.engine.errors import EngineBusyError, EngineCrashedError, EngineError, UnknownModelError
from node.engine.events import (
    CacheReport,
    CacheScope,
    EngineEvent,
    GenerationFinished,
    ModelCard,
    PromptPrefilled,
    Replay,
)
from node.engine.gate import Gate
from node.engine.launch import module_command
from node.engine.memory import ProcessMemory
from node.engine.memory_watch import MemoryWatch
from node.engine.protocol import (
    Beat,
    Cancel,
    Command,
    Configure,
    FrameReader,
    LoadFailed,
    LoadReport,
    Ready,
    Refused,
    Report,
    Submit,
    Told,
    rebuild_error,
)
from node.engine.settings import EngineSettings
from node.engine.worker_process import (
    WorkerProcess,
    cause_of,
    collect_complaints,
    start_worker,
    write_commands,
)
from overlay.wire.prompt import Prompt

_LOG = structlog.get_logger(__name__)

_READ_BYTES = 1 << 16
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_CONCURRENT_REPLAYS = 2

WORKER_COMMAND = module_command("node.engine.worker")


@dataclass(slots=True, eq=False)
class _Pending:
    """A request that the worker holds, and where its news go."""

    news: trio.MemorySendChannel[EngineEvent | Replay | EngineError]
    since: float
    is_replay: bool


class Engine:
    """Answers prompts with the models in some stored folders.

    Args:
        models: folders of `node.engine.models.ModelStore`.
        settings: device, threads, bounds.
        command: how the worker is started; tests put a scripted one here.
    """

    def __init__(
        self,
        models: Sequence[Path],
        settings: EngineSettings | None = None,
        *,
        command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        self._folders = tuple(str(folder) for folder in models)
        self._settings = settings or EngineSettings()
        self._command = tuple(command)
        self._cards: tuple[ModelCard, ...] = ()
        self._worker: WorkerProcess | None = None
        self._pending: dict[int, _Pending] = {}
        self._next_request = 1
        self._replays = trio.CapacityLimiter(_CONCURRENT_REPLAYS)
        self._became_ready = trio.Event()
        self._down_because = "it has not been started"
        self.gate = Gate(self._settings)
        self.cache = CacheFeeds(self._post_if_ready)
        self.restarts = 0

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The models that are loaded; empty until the first start is through."""
        return self._cards

    @property
    def is_ready(self) -> bool:
        """Whether the worker takes requests now."""
        return self._worker is not None

    async def wait_ready(self) -> None:
        """Wait until the worker takes requests."""
        await self._became_ready.wait()

    @property
    def active_requests(self) -> int:
        """Answers being generated or waiting for it."""
        return sum(not pending.is_replay for pending in self._pending.values())

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker, for status and tests."""
        return None if self._worker is None else self._worker.process.pid

    @property
    def worker_memory(self) -> ProcessMemory | None:
        """What the worker had in memory when it was last looked at, a second ago at most."""
        return None if self._worker is None or self._worker.memory is None else self._worker.memory.seen

    def card(self, name: str) -> ModelCard:
        """The model of this alias or id. Raises UnknownModelError."""
        for card in self._cards:
            if name in (card.alias, card.model_id):
                return card
        raise UnknownModelError(name, tuple(card.alias for card in self._cards))

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the worker for ever, starting it again when it dies; started once the models are loaded.

        Raises:
            ModelError: the first start failed over a model's files.
            EngineCrashedError: the first start failed otherwise.
        """
        pause_s = _FIRST_PAUSE_S
        first = True
        while True:
            try:
                lived = await self._live_once(task_status if first else None)
            except EngineError as error:
                if first:
                    raise
                lived = False
                self._down_because = str(error)
            first = False
            pause_s = _FIRST_PAUSE_S if lived else min(pause_s * 2, _LONGEST_PAUSE_S)
            self.restarts += 1
            _LOG.warning("engine worker ended, starting it again", cause=self._down_because, pause_s=pause_s)
            await trio.sleep(pause_s)

    @asynccontextmanager
    async def generate(
        self,
        prompt: Prompt,
        *,
        cache: CacheScope = "session",
        session: bytes = b"",
        given_ids: tuple[int, ...] = (),
    ) -> AsyncGenerator[AsyncIterator[EngineEvent], None]:
        """Answer a prompt; the events end with GenerationFinished. Leaving the context cancels what is left.

        cache: with whose prompts it may share what is computed; session: a secret name of the session, if there is one.
        given_ids: the answer's first tokens, where another node has begun it; the events are of what follows.

        Raises:
            UnknownModelError, EngineBusyError, EngineCrashedError: on entering.
            PromptRefusedError, EngineBusyError, EngineCrashedError: from the events.
        """
        card = self.card(prompt.model)
        worker = self._ready_worker()
        self.gate.check_place(self.active_requests, len(worker.outbox))
        if self._pending:  # what was said last of a worker with nothing to do may be out of date
            self.gate.check_wait(card.model_id, trio.current_time())
        # Every event fits the buffer, so that a slow reader never holds up the others' tokens.
        room = min(prompt.sampler.max_tokens, card.context_tokens) + 3
        request, news = self._register(room, is_replay=False)
        worker.post(Submit(request, card.model_id, prompt, cache, session, None, given_ids))
        self.gate.sent(request, card.model_id, prompt)
        try:
            async with aclosing(_events(news)) as events:
                yield events
        finally:
            self._release(request, worker)

    async def replay(self, prompt: Prompt, output_ids: Sequence[int]) -> Replay:
        """Score a given answer by a fresh teacher-forced pass. Waits while two others are under way.

        Raises:
            UnknownModelError, PromptRefusedError, EngineCrashedError.
        """
        card = self.card(prompt.model)
        async with self._replays:
            worker = self._ready_worker()
            request, news = self._register(1, is_replay=True)
            worker.post(Submit(request, card.model_id, prompt, "none", b"", tuple(output_ids)))
            try:
                result = await news.receive()
            finally:
                self._release(request, worker)
        if isinstance(result, EngineError):
            raise result
        if not isinstance(result, Replay):
            raise EngineCrashedError(f"it answered a replay with {type(result).__name__}")
        return result

    def _ready_worker(self) -> WorkerProcess:
        if self._worker is None:
            raise EngineCrashedError(self._down_because)
        return self._worker

    def _post_if_ready(self, command: Command) -> bool:
        if self._worker is not None:
            self._worker.post(command)
        return self._worker is not None

    def _register(
        self, room: int, *, is_replay: bool
    ) -> tuple[int, trio.MemoryReceiveChannel[EngineEvent | Replay | EngineError]]:
        send, receive = trio.open_memory_channel[EngineEvent | Replay | EngineError](room)
        request = self._next_request
        self._next_request += 1
        self._pending[request] = _Pending(send, trio.current_time(), is_replay)
        return request, receive

    def _release(self, request: int, worker: WorkerProcess) -> None:
        self.gate.gone(request)
        if self._pending.pop(request, None) is not None and worker is self._worker:
            worker.post(Cancel(request))

    async def _live_once(self, task_status: trio.TaskStatus[None] | None) -> bool:
        """One life of the worker; whether it ever was ready. Raises what kept it from becoming so."""
        worker = await start_worker(self._command, self._settings.threads or None)
        worker.memory = MemoryWatch(self._settings.cache_bytes, self._settings.slack_bytes)
        try:
            return await self._attend(worker, task_status)
        except trio.Cancelled:
            self._down_because = "it was stopped"
            raise
        finally:
            self._worker = None
            self.gate.forget()
            self.cache.worker_gone()
            self._became_ready = trio.Event()
            worker.process.kill()
            with trio.CancelScope(shield=True):
                await worker.process.wait()
                for pipe in (worker.stdin, worker.stdout, worker.stderr):
                    await pipe.aclose()
            self._fail_pending()

    async def _attend(self, worker: WorkerProcess, task_status: trio.TaskStatus[None] | None) -> bool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_commands, worker)
            nursery.start_soon(collect_complaints, worker)
            nursery.start_soon(self._watch, worker)
            worker.post(Configure(self._folders, self._settings))
            await self._listen(worker, task_status)
            with trio.move_on_after(1):
                await worker.process.wait()
            nursery.cancel_scope.cancel()
        self._down_because = cause_of(worker)
        if self._worker is None:
            raise worker.refusal or EngineCrashedError(self._down_because)
        return True

    async def _listen(self, worker: WorkerProcess, task_status: trio.TaskStatus[None] | None) -> None:
        """Take the worker's reports until there are no more, or it makes no sense."""
        reader = FrameReader()
        while data := await worker.stdout.receive_some(_READ_BYTES):
            try:
                for report in reader.feed(bytes(data)):
                    self._take(report, worker, task_status)
            except ValueError as error:
                worker.cause = f"it wrote garbage: {error}"
                return
            worker.note_sign(has_work=bool(self._pending) or self._worker is not worker)

    def _take(
        self, report: Command | Report, worker: WorkerProcess, task_status: trio.TaskStatus[None] | None
    ) -> None:
        match report:
            case Ready():
                self._cards = report.cards
                self._worker = worker
                self._became_ready.set()
                self.cache.worker_ready()
                if task_status is not None:
                    task_status.started()
            case Told():
                self._deliver(report.request, report.event)
            case Refused():
                self._deliver(report.request, rebuild_error(report.error))
            case LoadFailed():
                worker.refusal = rebuild_error(report.error)
            case LoadReport():
                self.gate.take(report, trio.current_time())
            case CacheReport():
                self.cache.put(report)
            case Beat():
                pass
            case _:
                raise ValueError(f"a {type(report).__name__} from the worker")

    def _deliver(self, request: int, news: EngineEvent | Replay | EngineError) -> None:
        pending = self._pending.get(request)
        if pending is None:
            return  # cancelled while this was under way
        pending.news.send_nowait(news)
        if isinstance(news, PromptPrefilled):
            self.gate.read(request, news)
        if isinstance(news, EngineBusyError):
            self.gate.refusals["wait"] += 1
        if isinstance(news, GenerationFinished):
            self.gate.answered(trio.current_time() - pending.since)
        if not isinstance(news, EngineEvent) or isinstance(news, GenerationFinished):
            del self._pending[request]

    def _fail_pending(self) -> None:
        failed, self._pending = self._pending, {}
        for pending in failed.values():
            pending.news.send_nowait(EngineCrashedError(self._down_because))

    async def _watch(self, worker: WorkerProcess) -> None:
        """Kill a worker that takes too long to start, has work and shows no sign of life, or grows without end."""
        settings = self._settings
        while True:
            worker.look_at_memory(is_ready=self._worker is worker)
            limit_s = settings.stuck_after_s if self._worker is worker else settings.start_timeout_s
            since = worker.awaited_since
            if since is not None and trio.current_time() > since + limit_s:
                worker.cause = worker.cause or f"it gave no sign of life for {limit_s:.0f} s and was killed"
                worker.process.kill()
                return
            await trio.sleep(min(limit_s / 4, 1.0))


async def _events(
    news: trio.MemoryReceiveChannel[EngineEvent | Replay | EngineError],
) -> AsyncGenerator[EngineEvent, None]:
    async for item in news:
        if isinstance(item, EngineError):
            raise item
        if isinstance(item, Replay):
            raise EngineCrashedError("it answered a prompt with a replay")
        yield item
        if isinstance(item, GenerationFinished):
            return
