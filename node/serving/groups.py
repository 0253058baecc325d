"""Drives this node's model groups: who is in them, what is told and heard, and prompts that go from member to member.

Implements the switch's `GroupPort`. For each model that the engine serves there is one group (`model_group.py`).
"""

from collections.abc import Callable, Iterable

import trio

from crypto.entropy import Entropy
from crypto.identity import IdentityKey, NodeId
from node.engine.errors import ModelError
from node.engine.events import ModelCard
from node.engine.prompt_meter import PromptMeter
from node.engine.supervisor import Engine
from node.logs import get_logger
from node.metrics import Metrics
from node.serving.answer_writer import AnswerWriter, Emit
from node.serving.forwarder import Forwarder
from node.serving.hands import Hands
from node.serving.model_group import Membership, ModelGroup
from overlay.errors import UnreachableError
from overlay.protocol.group import GroupOutput, LoadLearned, Misbehaved, SendGroupMessage
from overlay.routing.directory import Directory
from overlay.transport.switch import Switch
from overlay.wire.group import BlockHash, GroupId
from overlay.wire.group_messages import GroupMessage, GroupNews, GroupVector, counted_bytes
from overlay.wire.handover import HandedPrompt, HandMessage, WaitTold

LOAD_EVERY_S = 0.25
MAX_DIALS = 4
"""Members that are dialled at once; another one is dialled at its next turn."""

log = get_logger("group")


class Groups:
    """All groups of one node."""

    def __init__(
        self,
        switch: Switch,
        key: IdentityKey,
        network: bytes,
        engine: Engine,
        writer: AnswerWriter,
        metrics: Metrics,
        *,
        entropy: Entropy,
        unix_time: Callable[[], float],
        max_wait_s: float,
    ) -> None:
        self.hands = Hands(switch, self, entropy)
        self.forwarder = Forwarder(writer, self.hands, self, entropy=entropy, max_wait_s=max_wait_s)
        self._switch = switch
        self._key = key
        self._network = network
        self._engine = engine
        self._metrics = metrics
        self._unix_time = unix_time
        self._groups: dict[GroupId, ModelGroup] = {}
        self.is_draining = False
        self._dialling: set[NodeId] = set()
        self._nursery: trio.Nursery | None = None

    async def serve(self, meters: Iterable[tuple[ModelCard, PromptMeter]]) -> None:
        """Take part in the groups of these models until cancelled. A model that can't be measured stays alone."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self.hands.serve)
            for card, meter in meters:
                try:
                    await meter.load()
                except ModelError as error:
                    log.warning("prompts for this model stay here", model=card.alias, reason=str(error))
                    continue
                self._join(card, meter)
            self.directory_changed(self._switch.directory)
            self._switch.groups = self
            for group in self._groups.values():
                nursery.start_soon(self._follow_cache, group)
            nursery.start_soon(self._tell_loads)
            await trio.sleep_forever()

    def _join(self, card: ModelCard, meter: PromptMeter) -> None:
        group = ModelGroup(
            Membership(self._key, self._network, card),
            meter,
            lambda: self._engine.gate.load_of(card.model_id),
            incarnation=int(self._unix_time() * 1000),
            now=trio.current_time(),
        )
        self._groups[group.id] = group
        self._switch.deadlines.add(
            group.machine, lambda now: self._perform(group, group.machine.handle_deadline(now))
        )

    # --- what this node tells ---------------------------------------------------------------------------

    async def _follow_cache(self, group: ModelGroup) -> None:
        """Tell which public blocks are here."""
        with self._engine.cache.opened(group.card.model_id, group.block_key) as feed:
            while True:
                group.cache_changed(await feed.receive())

    async def _tell_loads(self) -> None:
        while True:
            for group in self._groups.values():
                group.tell_load()
            self._observe()
            await trio.sleep(LOAD_EVERY_S)

    def _observe(self) -> None:
        for group in self._groups.values():
            self._metrics.group_members.labels(group.card.alias).set(len(group.machine.members))

    def directory_changed(self, directory: Directory) -> None:
        """Who is in a group: whoever offers its model with its arithmetic."""
        for group in self._groups.values():
            card = group.card
            group.set_members(
                [
                    node.node_id
                    for node in directory.serving(card.model_id)
                    if (offer := node.offer_of(card.model_id)) and offer.numerics_class == card.numerics_class
                ]
            )

    # --- from the switch --------------------------------------------------------------------------------

    def group_message(self, peer: NodeId, message: GroupMessage | HandMessage) -> None:
        """`GroupPort`: a message of a neighbour."""
        if not isinstance(message, GroupVector | GroupNews):
            self.hands.receive(peer, message)
            return
        self._metrics.group_bytes.labels("received").inc(counted_bytes(message))
        group = self._groups.get(message.group)
        if group is not None:
            self._perform(group, group.machine.receive_message(peer, message, trio.current_time()))
            self._switch.deadlines.touched(group.machine)

    def neighbour_lost(self, peer: NodeId) -> None:
        """`GroupPort`: a link is gone."""
        self.hands.neighbour_lost(peer)

    def _perform(self, group: ModelGroup, outputs: Iterable[GroupOutput]) -> None:
        for output in outputs:
            match output:
                case SendGroupMessage(peer, message):
                    self._send(peer, message)
                case LoadLearned():
                    pass
                case Misbehaved(member, reason):
                    self._metrics.group_misbehaved.inc()
                    log.warning(
                        "a member misbehaves", member=member.hex()[:16], model=group.card.alias, reason=reason
                    )

    def _send(self, peer: NodeId, message: GroupMessage) -> None:
        if self._switch.links.get(peer) is None:
            self._dial(peer)  # what is lost now comes with a later round
        elif self._switch.send_group_message(peer, message):
            self._metrics.group_bytes.labels("sent").inc(counted_bytes(message))

    def _dial(self, peer: NodeId) -> None:
        if self._nursery is not None and peer not in self._dialling and len(self._dialling) < MAX_DIALS:
            self._dialling.add(peer)
            self._nursery.start_soon(self._dial_one, peer)

    async def _dial_one(self, peer: NodeId) -> None:
        try:
            await self._switch.link_to(peer)
        except UnreachableError as error:
            log.debug("a member can't be reached", member=peer.hex()[:16], reason=str(error))
        finally:
            self._dialling.discard(peer)

    # --- for `Hands` and `Forwarder` --------------------------------------------------------------------

    def is_member(self, peer: NodeId, group: GroupId) -> bool:
        """`Host`: whether a neighbour is in one of our groups."""
        found = self._groups.get(group)
        return found is not None and not self.is_draining and peer in found.machine.members

    def tell_wait(
        self, peer: NodeId, group: GroupId, chain: tuple[BlockHash, ...]
    ) -> tuple[bytes, int] | None:
        """`Host`: our load now, and the blocks that we hold of a chain."""
        found = self._groups.get(group)
        if found is None or self.is_draining or peer not in found.machine.members:
            return None
        blob = found.tell_load()
        return None if blob is None else (blob, found.held_here(chain, trio.current_time()))

    def wait_told(self, peer: NodeId, told: WaitTold) -> None:
        """`Host`: a member told its load."""
        group = self._groups.get(told.group)
        if group is not None:
            self._perform(group, group.machine.learn_load(peer, told.load, trio.current_time()))
            group.note_taken(peer, told.hand)

    async def answer_handed(
        self, group: GroupId, prompt: HandedPrompt, emit: Emit, taken: Callable[[], None]
    ) -> None:
        """`Host`: answer a prompt of another member."""
        await self.forwarder.answer_handed(self._groups[group], prompt, emit, taken)

    def placed(self, reason: str, *, is_here: bool) -> None:
        """`Observer`: count where a prompt is answered, and why there."""
        self._metrics.prompts_placed.labels("here" if is_here else "elsewhere", reason).inc()

    def group_of(self, model: str) -> ModelGroup | None:
        """`Observer`: the group of a model, if others are in it."""
        group = self.own_group_of(model)
        return group if group is not None and group.others else None

    def own_group_of(self, model: str) -> ModelGroup | None:
        """The group of a model that this node serves, even where it is alone in it."""
        return next((g for g in self._groups.values() if model in (g.card.model_id, g.card.alias)), None)
