"""Signing an answer while it is told, so that what a node has said is signed even if it never comes to its receipt.

    tokens told -> signed at once, unless something was in the last 0.25 s, then as soon as that is over
    no more tokens -> nothing to sign

So tokens that nobody signed are never more than those of the last moment, also where an answer pauses before its node
dies. Pauses grow with an answer's age, which bounds how many checkpoints a stream carries (`overlay.wire.limits`).
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from overlay.wire.answer import AnswerEvent, CheckpointIssued, TokensGenerated
from overlay.wire.checkpoint import OutputHash
from overlay.wire.limits import CHECKPOINT_AGE_SHARE, CHECKPOINT_S, MAX_CHECKPOINTS

Sign = Callable[[OutputHash], bytes]
"""Signs for all tokens that are in this hash: an encoded checkpoint."""


def pause_s(age_s: float) -> float:
    """How long after a checkpoint the next one may come, by the time since the answer's first token."""
    return max(CHECKPOINT_S, CHECKPOINT_AGE_SHARE * age_s)


class Checkpoints:
    """Passes the tokens of one answer on, and checkpoints between them. See `signing`."""

    def __init__(
        self, emit: Callable[[AnswerEvent], Awaitable[None]], sign: Sign, given: tuple[int, ...]
    ) -> None:
        self._emit = emit
        self._sign = sign
        self._output = OutputHash(given)
        self._unsigned = trio.Event()
        self._turn = trio.Lock()
        """Held while something goes out: a checkpoint states exactly what came before it."""

    async def tell(self, event: TokensGenerated) -> None:
        """Pass tokens on. Those without ids can't be signed for."""
        async with self._turn:
            await self._emit(event)
            if event.ids:
                self._output.add(event.ids)
                self._unsigned.set()

    async def serve(self) -> None:
        """Sign what has been told until cancelled."""
        await self._unsigned.wait()
        began = trio.current_time()
        for _ in range(MAX_CHECKPOINTS):
            await self._unsigned.wait()
            async with self._turn:
                self._unsigned = trio.Event()
                await self._emit(CheckpointIssued(self._sign(self._output)))
            await trio.sleep(pause_s(trio.current_time() - began))


@asynccontextmanager
async def signing(
    emit: Callable[[AnswerEvent], Awaitable[None]], sign: Sign, given: tuple[int, ...]
) -> AsyncIterator[Checkpoints]:
    """Tell an answer's tokens, signed as they go. Once the context is left no checkpoint comes any more.

    What fails inside, or in passing a checkpoint on, is raised as it is.
    """
    checkpoints = Checkpoints(emit, sign, given)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(checkpoints.serve)
            yield checkpoints
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        _, failures = group.split(trio.Cancelled)
        if failures is None:
            raise
        # Where both tasks failed, they did for one reason: nobody takes what they have to say.
        raise failures.exceptions[0] from None
