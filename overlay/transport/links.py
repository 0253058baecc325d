"""All links of a node: at most one to each neighbour, whoever dialled.

The rules for two nodes that dial each other at once are in `overlay.protocol.link`; this driver keeps what
they need: which links are open and which dials are under way.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import trio

from crypto.entropy import Entropy
from crypto.identity import NodeId
from overlay.errors import LocalProtocolError, UnreachableError
from overlay.protocol.link import Inbound, LinkMachine, LinkTiming, settle_inbound
from overlay.transport.base import Connection, Transport
from overlay.transport.link_driver import Link, LinkHandler
from overlay.wire.limits import MAX_LINKS, MAX_PENDING_ACCEPTS
from overlay.wire.messages import INSTANCE_BYTES, Hello

__all__ = ["Link", "LinkHandler", "Links"]

HOLD_S = 3.0
"""How long an inbound connection waits for our own dial, or our own link, to that peer to end; then it is
taken."""


@dataclass(slots=True)
class _Dial:
    """One attempt of ours, shared by all who want a link to that peer."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    link: Link | None = None
    error: str = "given up"

    def give_up(self) -> None:
        self.scope.cancel()
        if self.link is not None and not self.link.is_open:
            self.link.close("crossed dials")


class Links:
    """Opens, accepts and keeps links. `hello` makes our greeting anew for each link."""

    def __init__(
        self,
        transport: Transport,
        handler: LinkHandler,
        hello: Callable[[], Hello],
        *,
        timing: LinkTiming | None = None,
        entropy: Entropy = os.urandom,
    ) -> None:
        self.counters: Counter[str] = Counter()
        """links_opened, links_closed, dials_failed, inbound_refused, protocol_violations."""
        self._transport = transport
        self._handler = handler
        self._hello = hello
        self._timing = timing or LinkTiming()
        self._instance = entropy(INSTANCE_BYTES)
        self._links: dict[NodeId, Link] = {}
        self._dials: dict[NodeId, _Dial] = {}
        self._greeting = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery | None = None

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accepts and drives links until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await nursery.start(self._transport.serve, self._accept)
                task_status.started()
        finally:
            self._nursery = None

    def get(self, node_id: NodeId) -> Link | None:
        """Returns the open link to this node, if there is one."""
        link = self._links.get(node_id)
        return link if link is not None and link.is_open else None

    def open_links(self) -> tuple[Link, ...]:
        """Returns all open links."""
        return tuple(link for link in self._links.values() if link.is_open)

    def clock_ahead_s(self) -> int | None:
        """By how much this node's clock is ahead of its neighbours', the median; None where there are none."""
        told = [link.clock_ahead_s for link in self.open_links()]
        apart = sorted(each for each in told if each is not None)
        return apart[len(apart) // 2] if apart else None

    async def link_to(self, node_id: NodeId, addresses: Sequence[str]) -> Link:
        """Returns the link to a node, dialling it where there is none yet. Raises UnreachableError.

        Cancelling the call leaves the dial to others who wait for it; it ends by itself.
        """
        link = self.get(node_id)
        if link is not None:
            return link
        dial = self._dials.get(node_id) or self._start_dial(node_id, addresses)
        await dial.done.wait()
        link = self.get(node_id)
        if link is None:
            raise UnreachableError(f"no link to {node_id.hex()[:16]}: {dial.error}")
        return link

    def _start_dial(self, node_id: NodeId, addresses: Sequence[str]) -> _Dial:
        if self._nursery is None:
            raise LocalProtocolError("link_to needs serve to run")
        if node_id == self._transport.node_id:
            raise LocalProtocolError("a node has no link to itself")
        if len(self._links) + len(self._dials) >= MAX_LINKS:
            raise UnreachableError(f"no link to {node_id.hex()[:16]}: {MAX_LINKS} links are open already")
        dial = self._dials[node_id] = _Dial()
        self._nursery.start_soon(self._run_dial, node_id, tuple(addresses), dial)
        return dial

    async def _run_dial(self, node_id: NodeId, addresses: Sequence[str], dial: _Dial) -> None:
        try:
            with dial.scope:
                connection = await self._transport.dial(node_id, addresses)
                dial.link = self._make_link(connection, dialled=True)
                if self._nursery is not None:
                    self._nursery.start_soon(dial.link.run, self._decide, self._link_over)
                await dial.link.settled.wait()
                dial.error = dial.link.close_reason or dial.error
        except UnreachableError as error:
            dial.error = str(error)
        finally:
            del self._dials[node_id]
            if self.get(node_id) is None:
                self.counters["dials_failed"] += 1
            dial.done.set()
            self._changed.unpark_all()

    async def _accept(self, connection: Connection) -> None:
        full = self._greeting >= MAX_PENDING_ACCEPTS or len(self._links) >= MAX_LINKS
        if full or connection.remote == self._transport.node_id:
            self.counters["inbound_refused"] += 1
            return
        link = self._make_link(connection, dialled=False)
        self._greeting += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.run, self._decide, self._link_over)
                await link.settled.wait()
                self._greeting -= 1
        except BaseException:
            if not link.settled.is_set():
                self._greeting -= 1
            raise

    def _make_link(self, connection: Connection, *, dialled: bool) -> Link:
        own_hello = replace(self._hello(), instance=self._instance)
        machine = LinkMachine(own_hello, dialled=dialled, timing=self._timing, now=trio.current_time())
        return Link(connection, machine, self, self._handler, dialled=dialled)

    async def _decide(self, link: Link, hello: Hello) -> None:
        """Keeps a greeted inbound connection at once, or after a wait for what stands in its way."""
        with trio.move_on_after(HOLD_S):
            while self._settle(link.peer, hello) is Inbound.HOLD:
                await self._changed.park()
        link.accept()

    def _settle(self, peer: NodeId, hello: Hello) -> Inbound:
        standing = self.get(peer)
        return settle_inbound(
            self._transport.node_id,
            peer,
            hello,
            dialling=peer in self._dials,
            linked=standing.hello if standing is not None else None,
        )

    def link_opened(self, link: Link) -> None:
        """A link has greeted and been greeted: it takes the peer's place in the table. Called by the link."""
        standing = self._links.get(link.peer)
        if standing is not None:
            standing.close("replaced")
            self._link_over(standing)
        dial = self._dials.get(link.peer)
        self._links[link.peer] = link
        self.counters["links_opened"] += 1
        if dial is not None and dial.link is not link:
            dial.give_up()
        self._changed.unpark_all()
        self._handler.link_opened(link)

    def peer_broke_protocol(self, peer: NodeId, reason: str) -> None:
        """Counts a breach of the protocol. Called by the link."""
        del peer, reason
        self.counters["protocol_violations"] += 1

    def _link_over(self, link: Link) -> None:
        """Takes a link out of the table and tells the handler, once."""
        if self._links.get(link.peer) is not link:
            return  # it never opened, or another has taken its place
        del self._links[link.peer]
        self.counters["links_closed"] += 1
        self._changed.unpark_all()
        self._handler.link_closed(link.peer, link.close_reason or "closed")
