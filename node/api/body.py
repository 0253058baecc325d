"""Reads the body of a request: bounded, and JSON or a clear refusal. Everything in it is from outside."""

import contextlib
import json
from typing import Any, NoReturn

from starlette.requests import Request

from node.api.problem import Problem, invalid

_MAX_DEPTH = 64


async def read_json_untrusted(request: Request, max_bytes: int) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        Problem: 415 for another content type, 413 over `max_bytes`, 400 for what is no JSON object.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise Problem(415, "unsupported_media_type", "send the body as JSON: Content-Type: application/json")
    return parse_json_untrusted(await _read_bounded(request, max_bytes))


def parse_json_untrusted(raw: bytes) -> dict[str, Any]:
    """Parse bytes to a JSON object of plain, finite, encodable values.

    Raises:
        Problem: 400; nothing else.
    """
    try:
        parsed = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise invalid(f"the body is not valid JSON: {reason}", code="invalid_json") from None
    if not isinstance(parsed, dict):
        raise invalid("the body must be a JSON object", code="invalid_json")
    _check_plain(parsed, 0)
    return parsed


async def _read_bounded(request: Request, max_bytes: int) -> bytes:
    received = bytearray()
    async with contextlib.aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            received += chunk
            if len(received) > max_bytes:
                raise Problem(413, "body_too_large", f"the body is longer than {max_bytes} bytes")
    return bytes(received)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check_plain(value: object, depth: int) -> None:
    """Refuse half surrogate pairs, which JSON can spell and UTF-8 cannot, infinities, and deep nesting."""
    if depth > _MAX_DEPTH:
        raise invalid("the body is nested too deeply", code="invalid_json")
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise invalid("the body holds a lone surrogate, which is no text", code="invalid_json") from None
    elif isinstance(value, float) and value in (float("inf"), float("-inf")):
        raise invalid("the body holds a number that is too large", code="invalid_json")
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check_plain(key, depth + 1)
            _check_plain(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_plain(inner, depth + 1)
