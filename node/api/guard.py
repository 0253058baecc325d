"""Who may ask: the middleware in front of every endpoint, and what it gives each request.

A page in a browser can reach a loopback port. Against that: the Host must be one of ours (DNS rebinding), an
Origin must be our own (cross-site posts), bodies must be JSON (`node.api.body`), and what changes the node or
shows circuits and answers needs the admin token from the home folder. Off loopback a bearer key is required.
"""

import hmac
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.api.problem import Problem

_OPEN_PATHS = frozenset({"/livez", "/readyz", "/version"})
_ADMIN_PREFIXES = ("/api/v1/circuits", "/api/v1/answers", "/api/v1/route", "/api/v1/shutdown")
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")


@dataclass(frozen=True, slots=True)
class Access:
    """What a request needs. key may be None on loopback only; any_host: the key protects, not the Host."""

    admin_token: str = field(repr=False)
    key: str | None = field(default=None, repr=False)
    hosts: frozenset[str] = _LOOPBACK_NAMES
    any_host: bool = False

    @classmethod
    def for_host(cls, host: str, *, loopback: bool, key: str | None, admin_token: str) -> "Access":
        """Loopback answers to its own names; elsewhere the key protects, which a browser doesn't know."""
        return cls(
            admin_token, key, _LOOPBACK_NAMES | {host.lower()}, any_host=not loopback and key is not None
        )

    def check(self, path: str, headers: Headers) -> None:
        """Raise `Problem` unless this request may go on."""
        self._check_site(headers)
        if path in _OPEN_PATHS:
            return
        is_admin = _same(_bearer(headers), self.admin_token)
        if path.startswith(_ADMIN_PREFIXES):
            if not is_admin:
                raise Problem(
                    401, "admin_token_required", "send the admin token of the node's home as bearer"
                )
        elif self.key is not None and not is_admin and not _same(_bearer(headers), self.key):
            raise Problem(401, "invalid_api_key", "send the node's API key: Authorization: Bearer KEY")

    def _check_site(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if not self.any_host and _hostname(f"//{host}") not in self.hosts:
            raise Problem(403, "host_not_allowed", "this API doesn't answer to that Host")
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in {f"http://{host}".lower(), f"https://{host}".lower()}:
            raise Problem(403, "origin_not_allowed", "requests from other sites are refused")


class Guard:
    """ASGI middleware: checks `Access`, gives every request an id, and answers a `Problem` as its body."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        scope["clove.request_id"] = request_id
        send = _stamped(send, request_id)
        try:
            self._access.check(scope["path"], headers)
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _stamped(send: Send, request_id: str) -> Callable[[Message], Awaitable[None]]:
    async def stamped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = request_id
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Cache-Control"] = "no-store"
        await send(message)

    return stamped


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.match(given) else f"req-{secrets.token_hex(8)}"


def _bearer(headers: Headers) -> str:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _hostname(netloc: str) -> str:
    try:
        return (urlsplit(netloc).hostname or "").lower()
    except ValueError:
        return ""
