"""An engine that reads one prompt after the other and tells how much it has yet to read, as a real one does."""

from contextlib import aclosing

import trio

from overlay.wire.prompt import Prompt
from tests.support.group_engine import IDLE_ENGINE, GroupEngine, words_of


class QueueingEngine(GroupEngine):
    """Takes `slowness` times as long as it tells. read: prompts that it has read to their end."""

    def __init__(self, *, slowness: float = 1.0, **scripted) -> None:
        super().__init__(**scripted)
        self.read = 0
        self._slowness = slowness
        self._turn = trio.StrictFIFOLock()
        self._queued = 0

    def _queue(self, tokens: int) -> None:
        self._queued += tokens
        self.gate.set(queued_tokens=self._queued)

    async def _events(self, prompt: Prompt, given: int):
        tokens = len(words_of(prompt))
        self._queue(tokens)
        try:
            async with self._turn:
                await trio.sleep(self._slowness * tokens * IDLE_ENGINE.prefill_token_s)
                self.read += 1
        finally:
            self._queue(-tokens)
        async with aclosing(super()._events(prompt, given)) as events:
            async for event in events:
                yield event
