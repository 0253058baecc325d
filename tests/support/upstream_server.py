"""A server that speaks OpenAI's protocol badly, on a real socket: for faults that a real one can't be made to show."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio

from node.engine.settings import UpstreamModel, UpstreamSettings

MODELS = {"object": "list", "data": [{"id": "served", "object": "model", "max_model_len": 2048}]}
STREAMING = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"

Answer = Callable[[trio.SocketStream], Awaitable[None]]


def event(fields) -> bytes:
    """One server-sent event."""
    return b"data: " + (fields if isinstance(fields, bytes) else json.dumps(fields).encode()) + b"\n\n"


def said(text, **choice) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}, **choice}]})


def ended(reason="stop", **usage) -> bytes:
    counts = {"prompt_tokens": 7, "completion_tokens": 3, **usage}
    return event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "usage": counts})


DONE = event(b"[DONE]")


def reply(status: str, body=b"", **headers) -> bytes:
    """A whole HTTP reply."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def writing(*pieces: bytes) -> Answer:
    """An answer of these bytes, then the connection's end."""

    async def write(stream: trio.SocketStream) -> None:
        for piece in pieces:
            await stream.send_all(piece)

    return write


def then_silence(*pieces: bytes) -> Answer:
    """An answer that begins with these bytes and never ends."""

    async def write(stream: trio.SocketStream) -> None:
        await writing(*pieces)(stream)
        await trio.sleep_forever()

    return write


def models(listed=MODELS) -> Answer:
    return writing(reply("200 OK", listed))


def answering(*events: bytes) -> Answer:
    return writing(STREAMING, *events)


@dataclass
class FakeUpstream:
    """listing answers GET, answer POST. asked: paths, headers and bodies of the POSTs; left: those that went away."""

    listing: Answer = field(default_factory=models)
    answer: Answer = field(default_factory=lambda: answering(said("ok"), ended(), DONE))
    asked: list[tuple[str, dict[str, str], dict]] = field(default_factory=list)
    left: int = 0
    port: int = 0

    def settings(self, **changes) -> UpstreamSettings:
        fields = {
            "url": f"http://127.0.0.1:{self.port}/v1",
            "models": (UpstreamModel("alias", "served"),),
            "first_text_timeout_s": 5.0,
            "pause_timeout_s": 5.0,
            "look_s": 600.0,
        }
        return UpstreamSettings(**{**fields, **changes})

    async def handle(self, stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = await stream.receive_some()
            if not data:
                return
            head += data
        top, _, body = head.partition(b"\r\n\r\n")
        first, *lines = top.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(body) < int(headers.get("content-length", 0)):
            body += await stream.receive_some()
        method, path, _ = first.split()
        if method == "POST":
            self.asked.append((path, headers, json.loads(body)))
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, stream, nursery.cancel_scope, method)
            with suppress(trio.BrokenResourceError):  # the one who asked has gone
                await (self.listing if method == "GET" else self.answer)(stream)
            nursery.cancel_scope.cancel()

    async def _watch(self, stream: trio.SocketStream, scope: trio.CancelScope, method: str) -> None:
        """Notice that the other side goes away before it has its answer."""
        with suppress(trio.BrokenResourceError):
            await stream.receive_some()
        self.left += method == "POST"
        scope.cancel()


@asynccontextmanager
async def fake_upstream(**parts) -> AsyncIterator[FakeUpstream]:
    """One that runs."""
    server = FakeUpstream(**parts)
    async with trio.open_nursery() as nursery:
        (listener, *_) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, server.handle, [listener])
        yield server
        nursery.cancel_scope.cancel()
