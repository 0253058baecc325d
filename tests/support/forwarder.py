"""TCP proxies in front of nodes, which keep every byte that passes: what somebody on the wire would see."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import trio

LOOPBACK = "127.0.0.1"


class Forwarder:
    """Listens on a free port for each of `targets` and passes on what comes, in a thread of its own."""

    def __init__(self, targets: Mapping[str, int]) -> None:
        self.ports: dict[str, int] = {}
        self.captured: list[bytearray] = []
        """One for each direction of each connection."""
        self._targets = targets
        self._ready = threading.Event()
        self._scope = trio.CancelScope()
        self._thread = threading.Thread(target=trio.run, args=(self._run,), name="forwarder")
        self._token: trio.lowlevel.TrioToken | None = None

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        assert self._token is not None
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join()

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with self._scope:
            async with trio.open_nursery() as nursery:
                for name, port in self._targets.items():
                    (listener,) = await trio.open_tcp_listeners(0, host=LOOPBACK)
                    self.ports[name] = listener.socket.getsockname()[1]
                    nursery.start_soon(trio.serve_listeners, partial(self._serve, port), [listener])
                self._ready.set()

    async def _serve(self, port: int, client: trio.SocketStream) -> None:
        try:
            async with (
                client,
                await trio.open_tcp_stream(LOOPBACK, port) as target,
                trio.open_nursery() as both,
            ):
                both.start_soon(self._pump, client, target)
                both.start_soon(self._pump, target, client)
        except* OSError:
            pass  # nobody listens behind us (yet): the caller sees a closed connection

    async def _pump(self, source: trio.SocketStream, target: trio.SocketStream) -> None:
        kept = bytearray()
        self.captured.append(kept)
        try:
            async for data in source:
                kept += data
                await target.send_all(data)
            await target.send_eof()
        except trio.BrokenResourceError:
            await target.aclose()
            await source.aclose()
        except trio.ClosedResourceError:
            pass


@contextmanager
def forwarding(targets: Mapping[str, int]) -> Iterator[Forwarder]:
    forwarder = Forwarder(targets)
    forwarder.start()
    try:
        yield forwarder
    finally:
        forwarder.stop()
