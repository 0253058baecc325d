"""Model nodes in one process: each an engine, and above it the product's own `Groups`.

In the place of links there is one queue to each node. Messages are handed over as they are, signed as they are on
links, and arrive DELAY_S later in their order; so gossip comes as seldom and as late as in a network, and asking takes
a round trip.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from benchmarks.forwarding.arms import NO_LIMIT_S
from crypto.entropy import Entropy
from crypto.identity import IdentityKey, NodeId
from node.engine.events import ModelCard
from node.engine.prompt_meter import PromptMeter
from node.engine.supervisor import Engine
from node.metrics import Metrics
from node.serving.answer_writer import AnswerWriter
from node.serving.forwarder import Forwarder
from node.serving.groups import Groups
from overlay.transport.deadlines import Deadlines
from overlay.wire.group_messages import GroupMessage
from overlay.wire.handover import HandMessage
from overlay.wire.prompt import ModelId

DELAY_S = 0.02
ACQUAINTED_S = 30.0
_NETWORK = bytes(32)

MakeForwarder = Callable[[AnswerWriter, Groups, Entropy], Forwarder]


@dataclass(frozen=True, slots=True)
class Listed:
    """A node as a directory has it: it offers the one model."""

    node_id: NodeId
    numerics_class: str

    def offer_of(self, _model: ModelId) -> "Listed":
        """The one that it has."""
        return self


@dataclass(frozen=True, slots=True)
class Roster:
    """In the place of the directory."""

    listed: tuple[Listed, ...]

    def serving(self, _model: ModelId) -> tuple[Listed, ...]:
        """All of them."""
        return self.listed


class Port:
    """In the place of one node's switch: what `Groups` and `Hands` use of it."""

    def __init__(
        self, node_id: NodeId, ports: dict[NodeId, "Port"], deadlines: Deadlines, roster: Roster
    ) -> None:
        self.links = ports
        self.deadlines = deadlines
        self.directory = roster
        self.groups: Groups | None = None
        self._node_id = node_id
        self._send, self._inbox = trio.open_memory_channel[tuple[float, NodeId, GroupMessage | HandMessage]](
            10_000
        )
        ports[node_id] = self

    async def link_to(self, _peer: NodeId) -> None:
        """There always is one."""
        await trio.lowlevel.checkpoint()

    def send_group_message(self, peer: NodeId, message: GroupMessage | HandMessage) -> bool:
        """It will be there a little later."""
        self.links[peer]._send.send_nowait((trio.current_time() + DELAY_S, self._node_id, message))  # noqa: SLF001
        return True

    async def receive(self) -> None:
        """Take what comes, for ever."""
        async for due, peer, message in self._inbox:
            await trio.sleep_until(due)
            if self.groups is not None:
                self.groups.group_message(peer, message)


@dataclass(frozen=True, slots=True)
class ModelNode:
    """One node of a run."""

    node_id: NodeId
    engine: Engine
    groups: Groups


class Fleet:
    """The engines, which last, and the model that they serve. nodes: their ids, by rising order."""

    def __init__(self, engines: Sequence[Engine], entropy: Entropy) -> None:
        self.engines = engines
        self._entropy = entropy
        keys = [IdentityKey.from_seed(bytes([number + 1]) * 32) for number in range(len(engines))]
        self._keys = sorted(keys, key=lambda key: key.node_id)

    @asynccontextmanager
    async def opened(self, meter: PromptMeter, make: MakeForwarder) -> AsyncGenerator[list[ModelNode], None]:
        """Nodes that know nothing of each other's past, and each other's loads. Their engines are as they were left."""
        card = self.engines[0].cards[0]
        roster = Roster(tuple(Listed(key.node_id, card.numerics_class) for key in self._keys))
        ports: dict[NodeId, Port] = {}
        deadlines = Deadlines()
        async with trio.open_nursery() as nursery:
            await nursery.start(deadlines.serve)
            nodes = []
            for key, engine in zip(self._keys, self.engines, strict=True):
                port = Port(key.node_id, ports, deadlines, roster)
                nodes.append(self._make_node(key, engine, port, make))
                nursery.start_soon(port.receive)
                nursery.start_soon(nodes[-1].groups.serve, [(card, meter)])
            with trio.fail_after(ACQUAINTED_S):
                while not all(_knows_all(node, card, len(nodes)) for node in nodes):  # noqa: ASYNC110 - nobody tells
                    await trio.sleep(0.1)
            yield nodes
            nursery.cancel_scope.cancel()

    def _make_node(self, key: IdentityKey, engine: Engine, port: Port, make: MakeForwarder) -> ModelNode:
        writer = AnswerWriter(engine, key, entropy=self._entropy, unix_time=_unix_time)
        groups = Groups(
            port,  # type: ignore[arg-type]
            key,
            _NETWORK,
            engine,
            writer,
            Metrics(version="", profile=""),
            entropy=self._entropy,
            unix_time=_unix_time,
            max_wait_s=NO_LIMIT_S,
        )
        groups.forwarder = make(writer, groups, self._entropy)
        return ModelNode(key.node_id, engine, groups)


def _unix_time() -> float:
    """Some day's."""
    return 1_728_000_000 + trio.current_time()


def _knows_all(node: ModelNode, card: ModelCard, count: int) -> bool:
    group = node.groups.own_group_of(card.alias)
    return group is not None and len(group.others) == count - 1
