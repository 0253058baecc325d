"""Talks to the daemon of a home over its local API.

Which daemon: the one that runs on the home asked for, else the client node of a testbed under that home.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from node.errors import NoDaemonError, NodeError
from node.home import DaemonInfo, Home
from node.testbed_record import read_record

_CONNECT_TIMEOUT_S = 5.0
_REPLY_TIMEOUT_S = 30.0
_ANSWER_TIMEOUT_S = 600.0
_START = "start one: clove up, or a local test network: clove testbed up"


class RefusedError(NodeError):
    """The daemon answered with an error; the message is its own."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon, to be asked."""

    info: DaemonInfo
    token: str = field(repr=False)

    def get(self, path: str) -> dict[str, Any]:
        """The JSON of a reading endpoint."""
        return self._json("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON reply to a post."""
        return self._json("POST", path, body)

    @contextmanager
    def stream(self, body: Mapping[str, Any]) -> Iterator["ChatStream"]:
        """A streamed chat completion; leaving the context ends the answer."""
        timeout = httpx.Timeout(_ANSWER_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
        with self._client(timeout) as client, _translated():  # noqa: SIM117 -- the inner one needs the client
            with client.stream("POST", "/v1/chat/completions", json=body) as reply:
                if reply.is_error:
                    reply.read()
                _raise_refusal(reply)
                yield ChatStream(reply)

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        timeout = httpx.Timeout(_REPLY_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
        with self._client(timeout) as client, _translated():
            reply = client.request(method, path, json=body)
            _raise_refusal(reply)
            parsed: dict[str, Any] = reply.json()
            return parsed

    def _client(self, timeout: httpx.Timeout) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}"}
        # trust_env off: a proxy of the environment must never see a prompt.
        return httpx.Client(base_url=self.info.api_url, headers=headers, timeout=timeout, trust_env=False)


class ChatStream:
    """Texts of an answer as they come; afterwards, how it ended."""

    def __init__(self, reply: httpx.Response) -> None:
        self._reply = reply
        self.answer_id = reply.headers.get("X-Answer-Id", "")
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] = {}

    def __iter__(self) -> Iterator[str]:
        for line in self._reply.iter_lines():
            if not line.startswith("data: "):
                continue
            data = line.removeprefix("data: ")
            if data == "[DONE]":
                return
            yield from self._read(json.loads(data))
        raise RefusedError("answer_incomplete", "the daemon ended the answer before it was whole")

    def _read(self, chunk: dict[str, Any]) -> Iterator[str]:
        if "error" in chunk:
            raise RefusedError(str(chunk["error"].get("code")), str(chunk["error"].get("message")))
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk.get("choices", ()):
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            text = choice.get("delta", {}).get("content")
            if text:
                yield text


def find_daemon(given: Path | None) -> Daemon:
    """The daemon to ask.

    Raises:
        NoDaemonError: none runs, or one runs and isn't ready to be asked yet.
    """
    home = Home.locate(given)
    for candidate in (home, _testbed_client(home)):
        info = candidate.daemon() if candidate else None
        if candidate and info:
            return Daemon(info, candidate.admin_token())
    holder = home.holder()
    if holder is not None:
        raise NoDaemonError(
            f"the daemon of {home.path} (pid {holder}) is still starting", "ask again in a moment"
        )
    raise NoDaemonError(f"no daemon runs on {home.path}", _START)


def _testbed_client(home: Home) -> Home | None:
    record = read_record(home)
    client = record.client if record else None
    return Home(Path(client.home)) if client else None


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except httpx.ConnectError:
        raise NoDaemonError("the daemon's API can't be reached", _START) from None
    except httpx.TimeoutException:
        raise NodeError("the daemon did not answer in time", "see its log, or: clove status") from None
    except httpx.HTTPError as error:
        raise NodeError(f"the daemon's API failed: {error}") from None


def _raise_refusal(reply: httpx.Response) -> None:
    if not reply.is_error:
        return
    try:
        error = reply.json()["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        code, message = "http_error", f"the daemon answered {reply.status_code}"
    raise RefusedError(code, message)
