"""The look that the daemon takes before a prompt goes down the pipe: is what lies ahead of it too much already?

The worker decides exactly (`node.engine.admission`), but only between two steps. Here a prompt is refused at once, by
what the worker said last, less the time that has passed since, plus what was sent to it since then. Those prompts are
counted by their characters, at the uncached tokens that a character has lately come to. The new prompt itself is left
out: whether it is cheap only the worker knows. So what this look lets through may still be refused.
"""

from dataclasses import dataclass, replace

from node.engine.errors import EngineBusyError
from node.engine.events import EngineLoad, PromptPrefilled
from node.engine.protocol import LoadReport
from node.engine.settings import EngineSettings
from overlay.wire.prompt import ModelId, Prompt

_FIRST_RATIO = 0.3
_GAIN = 0.1
_FIRST_REQUEST_S = 10.0
_REQUEST_GAIN = 0.2


@dataclass(frozen=True, slots=True)
class _Seen:
    """A worker's report, and when it came."""

    load: EngineLoad
    taken: int
    at: float


@dataclass(frozen=True, slots=True)
class _Sent:
    """A prompt that the worker has not read yet, by its characters."""

    model_id: ModelId
    characters: int


class Gate:
    """What is known of a worker's load. Requests are numbered in the order in which they are sent.

    refusals: prompts refused for want of a place ("queue"), or of a first token soon enough ("wait").
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.refusals = {"queue": 0, "wait": 0}
        self._settings = settings
        self._places = settings.max_batch + settings.max_queue
        self._request_s = _FIRST_REQUEST_S
        self._seen: dict[ModelId, _Seen] = {}
        self._sent: dict[int, _Sent] = {}
        self._ratio = _FIRST_RATIO

    @property
    def loads(self) -> tuple[EngineLoad, ...]:
        """What was said last of each model."""
        return tuple(seen.load for seen in self._seen.values())

    def take(self, report: LoadReport, now: float) -> None:
        """The worker said how busy a model is."""
        self._seen[report.load.model_id] = _Seen(report.load, report.taken, now)

    def sent(self, request: int, model_id: ModelId, prompt: Prompt) -> None:
        """A prompt went down the pipe."""
        parts = [message.content for message in prompt.messages] or [prompt.text or ""]
        self._sent[request] = _Sent(model_id, sum(map(len, parts)))

    def read(self, request: int, event: PromptPrefilled) -> None:
        """The worker has read a prompt: what its characters came to is known."""
        sent = self._sent.pop(request, None)
        if sent is not None and sent.characters:
            ratio = (event.prompt_tokens - event.cached_tokens) / sent.characters
            self._ratio += _GAIN * (min(ratio, 1.0) - self._ratio)

    def gone(self, request: int) -> None:
        """A request is over, for whatever reason."""
        self._sent.pop(request, None)

    def forget(self) -> None:
        """The worker is gone, and what it held with it."""
        self._seen.clear()
        self._sent.clear()

    def answered(self, took_s: float) -> None:
        """A prompt has been answered in full."""
        self._request_s += _REQUEST_GAIN * (took_s - self._request_s)

    def check_place(self, active: int, unsent: int) -> None:
        """Is there a place? unsent: commands that the worker has not read.

        Raises:
            EngineBusyError: with the time after which there should be: that of a request, over the places there are.
        """
        # A worker that has stopped reading must not let commands pile up, however fast requests come and go.
        if active >= self._places or unsent > 2 * self._places:
            self.refusals["queue"] += 1
            raise EngineBusyError(max(1.0, self._request_s / self._settings.max_batch))

    def check_wait(self, model_id: ModelId, now: float) -> None:
        """Is the first token near enough? Raises EngineBusyError, with the time after which it would be."""
        wait_s, most_s = self.wait_s(model_id, now), self._settings.max_wait_s
        if wait_s > most_s:
            self.refusals["wait"] += 1
            raise EngineBusyError(max(1.0, wait_s - most_s), wait_s)

    def wait_s(self, model_id: ModelId, now: float) -> float:
        """Seconds that lie ahead of a new prompt; 0 while nothing is known."""
        seen = self._seen.get(model_id)
        if seen is None:
            return 0.0
        left_s = max(0.0, seen.load.wait_s - (now - seen.at))
        return left_s + self._unread(model_id, seen)[1] * seen.load.prefill_token_s

    def load_of(self, model_id: ModelId) -> EngineLoad | None:
        """What was said last of a model, with the prompts that went there since; None while nothing is known."""
        seen = self._seen.get(model_id)
        if seen is None:
            return None
        prompts, tokens = self._unread(model_id, seen)
        load = seen.load
        return replace(
            load,
            waiting=load.waiting + prompts,
            queued_tokens=load.queued_tokens + int(tokens),
            free_slots=max(0, load.free_slots - prompts),
        )

    def _unread(self, model_id: ModelId, seen: _Seen) -> tuple[int, float]:
        """Prompts that the worker had not taken when it said this, and about how many uncached tokens they are."""
        since = [
            sent.characters
            for request, sent in self._sent.items()
            if request > seen.taken and sent.model_id == model_id
        ]
        return len(since), sum(since) * self._ratio
