"""Where a prompt that came to this node is answered: here, or by the member of the group that answers it soonest.

    measure -> estimate every member's wait -> commit | probe, then commit | refuse
            -> here, or handed over; where that fails before the first token, the next best, and at last here

The rules are `overlay.routing.forwarding`'s. Whoever answers signs the receipt. Once tokens have gone out, this node
does not go on by itself where a member fails: it tells the client, who knows which tokens have arrived and asks again
with them, over the same circuits.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import trio

from crypto.entropy import Entropy
from crypto.identity import NodeId
from node.engine.errors import EngineError
from node.engine.prompt_meter import Measured
from node.logs import get_logger
from node.serving.answer_writer import AnswerWriter, Emit
from node.serving.hands import HandLostError, Hands
from node.serving.model_group import ModelGroup
from node.serving.patience import Awaited, Patience
from overlay.errors import RemoteProtocolError
from overlay.protocol.witness import Witness
from overlay.routing.cost import Wait
from overlay.routing.forwarding import (
    Commit,
    Estimate,
    Probe,
    Reason,
    Refuse,
    commit_to_answer,
    decide,
    find_better,
)
from overlay.wire.answer import (
    BUSY,
    AnswerEvent,
    AnswerFailed,
    AnswerFinished,
    ReceiptIssued,
    TokensGenerated,
)
from overlay.wire.handover import HAND_ID_BYTES, MAX_HOPS, HandedPrompt
from overlay.wire.limits import MAX_CHECKPOINTS
from overlay.wire.prompt import Task

PROBE_TIMEOUT_S = 0.3
MEASURE_TIMEOUT_S = 1.0
MAX_TRIES = 3
"""Members that a prompt is handed to in turn, until one begins to answer."""
PAUSE_S = 7.0
"""Between two events of an answer. A client gives up its entry node after 10 s, and would blame that one."""
LOST = "member_lost"

log = get_logger("forwarding")


@dataclass(slots=True)
class Plan:
    """How a prompt's place was chosen, for `clove route explain` too. probed: members that were asked and answered."""

    measured: Measured
    estimates: list[Estimate]
    probed: list[Estimate] = field(default_factory=list)
    choice: Commit | Refuse = field(default_factory=lambda: Refuse(None))


class Observer(Protocol):
    """Who counts."""

    def placed(self, reason: str, *, is_here: bool) -> None:
        """A prompt has found its place."""

    def group_of(self, model: str) -> ModelGroup | None:
        """The group of a model that this node serves with others; None where it is alone."""


class Forwarder:
    """Answers prompts here or has them answered."""

    def __init__(
        self,
        writer: AnswerWriter,
        hands: Hands,
        observer: Observer,
        *,
        entropy: Entropy,
        max_wait_s: float,
    ) -> None:
        self._writer = writer
        self._hands = hands
        self._observer = observer
        self._entropy = entropy
        self._max_wait_s = max_wait_s
        self._patience = Patience()

    # --- choosing ---------------------------------------------------------------------------------------

    async def plan(
        self, group: ModelGroup, measured: Measured, tried: frozenset[NodeId] = frozenset()
    ) -> Plan:
        """Choose a place for a prompt. tried: members that are out of the question."""
        estimates = group.estimate(measured, trio.current_time(), excluded=tried)
        plan = Plan(measured, estimates)
        decision = decide(estimates, self._entropy, max_wait_s=self._max_wait_s)
        if isinstance(decision, Probe):
            plan.probed = await self._probe(group, decision, measured)
            decision = commit_to_answer(plan.probed, decision, max_wait_s=self._max_wait_s)
        plan.choice = decision
        return plan

    async def _probe(self, group: ModelGroup, probe: Probe, measured: Measured) -> list[Estimate]:
        """What those asked would have the prompt wait. This node is asked, too, where it may be the best: it knows."""
        others = [each.member for each in probe.estimates if each.member != group.node_id]
        told = await self._hands.ask(others, group.id, measured.chain, PROBE_TIMEOUT_S)
        now = trio.current_time()
        anew = [group.estimate_answer(member, answer.held_blocks, measured, now) for member, answer in told]
        if len(others) < len(probe.estimates):
            held = group.held_here(measured.chain, now)
            anew.insert(0, group.estimate_answer(group.node_id, held, measured, now))  # of equals the first
        return [each for each in anew if each is not None]

    # --- answering --------------------------------------------------------------------------------------

    async def answer(self, task: Task, emit: Emit) -> None:
        """Answer a prompt that came from a client that lets it be handed over."""
        group = self._observer.group_of(task.prompt.model)
        measured = None if group is None else await self._measure(group, task)
        if group is None or measured is None:
            await self._here(task, emit, Reason.ALONE.value)
            return
        if measured.tokens >= group.card.context_tokens:
            await self._here(task, emit, "too long")  # for every member alike; the engine says by how much
            return
        tried: frozenset[NodeId] = frozenset()
        while len(tried) < MAX_TRIES:
            plan = await self.plan(group, measured, tried)
            if isinstance(plan.choice, Refuse):
                break
            member, reason = plan.choice.estimate.member, plan.choice.reason.value
            if member == group.node_id:
                group.note_sent(member, b"", measured, 0, trio.current_time())
                await self._here(task, emit, reason)
                return
            self._observer.placed(reason, is_here=False)
            others = tuple((each.member, each.cost_s) for each in plan.choice.others if each.member != member)
            handed = HandedPrompt(_named(task, group), MAX_HOPS, others)
            if await self._elsewhere(group, handed, plan.choice.estimate, measured, emit):
                return
            tried |= {member}
        if tried or not isinstance(plan.choice, Refuse):
            await self._here(task, emit, "others failed")
            return
        await self._refuse(plan.choice, emit)

    async def answer_handed(
        self, group: ModelGroup, handed: HandedPrompt, emit: Emit, taken: Callable[[], None]
    ) -> None:
        """Answer a prompt of another member, or hand it on where that is worth the journey."""
        if handed.task.prompt.model != group.card.model_id:
            await emit(AnswerFailed("model_not_found", "the prompt is for a model of another group"))
            return
        measured = await self._measure(group, handed.task)
        if measured is not None:
            better = self._find_better(group, handed, measured)
            if better is not None:
                self._observer.placed("handed on", is_here=False)
                onward = HandedPrompt(handed.task, handed.hops_left - 1)
                if await self._elsewhere(group, onward, better, measured, emit):
                    return
            group.note_sent(group.node_id, b"", measured, 0, trio.current_time())
        await self._here(handed.task, emit, "handed here", taken)

    def _find_better(self, group: ModelGroup, handed: HandedPrompt, measured: Measured) -> Estimate | None:
        now = trio.current_time()
        here = group.estimate_answer(group.node_id, group.held_here(measured.chain, now), measured, now)
        if here is None:
            return None
        known = set(group.others)
        others = [
            Estimate(member, 0, Wait(wait_s, 0.0, 0.0), 0.0, 1.0)
            for member, wait_s in handed.others
            if member in known
        ]
        return find_better(here, others, hops_left=handed.hops_left)

    async def _measure(self, group: ModelGroup, task: Task) -> Measured | None:
        """None where that fails: the engine will say why."""
        try:
            with trio.move_on_after(MEASURE_TIMEOUT_S):
                return await group.measure(task)
        except EngineError:
            pass
        return None

    async def _here(
        self, task: Task, emit: Emit, reason: str, taken: Callable[[], None] = lambda: None
    ) -> None:
        self._observer.placed(reason, is_here=True)
        await self._writer.write(task, emit, taken=taken)

    async def _refuse(self, refusal: Refuse, emit: Emit) -> None:
        self._observer.placed("refused", is_here=True)
        wait_s = refusal.wait_s or 0.0
        message = f"every node that serves the model would take {wait_s:.0f} s to begin; ask again later"
        await emit(AnswerFailed(BUSY, message, max(1.0, wait_s - self._max_wait_s)))

    async def _elsewhere(
        self, group: ModelGroup, handed: HandedPrompt, chosen: Estimate, measured: Measured, emit: Emit
    ) -> bool:
        """Have a member answer; False where it failed before the first token, and another one may be tried.

        Whatever it says of the prompt then: if that can't be answered, this node's engine will say so itself.
        """
        member, hand = chosen.member, self._entropy(HAND_ID_BYTES)
        group.note_sent(member, hand, measured, chosen.cached_tokens, trio.current_time())
        relay = _Relay(emit, _witness_of(group, handed.task))
        predicted_s = chosen.wait.total_s - chosen.wait.late_s
        most_events = _most_events(handed.task.prompt.sampler.max_tokens)
        with self._patience.awaiting(member, predicted_s, trio.current_time()) as awaited:
            try:
                with awaited.scope:
                    async with self._hands.deliver(member, hand, group.id, handed, most_events) as events:
                        await self._relay(member, events, relay, awaited)
            except HandLostError as error:
                relay.failure = relay.failure or AnswerFailed(LOST, str(error), 1.0)
            finally:
                group.note_taken(member, hand)
                relay.note_silence(awaited)
                self._note_outcome(group, member, relay, predicted_s, awaited)
        if relay.failure is None:
            return True
        log.info("a member failed", member=member.hex()[:16], code=relay.failure.code)
        if not relay.has_begun:
            return False
        await emit(AnswerFailed(LOST, "the node that was answering is gone", 0.0))
        return True

    async def _relay(
        self, member: NodeId, events: AsyncIterator[AnswerEvent], relay: "_Relay", awaited: Awaited
    ) -> None:
        async for event in events:
            relay.note(event, trio.current_time())
            if relay.has_begun:
                self._patience.begun(member, awaited, trio.current_time())
            awaited.scope.deadline = float("inf")  # who asked may take its time
            await relay.pass_on(event)
            if relay.is_over:
                break
            awaited.scope.deadline = trio.current_time() + PAUSE_S

    def _note_outcome(
        self, group: ModelGroup, member: NodeId, relay: "_Relay", predicted_s: float, awaited: Awaited
    ) -> None:
        """Hold what a member did against what it said. One that dies in its answer has kept its word so far.

        Where the client left before the first token, nobody knows how long it would have taken.
        """
        now = trio.current_time()
        waited_s = (relay.first_at or now) - awaited.started
        if relay.has_begun and not relay.is_silent:
            is_named = group.promises.delivered(member, predicted_s, waited_s, now)
        elif relay.was_given_up:
            is_named = group.promises.given_up(member, predicted_s, waited_s, now)
        elif (retry_after_s := relay.busy_for_s) is not None:
            is_named = group.promises.refused(member, retry_after_s, now)
        elif relay.failure is not None:
            is_named = group.promises.failed(member, now)
            if not relay.has_begun:
                self._patience.failed(member, now)
        else:
            return
        if is_named:
            log.warning("a member does not do what it says; it is asked less", member=member.hex()[:16])


def _most_events(max_tokens: int) -> int:
    """Of one answer: what is said once, tokens, and checkpoints, each of at least one token."""
    return 8 + max_tokens + min(max_tokens, MAX_CHECKPOINTS)


def _witness_of(group: ModelGroup, task: Task) -> Witness:
    """Holds a member's checkpoints against its tokens, or the client would blame this node for them.

    The client knows who may sign: the member may have handed the prompt on.
    """
    card = group.card
    return Witness(task.prompt, card.model_id, card.numerics_class, task.given, lambda _signer: True)


def _named(task: Task, group: ModelGroup) -> Task:
    """The task with the model's id in the place of an alias, which is every node's own."""
    return replace(task, prompt=replace(task.prompt, model=group.card.model_id))


class _Relay:
    """Passes a member's events on to who asked."""

    def __init__(self, emit: Emit, witness: Witness) -> None:
        self.has_begun = False
        self.is_over = False
        self.is_silent = False
        self.was_given_up = False
        self.first_at: float | None = None
        self.failure: AnswerFailed | None = None
        self._emit: Callable[[AnswerEvent], Awaitable[None]] = emit
        self._witness = witness

    def note(self, event: AnswerEvent, now: float) -> None:
        """What an event says of the answer. One that has no place before the first token, or is false, ends it."""
        if isinstance(event, AnswerFailed):
            self.failure = event
        else:
            self._check(event, now)
        self.is_over = self.failure is not None or isinstance(event, ReceiptIssued)

    def _check(self, event: AnswerEvent, now: float) -> None:
        try:
            self._witness.receive(event)
        except RemoteProtocolError as error:
            self.failure = AnswerFailed(LOST, str(error), 1.0)
            return
        if self.has_begun:
            return
        if isinstance(event, TokensGenerated | AnswerFinished):
            self.has_begun, self.first_at = True, now
        else:
            self.failure = AnswerFailed(LOST, "the member's answer has no beginning", 1.0)

    @property
    def busy_for_s(self) -> float | None:
        """After how long the member would take the prompt; None where it did not refuse it for being busy."""
        is_refusal = not self.has_begun and self.failure is not None and self.failure.code == BUSY
        return self.failure.retry_after_s if is_refusal and self.failure is not None else None

    def note_silence(self, awaited: Awaited) -> None:
        """What it says of the member where the wait was ended."""
        if awaited.scope.cancelled_caught:
            self.failure, self.is_silent = AnswerFailed(LOST, "the member says nothing", 1.0), True
            self.was_given_up = not self.has_begun and trio.current_time() < awaited.first_by

    async def pass_on(self, event: AnswerEvent) -> None:
        """Pass one event on. A failure is kept back: who asked need not hear of it where another member does better."""
        if self.failure is None:
            await self._emit(event)
