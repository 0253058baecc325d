"""Errors of the local API: a status, and the body that OpenAI's clients know.

The same body is the answer of an HTTP request and, once an answer streams, the last event of it.
"""

import json
import math
from typing import Any

from starlette.responses import Response

from overlay.errors import AnswerError, NoRouteError, OverlayError, UnreachableError

_STATUS_BY_CODE = {
    "busy": 429,
    "overloaded": 429,
    "queue_full": 429,
    "rate_limited": 429,
    "model_not_found": 404,
    "context_length_exceeded": 400,
    "prompt_too_long": 400,
    "invalid_prompt": 400,
    "bad_request": 400,
    "no_route": 503,
    "draining": 503,
    "loading": 503,
    "timeout": 504,
    "expired": 504,
}
_DEFAULT_RETRY_S = {429: 1.0, 503: 5.0}


class Problem(Exception):  # noqa: N818 -- an answer to the client, as much as an error of ours
    """A request that ends in an error body. `param` names the field at fault."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s if retry_after_s is not None else _DEFAULT_RETRY_S.get(status)

    @property
    def kind(self) -> str:
        """OpenAI's `type`."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        return kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    def body(self) -> dict[str, Any]:
        """The JSON that a client reads."""
        inner = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": inner}

    def response(self) -> Response:
        """The whole HTTP response."""
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        content = json.dumps(self.body(), separators=(",", ":"))
        return Response(content, self.status, headers, "application/json")


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> Problem:
    """A request that can't be understood or isn't supported: 400."""
    return Problem(400, code, message, param=param)


def unanswered(code: str, message: str, retry_after_s: float | None = None) -> Problem:
    """What a failed answer looks like over HTTP."""
    return Problem(_STATUS_BY_CODE.get(code, 502), code, message, retry_after_s=retry_after_s)


def from_overlay(error: OverlayError) -> Problem:
    """What the overlay's error looks like over HTTP."""
    if isinstance(error, AnswerError):
        return unanswered(error.code, str(error), error.retry_after_s)
    if isinstance(error, NoRouteError):
        return unanswered("no_route", str(error))
    if isinstance(error, UnreachableError):
        return Problem(503, "unreachable", str(error))
    return Problem(502, "overlay_error", str(error))
