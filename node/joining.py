"""How a node becomes and stays a part of the network: it announces itself, and it keeps some neighbours.

The descriptor is signed anew every `refresh_s`, taken into our own directory (from where anti-entropy spreads it)
and put into the DHT. A node with fewer than `degree` links dials its bootstrap nodes and then nodes drawn from the
directory; what a link needs to know of a node that the directory has lost is looked up in the DHT.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from crypto.entropy import Entropy
from crypto.errors import CryptoError
from crypto.identity import IdentityKey, NodeId
from node.keys import KeyRing
from node.logs import get_logger
from node.metrics import Metrics
from overlay.errors import LocalProtocolError, UnreachableError
from overlay.routing.draw import draw_below
from overlay.transport.switch import Switch
from overlay.wire.descriptor import (
    SEQ_SLACK_S,
    Descriptor,
    EpochKey,
    ModelOffer,
    Role,
    sign_descriptor,
)

log = get_logger("joining")


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinTiming:
    """Seconds between announcements, how long one is valid, and seconds between looks at our neighbours."""

    refresh_s: float = 120.0
    ttl_s: int = 900
    look_s: float = 5.0
    degree: int = 3
    dial_timeout_s: float = 10.0


class RecordTable(Protocol):
    """The DHT, as far as joining uses it."""

    async def put(self, record: bytes) -> None:
        """Keep a descriptor with the nodes nearest to its key."""

    async def get(self, node_id: NodeId) -> bytes | None:
        """Look a descriptor up."""

    async def add_peer(self, node_id: NodeId, addresses: Sequence[str]) -> None:
        """Tell the table of a node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a node says of itself beside its keys. The callables are asked anew for each announcement."""

    roles: frozenset[Role]
    operator: str
    difficulty: int
    addresses: Callable[[], tuple[str, ...]]
    models: Callable[[], tuple[ModelOffer, ...]]


class Announcer:
    """Signs, publishes and renews this node's descriptor, and turns its keys over."""

    def __init__(
        self,
        switch: Switch,
        key: IdentityKey,
        ring: KeyRing,
        profile: Profile,
        *,
        table: RecordTable | None,
        timing: JoinTiming,
        unix_time: Callable[[], float],
        keys_changed: Callable[[], None],
        metrics: Metrics,
    ) -> None:
        self._switch = switch
        self._key = key
        self._ring = ring
        self._profile = profile
        self._table = table
        self._timing = timing
        self._unix_time = unix_time
        self._keys_changed = keys_changed
        self._metrics = metrics
        self._seq = 0
        self._again = trio.Event()

    def announce_soon(self) -> None:
        """Something that the descriptor says has changed."""
        self._again.set()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Announce now and then again, until cancelled."""
        self.rotate()
        task_status.started()
        while True:
            self._again = trio.Event()
            self.rotate()
            await self._announce()
            with trio.move_on_after(self._timing.refresh_s):
                await self._again.wait()

    def rotate(self) -> None:
        """Turn the keys over where a new epoch has begun."""
        if self._ring.rotate(self._unix_time()):
            self._keys_changed()

    async def _announce(self) -> None:
        try:
            record = self._sign()
            self._switch.publish(record)
        except LocalProtocolError as error:
            # More addresses than a descriptor may have, say. What is served here goes on; only the news is lost.
            log.warning("this node can't announce itself", reason=str(error))
        else:
            await self._put(record)

    async def _put(self, record: bytes) -> None:
        if self._table is None or not self._switch.links.open_links():
            return
        try:
            await self._table.put(record)
        except CryptoError as error:
            self._metrics.dht_ops.labels("put", "refused").inc()
            log.warning("our own descriptor was refused", reason=str(error))
        else:
            self._metrics.dht_ops.labels("put", "ok").inc()

    def _sign(self) -> bytes:
        unix_time = self._unix_time()
        # Where the clock was put back further than a number may run ahead of its time, nobody believes our last
        # descriptor any more, and numbers start again.
        runs_ahead = self._seq >= (int(unix_time) + SEQ_SLACK_S) * 1000
        self._seq = max(0 if runs_ahead else self._seq + 1, int(unix_time * 1000))
        profile, keys = self._profile, sorted(self._ring.keys, key=lambda held: held.epoch)
        onion = tuple(EpochKey(held.epoch, held.onion.public) for held in keys)
        sealing = tuple(EpochKey(held.epoch, held.sealing.public) for held in keys)
        models = profile.models()
        # A node whose models are still being loaded is none to send prompts to.
        roles = profile.roles if models else profile.roles - {Role.MODEL}
        descriptor = Descriptor(
            node_id=self._key.node_id,
            seq=self._seq,
            issued_unix=int(unix_time),
            ttl_s=self._timing.ttl_s,
            addresses=profile.addresses(),
            roles=roles,
            onion_keys=onion if Role.RELAY in roles else (),
            sealing_keys=sealing if Role.MODEL in roles else (),
            models=models,
            operator=profile.operator,
            difficulty=profile.difficulty,
        )
        return sign_descriptor(self._key, descriptor)


class Neighbourhood:
    """Keeps this node linked to a few others."""

    def __init__(
        self,
        switch: Switch,
        entry_points: Sequence[tuple[NodeId, str]],
        *,
        table: RecordTable | None,
        timing: JoinTiming,
        entropy: Entropy,
        metrics: Metrics,
    ) -> None:
        self._switch = switch
        self._entry_points = tuple(point for point in entry_points if point[0] != switch.node_id)
        self._table = table
        self._timing = timing
        self._entropy = entropy
        self._metrics = metrics
        self._told: set[NodeId] = set()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look after our links until cancelled."""
        task_status.started()
        while True:
            await self._look()
            await self._tell_table()
            await trio.sleep(self._timing.look_s)

    async def _look(self) -> None:
        linked = {link.peer for link in self._switch.links.open_links()}
        missing = self._timing.degree - len(linked)
        if missing <= 0:
            return
        async with trio.open_nursery() as nursery:
            for node_id, address in self._entry_points:
                if node_id not in linked:
                    nursery.start_soon(self._dial, node_id, (address,))
            for node in self._draw(linked, missing):
                nursery.start_soon(self._dial, node.node_id, node.addresses)

    def _draw(self, linked: set[NodeId], count: int) -> list[Descriptor]:
        entries = {node_id for node_id, _ in self._entry_points}
        others = [
            node
            for node in self._switch.directory
            if node.addresses and node.node_id not in linked | entries | {self._switch.node_id}
        ]
        drawn: list[Descriptor] = []
        while others and len(drawn) < count:
            drawn.append(others.pop(draw_below(len(others), self._entropy)))
        return drawn

    async def _dial(self, node_id: NodeId, addresses: Sequence[str]) -> None:
        try:
            with trio.fail_after(self._timing.dial_timeout_s):
                await self._switch.link_to(node_id, addresses)
        except (UnreachableError, trio.TooSlowError):
            log.debug("a neighbour can't be reached", node=node_id.hex()[:16])
            await self._look_up(node_id)

    async def _look_up(self, node_id: NodeId) -> None:
        """A node can't be reached where we thought it was: perhaps it has moved and said so in the DHT."""
        if self._table is None or not self._switch.links.open_links():
            return
        record = await self._table.get(node_id)
        self._metrics.dht_ops.labels("get", "found" if record is not None else "missing").inc()
        if record is not None:
            self._switch.learn((record,))

    async def _tell_table(self) -> None:
        """The DHT finds nobody by itself: it hears of our neighbours from us."""
        if self._table is None:
            return
        links = self._switch.links.open_links()
        self._told.intersection_update(link.peer for link in links)
        for link in links:
            descriptor = self._switch.directory.find(link.peer)
            if descriptor is not None and link.peer not in self._told:
                self._told.add(link.peer)
                await self._table.add_peer(link.peer, descriptor.addresses)
