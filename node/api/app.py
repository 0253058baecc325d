"""The local HTTP API as an ASGI application: routes, the guard before them, errors as OpenAI bodies."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from node.api.completions import Completions
from node.api.guard import Access, Guard
from node.api.ports import Service
from node.api.problem import Problem, from_overlay
from node.api.reports import Reports
from node.clock import Clock
from node.config import Config
from node.logs import get_logger
from node.metrics import Metrics
from overlay.errors import OverlayError


def build_app(
    service: Service, *, config: Config, access: Access, metrics: Metrics, clock: Clock
) -> Starlette:
    """Everything under the API's address."""
    completions = Completions(
        service,
        metrics,
        clock,
        max_body_bytes=config.api.max_body_bytes,
        max_concurrent=config.limits.concurrent_requests,
        answer_timeout_s=config.limits.answer_timeout_s,
    )
    return Starlette(
        routes=_routes(completions, Reports(service, metrics)),
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={
            Problem: _on_problem,
            OverlayError: _on_overlay_error,
            HTTPException: _on_http_error,
            Exception: _on_fault,
        },
    )


def _routes(completions: Completions, reports: Reports) -> list[Route]:
    return [
        Route("/v1/chat/completions", completions.serve_chat, methods=["POST"]),
        Route("/v1/completions", completions.serve_text, methods=["POST"]),
        Route("/v1/models", reports.openai_models),
        Route("/v1/models/{model:path}", reports.openai_model),
        Route("/livez", reports.livez),
        Route("/readyz", reports.readyz),
        Route("/metrics", reports.metrics_page),
        Route("/version", reports.version_page),
        Route("/api/v1/status", reports.status),
        Route("/api/v1/peers", reports.peers),
        Route("/api/v1/models", reports.models),
        Route("/api/v1/circuits", reports.circuits),
        Route("/api/v1/answers/{answer_id}", reports.answer),
        Route("/api/v1/route", completions.explain_route, methods=["POST"]),
        Route("/api/v1/shutdown", reports.shutdown, methods=["POST"]),
    ]


async def _on_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101 -- the table above sends nothing else here
    return error.response()


async def _on_overlay_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, OverlayError)  # noqa: S101 -- the table above sends nothing else here
    return from_overlay(error).response()


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 -- the table above sends nothing else here
    problem = Problem(error.status_code, "http_error", f"{request.method} {request.url.path}: {error.detail}")
    response = problem.response()
    response.headers.update(error.headers or {})
    return response


async def _on_fault(request: Request, error: Exception) -> Response:
    # The daemon's supervision edge for HTTP: the client learns that it failed, the log learns why.
    get_logger("api").error("request failed", path=request.url.path, exc_info=error)
    return Problem(500, "internal_error", "the node failed on this request; its log says why").response()
