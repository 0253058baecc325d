"""A model node's service: sealed cloves in, paced answer cells out. Implements the switch's `ModelPort`.

One task for each answer runs the engine and writes into its `AnswerSender`; the sender's deadlines pace the cells.
When nobody is there for an answer any more, its task is cancelled, which frees what the engine holds.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import assert_never

import trio

from crypto.identity import NodeId
from crypto.sealed import SealingKey
from node.logs import get_logger
from node.metrics import Metrics
from node.serving.answer_writer import Emit
from overlay.errors import LocalProtocolError
from overlay.protocol.intake import Intake, IntakeEvent, PromptArrived, UpdateArrived
from overlay.protocol.stream import (
    AnswerAbandoned,
    AnswerClosed,
    AnswerSender,
    SendAnswerCell,
    SenderOutput,
)
from overlay.transport.switch import Switch
from overlay.wire.answer import BUSY, AnswerAccepted, AnswerEvent, AnswerFailed
from overlay.wire.prompt import PromptMessage

MAX_ANSWERS = 256
"""Answers under way, queued ones included; over it a prompt is refused at once."""
MAX_KEPT_ANSWERS = 1024
"""The same with those that only linger for repairs, and refusals; over it a prompt is dropped."""

Answerer = Callable[[PromptMessage, Emit], Awaitable[None]]
"""Answers a prompt, here or elsewhere; what goes wrong is an AnswerFailed. Cancelling frees what it takes."""

log = get_logger("serving")


@dataclass(slots=True, eq=False)
class _Answer:
    """One answer under way."""

    mid: bytes
    sender: AnswerSender
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ticked: trio.Event = field(default_factory=trio.Event)
    tokens: tuple[bytes, ...] = ()

    def tick(self) -> None:
        self.ticked.set()
        self.ticked = trio.Event()


class ModelService:
    """Answers the prompts that reach this node through circuits."""

    def __init__(
        self,
        switch: Switch,
        intake: Intake,
        answer: Answerer,
        *,
        unix_time: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._switch = switch
        self._intake = intake
        self._answer = answer
        self._unix_time = unix_time
        self._metrics = metrics
        self._answers: dict[bytes, _Answer] = {}
        self._by_token: dict[bytes, _Answer] = {}
        self._nursery: trio.Nursery | None = None
        self.is_draining = False

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer prompts until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._switch.deadlines.add(self._intake, self._wake_intake)
            self._switch.model = self
            task_status.started()
            await trio.sleep_forever()

    @property
    def running(self) -> int:
        """Answers of which something is still to be sent."""
        return sum(not answer.sender.is_sent for answer in self._answers.values())

    def set_keys(self, keys: Mapping[int, SealingKey]) -> None:
        """The sealing keys in force, by epoch."""
        self._intake.set_keys(keys)

    # --- from the switch --------------------------------------------------------------------------------

    def clove_delivered(self, proxy: NodeId, reply_token: bytes, sealed: bytes) -> None:
        """`ModelPort`: a clove or an update."""
        now = trio.current_time()
        # An answer starts with the k-th clove. The proxy of a later one knows no reply token until it delivers, and
        # may have refused a cell. The prompt lists its paths itself: no proxy can put another in their place.
        for answer in self._of_path(reply_token):
            answer.sender.path_delivered(reply_token, now)
            self._switch.deadlines.touched(answer.sender)
        self._take(self._intake.receive_delivery(proxy, sealed, now, self._unix_time()))

    def answer_refused(self, proxy: NodeId, reply_token: bytes) -> None:
        """`ModelPort`: no circuit is behind this token."""
        del proxy
        for answer in self._of_path(reply_token):
            answer.sender.path_refused(reply_token, trio.current_time())
            self._switch.deadlines.touched(answer.sender)

    def _of_path(self, reply_token: bytes) -> tuple[_Answer, ...]:
        """The answer that goes over this path. Looked up: a neighbour may name tokens as fast as it can write."""
        answer = self._by_token.get(reply_token)
        return () if answer is None else (answer,)

    def proxy_lost(self, proxy: NodeId) -> None:
        """`ModelPort`: the link to this neighbour is gone."""
        for answer in self._answers.values():
            answer.sender.proxy_lost(proxy, trio.current_time())
            self._switch.deadlines.touched(answer.sender)

    def _note_paths(self, answer: _Answer) -> None:
        for token in answer.tokens:
            if self._by_token.get(token) is answer:
                del self._by_token[token]
        answer.tokens = answer.sender.reply_tokens if answer.mid in self._answers else ()
        self._by_token.update(dict.fromkeys(answer.tokens, answer))

    # --- prompts and updates ----------------------------------------------------------------------------

    def _wake_intake(self, now: float) -> None:
        self._take(self._intake.handle_deadline(now))

    def _take(self, events: Iterable[IntakeEvent]) -> None:
        for event in events:
            match event:
                case PromptArrived():
                    self._start(event)
                case UpdateArrived(mid, update):
                    if (answer := self._answers.get(mid)) is not None:
                        self._perform(answer, answer.sender.receive_update(update, trio.current_time()))
                        self._note_paths(answer)
                case _:
                    assert_never(event)
        self._switch.deadlines.touched(self._intake)

    def _start(self, arrived: PromptArrived) -> None:
        self._metrics.cloves.labels("recovered").inc()
        if self._nursery is None or len(self._answers) >= MAX_KEPT_ANSWERS:
            self._metrics.cloves.labels("dropped").inc()
            self._intake.answer_ended(arrived.mid)
            return
        refusal = self._refusal()
        sender = AnswerSender(arrived.terms, arrived.message.paths, trio.current_time())
        answer = self._answers[arrived.mid] = _Answer(arrived.mid, sender)
        self._note_paths(answer)
        self._switch.deadlines.add(sender, lambda now: self._wake_sender(answer, now))
        self._nursery.start_soon(self._run, answer, arrived.message, refusal)

    def _refusal(self) -> AnswerFailed | None:
        """Why no prompt is taken now, if so."""
        if self.is_draining:
            return AnswerFailed("draining", "the model node is shutting down; ask again", 1.0)
        if self.running >= MAX_ANSWERS:
            return AnswerFailed(BUSY, "the model node answers as many prompts as it can; ask again", 2.0)
        return None

    async def _run(self, answer: _Answer, message: PromptMessage, refusal: AnswerFailed | None) -> None:
        async def emit(event: AnswerEvent) -> None:
            while not answer.sender.write(event):
                await answer.ticked.wait()

        with answer.scope:
            if refusal is not None:
                await emit(refusal)
            else:
                await emit(AnswerAccepted())
                await self._write(message, emit)
            answer.sender.finish()
        if answer.scope.cancelled_caught:
            log.info("answer cancelled")

    async def _write(self, message: PromptMessage, emit: Emit) -> None:
        try:
            await self._answer(message, emit)
        except LocalProtocolError as error:
            # An answer longer than a stream may be. The author has what was written; the rest can't be sent.
            log.warning("answer cut off", reason=str(error))

    # --- cells ------------------------------------------------------------------------------------------

    def _wake_sender(self, answer: _Answer, now: float) -> None:
        self._perform(answer, answer.sender.handle_deadline(now))
        answer.tick()

    def _perform(self, answer: _Answer, outputs: Iterable[SenderOutput]) -> None:
        for output in outputs:
            match output:
                case SendAnswerCell(proxy, reply_token, data):
                    # A full queue drops the cell: the client has it from other paths, or asks again.
                    self._switch.send_answer_cell(proxy, reply_token, data)
                case AnswerAbandoned():
                    answer.scope.cancel()
                case AnswerClosed():
                    self._end(answer)
                case _:
                    assert_never(output)
        self._switch.deadlines.touched(answer.sender)

    def _end(self, answer: _Answer) -> None:
        self._answers.pop(answer.mid, None)
        self._note_paths(answer)
        self._switch.deadlines.remove(answer.sender)
        self._intake.answer_ended(answer.mid)
