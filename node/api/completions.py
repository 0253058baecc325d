"""`/v1/chat/completions` and `/v1/completions`: a prompt in, its answer out, whole or as it comes.

A stream's status line is sent when its first token is there, so that a refusal (busy, no route, unknown
model) is still an HTTP error; from then on a failure is an error event and the stream ends without `[DONE]`.
A client that goes away leaves the answer's context, which ends the answer at the model node.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from node.api.body import read_json_untrusted
from node.api.openai_replies import Kind, Reply
from node.api.openai_requests import Asked, parse_chat, parse_text
from node.api.ports import AnswerStream, Service
from node.api.presence import while_present
from node.api.problem import Problem, from_overlay, unanswered
from node.clock import Clock
from node.metrics import Metrics
from overlay.errors import OverlayError
from overlay.wire.answer import AnswerAccepted, AnswerEvent, AnswerFailed, AnswerFinished, TokensGenerated

_PARSERS: Mapping[Kind, Callable[[Mapping[str, Any]], Asked]] = {"chat": parse_chat, "text": parse_text}


@dataclass(slots=True)
class Completions:
    """The two endpoints. in_flight counts answers under way, bounded by max_concurrent."""

    service: Service
    metrics: Metrics
    clock: Clock
    max_body_bytes: int
    max_concurrent: int
    answer_timeout_s: float
    in_flight: int = 0

    async def serve_chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        return await self._serve("chat", request)

    async def serve_text(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        return await self._serve("text", request)

    async def explain_route(self, request: Request) -> Response:
        """`POST /api/v1/route`: where a conversation's next turn would be answered; admin only."""
        asked = parse_chat(await read_json_untrusted(request, self.max_body_bytes))
        with self.admit():
            found = await self.service.explain_route(asked.prompt, cache=asked.cache or "public")
        return JSONResponse(asdict(found))

    async def _serve(self, kind: Kind, request: Request) -> Response:
        asked = _PARSERS[kind](await read_json_untrusted(request, self.max_body_bytes))
        self._check_model(asked.prompt.model)
        return _AnswerResponse(self, kind, asked)

    def _check_model(self, wanted: str) -> None:
        models = self.service.models()
        if any(wanted in (model.model_id, model.alias) for model in models):
            return
        if not models:
            reasons = "; ".join(self.service.ready().reasons) or "no model node is known yet"
            raise Problem(503, "no_model_nodes", f"no node that serves a model is known: {reasons}")
        known = ", ".join(sorted({model.alias for model in models}))
        raise Problem(
            404, "model_not_found", f"no node serves the model {wanted!r}; served: {known}", param="model"
        )

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """Count an answer in, or refuse it with 429."""
        if self.in_flight >= self.max_concurrent:
            self.metrics.requests.labels("refused").inc()
            raise Problem(429, "busy", f"{self.max_concurrent} answers are under way already")
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1


class _AnswerResponse(Response):
    """An ASGI response that is the answer itself; it lives exactly as long as its client listens."""

    def __init__(self, completions: Completions, kind: Kind, asked: Asked) -> None:
        super().__init__()
        self._completions = completions
        self._kind: Kind = kind
        self._asked = asked
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        metrics = self._completions.metrics

        last: Response | bytes = b""

        async def work() -> None:
            nonlocal last
            try:
                last = await self._answer_in_time(send)
            except* (Problem, OverlayError) as group:
                problem = _first_problem(group)
                metrics.requests.labels("refused" if problem.status < 500 else "failed").inc()
                last = _sse(problem.body()) if self._started else problem.response()
            else:
                metrics.requests.labels("ok").inc()

        # The last bytes go out after the answer's context has closed: a client that has them finds the answer
        # kept, and the disconnect that follows them is not taken for one that ends the answer.
        if not await while_present(receive, work):
            metrics.requests.labels("cancelled").inc()
        elif isinstance(last, Response):
            await last(scope, receive, send)
        else:
            await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _answer_in_time(self, send: Send) -> Response | bytes:
        timeout_s = self._completions.answer_timeout_s
        last: Response | bytes = b""
        with self._completions.admit(), trio.move_on_after(timeout_s) as deadline:
            async with self._completions.service.complete(
                self._asked.prompt, cache=self._asked.cache
            ) as stream:
                last = await self._relay(stream, send)
        if deadline.cancelled_caught:
            raise unanswered("timeout", f"the answer wasn't whole after {timeout_s:g} s")
        return last

    async def _relay(self, stream: AnswerStream, send: Send) -> Response | bytes:
        """Pass the events on; what is left to send at the end is returned."""
        completions, prompt = self._completions, self._asked.prompt
        unix_time = int(completions.clock.unix_time())
        tells = prompt.sampler.logprobs is not None
        reply = Reply(self._kind, stream.answer_id, prompt.model, unix_time, self._asked.include_usage, tells)
        finished: AnswerFinished | None = None
        stopwatch = _Stopwatch(completions.metrics, completions.clock)
        async for event in stream:
            stopwatch.observe(event)
            match event:
                case AnswerFailed(code, message, retry_after_s):
                    raise unanswered(code, message, retry_after_s)
                case AnswerFinished():
                    finished = event
                case TokensGenerated() if not self._asked.stream:
                    reply.parts.append(event)
                case _:
                    pass
            # That a model node has the prompt says nothing yet: its engine may still refuse it.
            if self._asked.stream and not isinstance(event, AnswerAccepted):
                await self._send_event(event, reply, send)
        if finished is None:
            raise unanswered("answer_incomplete", "the answer ended before it was whole")
        if self._asked.stream:
            return b"data: [DONE]\n\n"
        content = json.dumps(reply.whole(finished), separators=(",", ":"))
        return Response(content, 200, {"X-Answer-Id": reply.answer_id}, "application/json")

    async def _send_event(self, event: AnswerEvent, reply: Reply, send: Send) -> None:
        chunks: list[dict[str, Any] | None] = []
        if not self._started:
            await self._start(reply, send)
            chunks.append(reply.opening())
        if isinstance(event, TokensGenerated):
            chunks.append(reply.tokens(event))
        elif isinstance(event, AnswerFinished):
            chunks += reply.closing(event)
        data = b"".join(_sse(chunk) for chunk in chunks if chunk is not None)
        if data:
            await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _start(self, reply: Reply, send: Send) -> None:
        self._started = True
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"x-answer-id", reply.answer_id.encode("ascii")),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})


class _Stopwatch:
    """Observes when an answer's tokens came and when it was whole, from the opening of its stream."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._started = self._last = clock.now()
        self._has_tokens = False

    def observe(self, event: AnswerEvent) -> None:
        now = self._clock.now()
        if isinstance(event, TokensGenerated):
            (self._metrics.inter_token if self._has_tokens else self._metrics.ttft).observe(now - self._last)
            self._has_tokens, self._last = True, now
        elif isinstance(event, AnswerFinished):
            self._metrics.e2e.observe(now - self._started)


def _first_problem(group: BaseExceptionGroup[Problem | OverlayError]) -> Problem:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return from_overlay(error) if isinstance(error, OverlayError) else cast("Problem", error)


def _sse(value: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
