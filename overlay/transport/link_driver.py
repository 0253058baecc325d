"""One link at work: the tasks that read and write its two streams, and the machine that they feed."""

from collections.abc import Awaitable, Callable
from typing import Protocol, assert_never

import trio

from crypto.errors import DecodeError
from crypto.identity import NodeId
from overlay.errors import RemoteProtocolError
from overlay.protocol.link import (
    CloseConnection,
    LinkMachine,
    LinkOpened,
    LinkOutput,
    MessageReceived,
    PeerGreeted,
    SendMessage,
)
from overlay.transport.base import ByteStream, Connection, StreamClosedError
from overlay.transport.link_queue import CellQueue, FrameQueue
from overlay.wire.limits import CELL_BYTES, MAX_REASON_BYTES
from overlay.wire.messages import ControlMessage, Hello, MessageReader, encode_message

READ_BYTES = 64 * 1024
WRITE_STALL_S = 30.0
"""A peer that reads nothing for so long loses the link."""

FAREWELL_S = 1.0
"""How long a closing link may take to write what it has still to say."""


class LinkHandler(Protocol):
    """Who is told what happens on links. Called from the reader tasks; may not await.

    A RemoteProtocolError or DecodeError raised from a `*_received` or from `link_opened` closes that link.
    """

    def link_opened(self, link: "Link") -> None:
        """There is a link to this peer now; called before anything else of it."""

    def link_closed(self, peer: NodeId, reason: str) -> None:
        """The link to this peer is gone; called once for each that opened, after all else of it."""

    def cell_received(self, link: "Link", cell: bytes) -> None:
        """One cell, CELL_BYTES long, came in."""

    def message_received(self, link: "Link", message: ControlMessage) -> None:
        """A control message came in that isn't the link's own business."""


class LinkOwner(Protocol):
    """What a link asks of the table it stands in."""

    def link_opened(self, link: "Link") -> None:
        """The greeting is complete."""

    def peer_broke_protocol(self, peer: NodeId, reason: str) -> None:
        """Counts a breach; the link is closed already."""


class Link:
    """A link to one neighbour. Sending never blocks: it takes what is sent, or says False."""

    def __init__(
        self,
        connection: Connection,
        machine: LinkMachine,
        owner: LinkOwner,
        handler: LinkHandler,
        *,
        dialled: bool,
    ) -> None:
        self.peer = connection.remote
        self.dialled = dialled
        self.hello: Hello | None = None
        self.close_reason: str | None = None
        self.settled = trio.Event()
        """Set once the link has opened or can't any more."""
        self._connection = connection
        self._machine = machine
        self._owner = owner
        self._handler = handler
        self._cells = CellQueue()
        self._frames = FrameQueue()
        self._messages = MessageReader()
        self._opened = trio.Event()
        self._closing = trio.Event()
        self._connection_lost = False
        self._greeted = trio.Event()

    @property
    def is_open(self) -> bool:
        """Cells and messages may be sent."""
        return self._machine.is_open

    @property
    def clock_ahead_s(self) -> int | None:
        """By how much this node's clock is ahead of the peer's; None before the peer has greeted."""
        return self._machine.clock_ahead_s

    def send_cell(self, cell: bytes, circ_id: int, *, ends: bool = False) -> bool:
        """Queues a cell; False, and nothing sent, when a queue is full or the link isn't open.

        ends: this is the circuit's last cell (DESTROY), for which there is always room.
        """
        return self._machine.is_open and self._cells.put(circ_id, cell, ends=ends)

    def send_message(self, message: ControlMessage) -> bool:
        """Queues a message; False, and nothing sent, when the queue is full or the link isn't open."""
        return self._machine.is_open and self._frames.put(encode_message(message))

    def close(self, reason: str) -> None:
        """Ends the link: the peer is told, `link_closed` follows from the link's own task."""
        short = reason.encode("ascii", "replace")[:MAX_REASON_BYTES].decode("ascii")
        self._perform(self._machine.refuse(short))

    def accept(self) -> None:
        """Answers the greeting of an inbound connection, which opens the link, unless it has ended meanwhile."""
        if not self._closing.is_set():
            self._perform(self._machine.accept(trio.current_time()))

    async def run(
        self, decide: Callable[["Link", Hello], Awaitable[None]], closed: Callable[["Link"], None]
    ) -> None:
        """Drives the link to its end and closes the connection.

        decide runs when a peer that dialled us has greeted; it calls `accept` or `close`. closed is called
        as soon as the link is over, before what is still queued has been written.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._perform(self._machine.start())
                nursery.start_soon(self._read_control)
                nursery.start_soon(self._write, self._connection.control, self._frames)
                nursery.start_soon(self._read_cells)
                nursery.start_soon(self._write, self._connection.cells, self._cells)
                nursery.start_soon(self._keep_time)
                if not self.dialled:
                    nursery.start_soon(self._settle, decide)
                await self._closing.wait()
                closed(self)
                if not self._connection_lost:
                    with trio.move_on_after(FAREWELL_S):
                        await self._frames.wait_drained()
                nursery.cancel_scope.cancel()
        finally:
            if not self._closing.is_set():  # we are being cancelled
                self._lose("shut down")
                closed(self)
            with trio.move_on_after(FAREWELL_S, shield=True):
                await self._connection.aclose()

    async def _settle(self, decide: Callable[["Link", Hello], Awaitable[None]]) -> None:
        await self._greeted.wait()
        if self.hello is not None:
            await decide(self, self.hello)

    async def _read_control(self) -> None:
        while data := await self._connection.control.receive_some(READ_BYTES):
            try:
                for message in self._messages.feed(data):
                    self._perform(self._machine.receive_message(message, trio.current_time()))
            except (RemoteProtocolError, DecodeError) as error:
                self._fail(error)
            if self._closing.is_set():
                return
        self._lose("the peer closed the connection")

    async def _read_cells(self) -> None:
        await self._opened.wait()
        partial = b""
        while data := await self._connection.cells.receive_some(READ_BYTES):
            self._machine.receive_cells(trio.current_time())
            data = partial + data if partial else data
            whole = len(data) - len(data) % CELL_BYTES
            partial = data[whole:]
            try:
                for start in range(0, whole, CELL_BYTES):
                    if self._closing.is_set():
                        return
                    self._handler.cell_received(self, data[start : start + CELL_BYTES])
            except (RemoteProtocolError, DecodeError) as error:
                self._fail(error)
                return
        # The control stream may still hold the reason, and messages before it.
        with trio.move_on_after(FAREWELL_S):
            await self._closing.wait()
        self._lose("the peer closed the connection")

    async def _write(self, stream: ByteStream, queue: CellQueue | FrameQueue) -> None:
        try:
            while True:
                data = await queue.take()
                with trio.fail_after(WRITE_STALL_S):
                    await stream.send_all(data)
        except StreamClosedError:
            self._lose("connection lost")
        except trio.TooSlowError:
            self._lose("the peer reads nothing")

    async def _keep_time(self) -> None:
        with trio.move_on_at(self._machine.next_deadline() or trio.current_time()):
            await self._opened.wait()
        while (deadline := self._machine.next_deadline()) is not None:
            await trio.sleep_until(deadline)
            self._perform(self._machine.handle_deadline(trio.current_time()))

    def _perform(self, outputs: list[LinkOutput]) -> None:
        for output in outputs:
            match output:
                case SendMessage(message):
                    self._frames.put(encode_message(message), urgent=True)
                case MessageReceived(message):
                    self._handler.message_received(self, message)
                case PeerGreeted(hello):
                    self.hello = hello
                    self._greeted.set()
                case LinkOpened(hello):
                    self.hello = hello
                    self._open()
                case CloseConnection(reason):
                    self._end(reason)
                case _:
                    assert_never(output)

    def _open(self) -> None:
        self._owner.link_opened(self)
        self._opened.set()
        self.settled.set()

    def _fail(self, error: RemoteProtocolError | DecodeError) -> None:
        reason = f"{type(error).__name__}: {error}"
        self.close("protocol violation")
        self.close_reason = reason
        self._owner.peer_broke_protocol(self.peer, reason)

    def _lose(self, reason: str) -> None:
        """The connection itself is gone, or not worth another word."""
        self._connection_lost = True
        self._machine.drop()
        self._end(reason)

    def _end(self, reason: str) -> None:
        if self.close_reason is None:
            self.close_reason = reason
        self._closing.set()
        self.settled.set()
