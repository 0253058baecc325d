"""A whole answer, whichever nodes give it: where one fails, another goes on with the same tokens.

The tokens that have been delivered travel with the next attempt, so none is lost and none comes twice. Nonce and prompt
are the same, so what follows is what the first node would have given. All else that the next node sees is of that
attempt alone: keys, paths and message ids are drawn anew.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import assert_never

from crypto.identity import NodeId
from overlay.client.answering import Answering
from overlay.errors import AnswerError, NoRouteError
from overlay.protocol.witness import SignedPart
from overlay.wire.answer import (
    AnswerAccepted,
    AnswerEvent,
    AnswerFailed,
    AnswerFinished,
    CheckpointIssued,
    ReceiptIssued,
    TokensGenerated,
)
from overlay.wire.descriptor import ModelOffer
from overlay.wire.limits import MAX_ATTEMPTS, MAX_FRUITLESS_ATTEMPTS

GoOn = Callable[[Answering, tuple[int, ...]], Awaitable[Answering]]
"""Begins the next attempt after one that failed, given the ids so far. Raises AnswerError, NoRouteError."""


@dataclass(frozen=True, slots=True)
class EarlierPart:
    """What an attempt gave that failed later: the answer's tokens up to number `until`, the first one being 1.

    entry: the node asked. blinding: of its prompt. signed: what of it is signed, None where nothing is.
    """

    entry: NodeId
    until: int
    blinding: bytes
    signed: SignedPart | None


class Completion:
    """Iterate it once for the events, in order. go_on: how the next attempt is made."""

    def __init__(self, first: Answering, go_on: GoOn, may_go_on: Callable[[AnswerError], bool]) -> None:
        self.attempts = [first]
        self.ids: list[int] = []
        """Of all tokens so far."""
        self.given = 0
        """Of them, those that came before the present attempt."""
        self.parts: list[EarlierPart] = []
        """Where these are from, in order."""
        self._go_on = go_on
        self._may_go_on = may_go_on
        self._fruitless = 0
        self._is_accepted = False
        self._is_finished = False
        self._knows_ids = True

    @property
    def current(self) -> Answering:
        """The attempt that runs, or ran last."""
        return self.attempts[-1]

    @property
    def offer(self) -> ModelOffer:
        """What the present node promised to serve."""
        return self.current.offer

    def __aiter__(self) -> "Completion":
        """Events in order."""
        return self

    async def __anext__(self) -> AnswerEvent:
        """The next event. Raises AnswerError where the answer ends early, and nobody goes on with it."""
        while True:
            try:
                event = await anext(self.current)
            except AnswerError as error:
                await self._fail_over(error)
            else:
                if self._is_new(event):
                    return event

    def _is_new(self, event: AnswerEvent) -> bool:
        """Note an event; whether the attempts before have not said the same."""
        match event:
            case AnswerAccepted():
                is_new, self._is_accepted = not self._is_accepted, True
            case AnswerFinished():
                is_new, self._is_finished = not self._is_finished, True
            case TokensGenerated(_, count):
                is_new = True
                self._fruitless = 0
                self.ids += event.ids
                self._knows_ids = self._knows_ids and len(event.ids) == count
            case CheckpointIssued() | ReceiptIssued() | AnswerFailed():
                is_new = True
            case _:
                assert_never(event)
        return is_new

    async def _fail_over(self, error: AnswerError) -> None:
        """Go on elsewhere. An answer that is whole and lacks its receipt only is over where nobody does."""
        self._fruitless += 1
        if not self._may_try(error):
            raise StopAsyncIteration if self._is_finished else error
        failed = self.current
        failed.end()
        try:
            attempt = await self._go_on(failed, tuple(self.ids))
        except (AnswerError, NoRouteError):
            raise (StopAsyncIteration if self._is_finished else error) from None
        self.attempts.append(attempt)
        if len(self.ids) > self.given:
            blinding = failed.request.message.blinding
            signed = failed.witness.signed
            self.parts.append(EarlierPart(failed.node_id, len(self.ids), blinding, signed))
        self.given = len(self.ids)

    def _may_try(self, error: AnswerError) -> bool:
        return (
            self._knows_ids
            and self._may_go_on(error)
            and self._fruitless <= MAX_FRUITLESS_ATTEMPTS
            and len(self.attempts) < MAX_ATTEMPTS
        )
