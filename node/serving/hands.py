"""Prompts on their way between members of a group: asking for waits, handing over, answering what was handed here.

    here                                member
    ask      -- WaitAsked ------------>
             <------------ WaitTold --           load now, blocks held
    deliver  -- PromptPart ... ------->          answered like any other prompt, by `answer`
             <------------ WaitTold --           taken: the load counts it
             <---------- EventsPart ...          the answer's events
    leaving  -- HandEnded ------------>          frees what the engine holds
             <----------- HandEnded --           refused, or given up

A link that goes takes with it what was on its way in both directions. Bounds are in `overlay.wire.limits`; who sends
what does not fit loses the prompt that it was about, and nobody else does.
"""

from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, assert_never

import trio

from crypto.entropy import Entropy
from crypto.errors import DecodeError
from crypto.identity import NodeId
from node.logs import get_logger
from node.serving.answer_writer import Emit
from overlay.errors import LocalProtocolError, UnreachableError
from overlay.protocol.rate import RateBucket
from overlay.transport.switch import Switch
from overlay.wire.answer import AnswerEvent
from overlay.wire.answer_codec import EventReader, frame_event
from overlay.wire.group import BlockHash, GroupId
from overlay.wire.handover import (
    HAND_ID_BYTES,
    EventsPart,
    HandedPrompt,
    HandEnded,
    HandId,
    HandMessage,
    PromptPart,
    WaitAsked,
    WaitTold,
    decode_handed,
    encode_handed,
)
from overlay.wire.limits import (
    HAND_MESSAGE_BURST,
    HAND_MESSAGES_PER_S,
    MAX_ANSWER_BYTES,
    MAX_HAND_BYTES,
    MAX_HAND_PART_BYTES,
    MAX_HANDED_PROMPTS,
    MAX_HANDED_PROMPTS_PER_MEMBER,
    MAX_PARTIAL_HAND_BYTES,
    MAX_RATED_NEIGHBOURS,
)

DIAL_TIMEOUT_S = 2.0
PARTIAL_TIMEOUT_S = 10.0
"""A prompt whose parts stop coming is given up after this."""

_REMEMBERED_REFUSALS = 64
_TOLD_PER_PROMPT = 2
"""Loads that come with a prompt's answer: when the engine has it, and when the answer is over."""

log = get_logger("group")

Told = tuple[NodeId, WaitTold]


class HandLostError(Exception):
    """The member that a prompt was handed to is gone, or has given it up."""


class Host(Protocol):
    """Who answers for the node: `node.serving.groups.Groups`."""

    def tell_wait(
        self, peer: NodeId, group: GroupId, chain: tuple[BlockHash, ...]
    ) -> tuple[bytes, int] | None:
        """This node's signed load and how many blocks of a chain it holds; None for who is no member."""

    def is_member(self, peer: NodeId, group: GroupId) -> bool:
        """Whether a neighbour may hand over prompts of a group."""

    def wait_told(self, peer: NodeId, told: WaitTold) -> None:
        """A member told its load, on whatever occasion."""

    async def answer_handed(
        self, group: GroupId, prompt: HandedPrompt, emit: Emit, taken: Callable[[], None]
    ) -> None:
        """Answer a prompt of another member."""


@dataclass(frozen=True, slots=True)
class _Question:
    """A question that a member has not answered yet."""

    group: GroupId
    send: trio.MemorySendChannel[Told]


@dataclass(slots=True, eq=False)
class _Outgoing:
    """A prompt that a member answers for us."""

    group: GroupId
    send: trio.MemorySendChannel[AnswerEvent]
    reader: EventReader = field(default_factory=EventReader)
    received_bytes: int = 0
    told: int = 0


@dataclass(slots=True, eq=False)
class _Incoming:
    """A prompt of another member: its parts, or the task that answers it."""

    group: GroupId
    since: float
    data: bytearray = field(default_factory=bytearray)
    scope: trio.CancelScope | None = None


class Hands:
    """All that is under way between this node and other members."""

    def __init__(self, switch: Switch, host: Host, entropy: Entropy) -> None:
        self.counters: Counter[str] = Counter()
        self._switch = switch
        self._host = host
        self._entropy = entropy
        self._asked: dict[tuple[NodeId, HandId], _Question] = {}
        self._outgoing: dict[tuple[NodeId, HandId], _Outgoing] = {}
        self._incoming: dict[tuple[NodeId, HandId], _Incoming] = {}
        self._refused: deque[tuple[NodeId, HandId]] = deque(maxlen=_REMEMBERED_REFUSALS)
        self._rates: dict[NodeId, RateBucket] = {}
        self._nursery: trio.Nursery | None = None

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer what is handed here until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    @property
    def answering(self) -> int:
        """Prompts of others that are being answered here."""
        return sum(hand.scope is not None for hand in self._incoming.values())

    # --- asking -----------------------------------------------------------------------------------------

    async def ask(
        self, members: list[NodeId], group: GroupId, chain: tuple[BlockHash, ...], timeout_s: float
    ) -> list[Told]:
        """Ask some members how long a prompt would wait; what those said who answered in time."""
        send, receive = trio.open_memory_channel[Told](len(members))
        keys = [(member, self._entropy(HAND_ID_BYTES)) for member in members]
        found: list[Told] = []
        try:
            with trio.move_on_after(timeout_s):
                async with trio.open_nursery() as nursery:
                    for key in keys:
                        self._asked[key] = _Question(group, send)
                        nursery.start_soon(self._ask_one, key, WaitAsked(group, key[1], chain))
                    while len(found) < len(members):
                        found.append(await receive.receive())
        finally:
            for key in keys:
                self._asked.pop(key, None)
        return found

    async def _ask_one(self, key: tuple[NodeId, HandId], message: WaitAsked) -> None:
        try:
            await self._switch.link_to(key[0])
        except UnreachableError:
            return  # it will be missed by the deadline
        self._switch.send_group_message(key[0], message)

    # --- handing over -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def deliver(
        self, member: NodeId, hand: HandId, group: GroupId, prompt: HandedPrompt, most_events: int
    ) -> AsyncGenerator[AsyncIterator[AnswerEvent], None]:
        """Hand a prompt over; the events of its answer. Leaving the context ends it there, too.

        most_events: how many may wait for their reader.

        Raises:
            HandLostError: on entering, it can't be handed over; from the events, no more of them will come.
        """
        try:
            data = encode_handed(prompt)
            with trio.fail_after(DIAL_TIMEOUT_S):
                await self._switch.link_to(member)
        except (LocalProtocolError, UnreachableError, trio.TooSlowError) as error:
            raise HandLostError(str(error)) from error
        send, receive = trio.open_memory_channel[AnswerEvent](most_events)
        key = (member, hand)
        self._outgoing[key] = _Outgoing(group, send)
        self.counters["handed_over"] += 1
        try:
            for at in range(0, len(data), MAX_HAND_PART_BYTES):
                part = data[at : at + MAX_HAND_PART_BYTES]
                is_last = at + MAX_HAND_PART_BYTES >= len(data)
                if not self._switch.send_group_message(member, PromptPart(group, hand, is_last, part)):
                    raise HandLostError("the link to the member takes nothing now")
            async with aclosing(_events_of(receive)) as events:
                yield events
        finally:
            if self._outgoing.pop(key, None) is not None:
                self._switch.send_group_message(member, HandEnded(hand))

    # --- messages ---------------------------------------------------------------------------------------

    def receive(self, peer: NodeId, message: HandMessage) -> None:
        """A message of a neighbour."""
        match message:
            case WaitAsked():
                self._receive_question(peer, message)
            case WaitTold():
                self._receive_told(peer, message)
            case PromptPart():
                self._receive_part(peer, message)
            case EventsPart():
                self._receive_events(peer, message)
            case HandEnded(hand):
                self._end(peer, hand)
            case _:
                assert_never(message)

    def _receive_question(self, peer: NodeId, message: WaitAsked) -> None:
        now = trio.current_time()
        if peer not in self._rates:
            if len(self._rates) >= MAX_RATED_NEIGHBOURS:
                del self._rates[next(iter(self._rates))]
            self._rates[peer] = RateBucket(burst=HAND_MESSAGE_BURST, per_s=HAND_MESSAGES_PER_S, now=now)
        if not self._rates[peer].take(1, now):
            self.counters["questions_over_rate"] += 1
            return
        found = self._host.tell_wait(peer, message.group, message.chain)
        if found is None:
            self.counters["of_strangers"] += 1
            return
        self.counters["questions_answered"] += 1
        self._switch.send_group_message(peer, WaitTold(message.group, message.hand, *found))

    def _receive_told(self, peer: NodeId, message: WaitTold) -> None:
        """Look at what was asked for and at nothing else: a load costs a check of a signature.

        An answer that comes too late can't be told from one that nobody asked for.
        """
        key = (peer, message.hand)
        question, outgoing = self._asked.get(key), self._outgoing.get(key)
        if question is not None and question.group == message.group:
            del self._asked[key]
            self._host.wait_told(peer, message)
            question.send.send_nowait((peer, message))
        elif outgoing is not None and outgoing.group == message.group and outgoing.told < _TOLD_PER_PROMPT:
            outgoing.told += 1
            self._host.wait_told(peer, message)
        else:
            self.counters["told_uncalled_for"] += 1

    def _receive_part(self, peer: NodeId, part: PromptPart) -> None:
        key = (peer, part.hand)
        now = trio.current_time()
        incoming = self._incoming.get(key)
        if key in self._refused:  # the rest of it was on its way already
            return
        if incoming is None:
            self._drop_overdue(now)
            if not self._has_room(peer) or not self._host.is_member(peer, part.group):
                self.counters["refused"] += 1
                self._refuse(key)
                return
            incoming = self._incoming[key] = _Incoming(part.group, now)
        partial = sum(len(each.data) for each in self._incoming.values())
        too_long = len(incoming.data) + len(part.data) > MAX_HAND_BYTES
        if incoming.scope is not None or too_long or partial + len(part.data) > MAX_PARTIAL_HAND_BYTES:
            self.counters["refused"] += 1
            self._refuse(key)
            return
        incoming.data += part.data
        if part.is_last:
            self._begin(key, incoming)

    def _has_room(self, peer: NodeId) -> bool:
        of_peer = sum(member == peer for member, _ in self._incoming)
        return len(self._incoming) < MAX_HANDED_PROMPTS and of_peer < MAX_HANDED_PROMPTS_PER_MEMBER

    def _drop_overdue(self, now: float) -> None:
        for key, incoming in list(self._incoming.items()):
            if incoming.scope is None and now > incoming.since + PARTIAL_TIMEOUT_S:
                self._refuse(key)

    def _refuse(self, key: tuple[NodeId, HandId]) -> None:
        incoming = self._incoming.pop(key, None)
        if incoming is not None and incoming.scope is not None:
            incoming.scope.cancel()
        self._refused.append(key)
        self._switch.send_group_message(key[0], HandEnded(key[1]))

    def _begin(self, key: tuple[NodeId, HandId], incoming: _Incoming) -> None:
        try:
            prompt = decode_handed(bytes(incoming.data))
        except DecodeError as error:
            log.warning(
                "a member handed over a malformed prompt", member=key[0].hex()[:16], reason=str(error)
            )
            self._refuse(key)
            return
        incoming.data.clear()
        if self._nursery is None:
            self._refuse(key)
            return
        self.counters["taken"] += 1
        incoming.scope = trio.CancelScope()
        self._nursery.start_soon(self._answer, key, incoming.group, prompt, incoming.scope)

    async def _answer(
        self, key: tuple[NodeId, HandId], group: GroupId, prompt: HandedPrompt, scope: trio.CancelScope
    ) -> None:
        peer, hand = key

        def taken() -> None:
            found = self._host.tell_wait(peer, group, ())
            if found is not None:
                self._switch.send_group_message(peer, WaitTold(group, hand, *found))

        async def emit(event: AnswerEvent) -> None:
            await trio.lowlevel.checkpoint()
            data = frame_event(event)
            for at in range(0, len(data), MAX_HAND_PART_BYTES):
                part = EventsPart(hand, is_last=False, data=data[at : at + MAX_HAND_PART_BYTES])
                if not self._switch.send_group_message(peer, part):
                    raise HandLostError("the link takes no more")

        try:
            with scope:
                await self._host.answer_handed(group, prompt, emit, taken)
                taken()
                self._switch.send_group_message(peer, EventsPart(hand, is_last=True, data=b""))
        except (HandLostError, LocalProtocolError) as error:
            log.info("an answer for another member was given up", member=peer.hex()[:16], reason=str(error))
            self._switch.send_group_message(peer, HandEnded(hand))
        finally:
            if key in self._incoming and self._incoming[key].scope is scope:
                del self._incoming[key]

    def _receive_events(self, peer: NodeId, part: EventsPart) -> None:
        outgoing = self._outgoing.get((peer, part.hand))
        if outgoing is None:
            return  # nobody waits for it any more
        outgoing.received_bytes += len(part.data)
        try:
            if outgoing.received_bytes > MAX_ANSWER_BYTES:
                raise DecodeError("the answer is longer than one may be")  # noqa: TRY301 - as if it were malformed
            for event in outgoing.reader.feed(part.data):
                outgoing.send.send_nowait(event)
        except (DecodeError, trio.WouldBlock) as error:
            log.warning("a member answered with nonsense", member=peer.hex()[:16], reason=str(error))
            self._end(peer, part.hand)
            self._switch.send_group_message(peer, HandEnded(part.hand))
            return
        if part.is_last:
            self._outgoing.pop((peer, part.hand))
            outgoing.send.close()

    def _end(self, peer: NodeId, hand: HandId) -> None:
        outgoing = self._outgoing.pop((peer, hand), None)
        if outgoing is not None:
            outgoing.send.close()
        incoming = self._incoming.pop((peer, hand), None)
        if incoming is not None and incoming.scope is not None:
            incoming.scope.cancel()

    def neighbour_lost(self, peer: NodeId) -> None:
        """The link is gone, and all that was on its way over it."""
        for member, hand in [*self._outgoing, *self._incoming]:
            if member == peer:
                self._end(member, hand)


async def _events_of(receive: trio.MemoryReceiveChannel[AnswerEvent]) -> AsyncGenerator[AnswerEvent, None]:
    async for event in receive:
        yield event
    raise HandLostError("no more of the answer will come")
