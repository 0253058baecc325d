"""What the daemon hears of a worker's public blocks, kept for a reader who may be slow.

Reports are kept up to a bound. Over it they are all dropped, and the feed is *lost*: as soon as its reader comes back,
the worker is asked for the whole, and what arrives before that is passed over. A feed starts lost, and becomes so when
its worker dies. So a reader who does what reports say, and forgets everything at one that `begins`, is always right in
the end, and nothing grows meanwhile.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto

import trio

from node.engine.block_names import MAX_KEY_BYTES
from node.engine.events import CacheReport
from node.engine.protocol import ReportCache
from overlay.wire.prompt import ModelId

MOST_REPORTS = 64

Post = Callable[[ReportCache], bool]
"""Sends a command to the present worker; False where there is none."""


class _State(Enum):
    LOST = auto()
    ASKED = auto()
    FOLLOWING = auto()


class CacheFeed:
    """Reports on one model for one reader."""

    def __init__(self, model_id: ModelId, key: bytes, post: Post) -> None:
        self.model_id = model_id
        self._key = _checked(key)
        self._post = post
        self._reports: deque[CacheReport] = deque()
        self._state = _State.LOST
        self._woken = trio.Event()

    async def receive(self) -> CacheReport:
        """The next report. One that `begins` makes all earlier ones void."""
        await trio.lowlevel.checkpoint()
        while not self._reports:
            if self._state is _State.LOST and self._post(ReportCache(self.model_id, self._key)):
                self._state = _State.ASKED
            self._woken = trio.Event()
            await self._woken.wait()
        return self._reports.popleft()

    def put(self, report: CacheReport) -> None:
        """The worker told this."""
        if report.key != self._key:
            return
        if report.begins and self._state is _State.ASKED:
            self._state = _State.FOLLOWING
        if self._state is not _State.FOLLOWING:
            return
        if len(self._reports) >= MOST_REPORTS:
            self._reports.clear()
            self._state = _State.LOST
            return
        self._reports.append(report)
        self._woken.set()

    def worker_gone(self) -> None:
        """All that was told is void."""
        self._reports.clear()
        self._reports.append(CacheReport(self.model_id, self._key, begins=True))
        self._state = _State.LOST
        self._woken.set()

    def worker_ready(self) -> None:
        """There is someone to ask again."""
        self._woken.set()


class CacheFeeds:
    """The feeds of one engine, by those who read them."""

    def __init__(self, post: Post) -> None:
        self._feeds: list[CacheFeed] = []
        self._post = post

    @contextmanager
    def opened(self, model_id: ModelId, key: bytes) -> Iterator[CacheFeed]:
        """A feed while the context lasts. A worker tells under the key that it was given last, so a model has one.

        Raises:
            ValueError: the key is empty, or over MAX_KEY_BYTES.
        """
        feed = CacheFeed(model_id, key, self._post)
        self._feeds.append(feed)
        try:
            yield feed
        finally:
            self._feeds.remove(feed)
            if not self._of(model_id):
                self._post(ReportCache(model_id, b""))

    def put(self, report: CacheReport) -> None:
        """The worker told this."""
        for feed in self._of(report.model_id):
            feed.put(report)

    def worker_gone(self) -> None:
        """The worker died, its cache with it."""
        for feed in self._feeds:
            feed.worker_gone()

    def worker_ready(self) -> None:
        """Another one runs."""
        for feed in self._feeds:
            feed.worker_ready()

    def _of(self, model_id: ModelId) -> list[CacheFeed]:
        return [feed for feed in self._feeds if feed.model_id == model_id]


def _checked(key: bytes) -> bytes:
    """A key that the worker can hash with: a wrong one would end it."""
    if not 1 <= len(key) <= MAX_KEY_BYTES:
        raise ValueError(f"a group key of {len(key)} bytes")
    return key
