"""An engine that somebody else runs: prompts go to an OpenAI-compatible server, which answers them.

The server is looked at every few seconds while it has nothing to do for us, and at once when a request has failed. What
it serves then is `cards`; while it is down there are none and `trouble` says why, so that the node stops offering
its models, and every prompt fails at once, so that clients go elsewhere. At the start a server that is down is
waited for, like at any other time.

What comes from the server is parsed strictly and bounded: it is the operator's own, but its bytes go to strangers.
"""

import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress

import httpx
import structlog
import trio

from crypto.errors import DecodeError
from node.engine.errors import (
    EngineBusyError,
    EngineCrashedError,
    EngineError,
    PromptRefusedError,
    UnknownModelError,
    UpstreamDownError,
    UpstreamMalformedError,
)
from node.engine.events import CacheScope, EngineEvent, GenerationFinished, ModelCard
from node.engine.openai_codec import decode_models
from node.engine.settings import UpstreamModel, UpstreamSettings
from node.engine.upstream_answer import UpstreamAnswer
from node.engine.upstream_request import denied, refusal_of, request_of
from overlay.wire.answer_terms import UPSTREAM
from overlay.wire.prompt import Prompt
from verify.stated import upstream_model_id

_LOG = structlog.get_logger(__name__)

_FIRST_GUESS_S = 10.0
_WEIGHT_OF_LAST = 0.2
_REFUSAL_BYTES = 1 << 14
_LIST_BYTES = 1 << 20
_NAMES_SHOWN = 5
_CLOSE_S = 1.0
_OK = 200


class UpstreamEngine:
    """Answers prompts with the models of one server.

    Attributes:
        changed: set when `cards` or `trouble` are not what they were; each change has an event of its own.
        trouble: why a model that should be served is not, as a sentence for the operator; None where all are.
    """

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings
        self._ids = {upstream_model_id(model.alias): model for model in settings.models}
        self._cards: tuple[ModelCard, ...] = ()
        self._client: httpx.AsyncClient | None = None
        self._places = trio.Semaphore(settings.max_batch)
        self._active = 0
        self._request_s = _FIRST_GUESS_S
        self._last_sign = -math.inf
        self._look_now = trio.Event()
        self.trouble: str | None = f"{settings.url} has not been looked at yet"
        self.changed = trio.Event()

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The models that the server serves now."""
        return self._cards

    @property
    def active_requests(self) -> int:
        """Answers being generated or waiting for it."""
        return self._active

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look after the server for ever; started when it has been looked at once, whatever it said."""
        async with _connect(self._settings) as client:
            self._client = client
            try:
                while True:
                    self._look_now = trio.Event()
                    await self._look(client)
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    await self._wait_to_look()
            finally:
                self._client = None
                self._note((), "the engine was stopped")

    @asynccontextmanager
    async def generate(
        self,
        prompt: Prompt,
        *,
        cache: CacheScope = "session",
        session: bytes = b"",
        given_ids: tuple[int, ...] = (),
    ) -> AsyncGenerator[AsyncIterator[EngineEvent], None]:
        """Answer a prompt; the events end with GenerationFinished. Leaving the context ends the server's work on it.

        cache and session are for engines of ours: whose prompts the server lets share what it computed is its affair.

        Raises:
            UnknownModelError, EngineBusyError, EngineCrashedError: on entering, and from the events.
            PromptRefusedError: from the events; on entering, where another node has begun the answer.
        """
        del cache, session
        if given_ids:
            raise PromptRefusedError(
                "an upstream engine can't go on with an answer that another node has begun"
            )
        client, card = self._ready(prompt.model)
        if self._active >= self._settings.max_batch + self._settings.max_queue:
            raise EngineBusyError(self._predicted_wait_s())
        self._active += 1
        try:
            async with aclosing(self._answer(client, card, prompt)) as events:
                yield events
        finally:
            self._active -= 1

    def _ready(self, model: str) -> tuple[httpx.AsyncClient, ModelCard]:
        for card in self._cards:
            if self._client is not None and model in (card.alias, card.model_id):
                return self._client, card
        if not any(model in (model_id, kept.alias) for model_id, kept in self._ids.items()):
            raise UnknownModelError(model, tuple(kept.alias for kept in self._ids.values()))
        raise UpstreamDownError(self.trouble or "it does not serve this model")

    def _predicted_wait_s(self) -> float:
        """When a place should be free: the mean time of a request, over the places there are."""
        return max(1.0, math.ceil(self._request_s / self._settings.max_batch))

    # --- one answer -------------------------------------------------------------------------------------

    async def _answer(
        self, client: httpx.AsyncClient, card: ModelCard, prompt: Prompt
    ) -> AsyncGenerator[EngineEvent, None]:
        asked = trio.current_time()
        async with self._places:
            begun = trio.current_time()
            first: float | None = None
            answer = UpstreamAnswer(prompt.sampler)
            try:
                async with aclosing(self._bytes_of(client, card, prompt, answer)) as parts:
                    async for data in parts:
                        for event in answer.feed(data):
                            first = first or self._last_sign
                            yield event
                rest, reason = answer.finish()
            except EngineError as error:
                self._note_failure(error)
                raise
            for event in rest:
                yield event
            now = trio.current_time()
            first = first or now
            self._request_s += _WEIGHT_OF_LAST * (now - asked - self._request_s)
            used = answer.usage
            counts = (used.prompt_tokens, used.completion_tokens, used.cached_tokens)
            yield GenerationFinished(reason, *counts, begun - asked, first - begun, now - first)

    async def _bytes_of(
        self, client: httpx.AsyncClient, card: ModelCard, prompt: Prompt, answer: UpstreamAnswer
    ) -> AsyncGenerator[bytes, None]:
        """What the server sends until the answer is over, or the server ends it. Raises EngineError."""
        settings = self._settings
        path, body = request_of(prompt, self._ids[card.model_id].name, card.context_tokens)
        try:
            async with client.stream("POST", path, json=body) as reply:
                await self._check(reply, card)
                async with _parts_of(reply) as parts:
                    while not answer.is_over:
                        limit_s = (
                            settings.pause_timeout_s if answer.has_begun else settings.first_text_timeout_s
                        )
                        with trio.fail_after(limit_s):
                            data = await anext(parts, b"")
                        if not data:
                            return
                        self._last_sign = trio.current_time()
                        yield data
        except (httpx.TimeoutException, trio.TooSlowError) as error:
            raise UpstreamDownError("it fell silent over an answer") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise UpstreamDownError(f"{type(error).__name__} over an answer") from error

    async def _check(self, reply: httpx.Response, card: ModelCard) -> None:
        if reply.status_code != _OK:
            body = b"" if reply.status_code >= 500 else await _read(reply, _REFUSAL_BYTES)
            raise refusal_of(
                reply.status_code,
                body,
                alias=card.alias,
                retry_after=reply.headers.get("retry-after"),
                guess_s=self._predicted_wait_s(),
                secret=self._settings.key,
            )
        if not reply.headers.get("content-type", "").startswith("text/event-stream"):
            raise UpstreamMalformedError("it does not stream")
        if reply.headers.get("content-encoding", "identity") != "identity":
            raise UpstreamMalformedError("it compresses what was not to be compressed")

    def _note_failure(self, error: EngineError) -> None:
        """A failure that is the server's: see at once whether it is still there."""
        if isinstance(error, EngineCrashedError | UnknownModelError):
            _LOG.warning("an upstream answer failed", reason=str(error))
            self._look_now.set()

    # --- the server's health ----------------------------------------------------------------------------

    async def _wait_to_look(self) -> None:
        """Until a request has failed, or a while has passed and nothing is under way.

        An answer that is under way shows that the server lives, or fails within its own time. And some servers break
        off what they compute when they are asked for something else.
        """
        while True:
            with trio.move_on_after(self._settings.look_s):
                await self._look_now.wait()
            if self._look_now.is_set() or not self._active:
                return

    async def _look(self, client: httpx.AsyncClient) -> None:
        """See what is served now."""
        began = trio.current_time()
        try:
            with trio.fail_after(self._settings.look_timeout_s):
                served = decode_models(await self._list(client))
        except (httpx.TimeoutException, trio.TooSlowError):
            # Some servers answer nothing else while they compute. One whose tokens come is not down.
            if self._last_sign < began:
                self._note((), f"{self._settings.url} gave no answer in time")
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            self._note(
                (),
                f"nothing answers at {self._settings.url} ({type(error).__name__}): start the server there",
            )
        except EngineError as error:
            self._note((), f"{self._settings.url}: {error}")
        except DecodeError as error:
            self._note((), f"{self._settings.url} does not list its models as OpenAI does: {error}")
        else:
            self._note(*self._cards_of(served))

    async def _list(self, client: httpx.AsyncClient) -> bytes:
        async with client.stream("GET", "models") as reply:
            if reply.status_code == _OK:
                return await _read(reply, _LIST_BYTES)
            if reply.status_code == httpx.codes.NOT_FOUND:
                raise UpstreamMalformedError(
                    "it has no list of models there; the URL of most servers ends in /v1"
                )
            if reply.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                raise denied(reply.status_code)
            raise UpstreamDownError(f"it answers {reply.status_code}")

    def _cards_of(self, served: dict[str, int | None]) -> tuple[tuple[ModelCard, ...], str | None]:
        cards, troubles = [], []
        for model_id, model in self._ids.items():
            context_tokens = self._settings.context_tokens or served.get(model.name)
            if model.name not in served:
                troubles.append(_missing(model, served))
            elif context_tokens is None:
                troubles.append(
                    f"the server does not say how many tokens {model.name!r} takes: set engine.upstream_context_tokens"
                )
            else:
                cards.append(ModelCard(model_id, model.alias, UPSTREAM, context_tokens))
        return tuple(cards), "; ".join(troubles) or None

    def _note(self, cards: tuple[ModelCard, ...], trouble: str | None) -> None:
        if (cards, trouble) == (self._cards, self.trouble):
            return
        self._cards, self.trouble = cards, trouble
        self.changed.set()
        self.changed = trio.Event()


async def look_once(settings: UpstreamSettings) -> tuple[tuple[ModelCard, ...], str | None]:
    """What a server serves now, and what is wrong with it, if anything is."""
    engine = UpstreamEngine(settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        found = engine.cards, engine.trouble
        nursery.cancel_scope.cancel()
    return found


def _connect(settings: UpstreamSettings) -> httpx.AsyncClient:
    """A client for this one server. Prompts go there and nowhere else: no proxy of the environment, no redirects."""
    headers = {"Accept-Encoding": "identity"}
    if settings.key is not None:
        headers["Authorization"] = f"Bearer {settings.key}"
    return httpx.AsyncClient(
        base_url=settings.url,
        headers=headers,
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(settings.first_text_timeout_s, connect=settings.connect_timeout_s),
        # A connection for each prompt: one that was kept could be closed by the server just as it is used again.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
    )


@asynccontextmanager
async def _parts_of(reply: httpx.Response) -> AsyncGenerator[AsyncIterator[bytes], None]:
    """The body as it comes, none of it empty; left, the connection is closed at once.

    httpx nests generators that it does not close. Read on after the close, each ends with an error as it should;
    else the garbage collector would find them, and trio complain.
    """
    parts = reply.aiter_raw()
    try:
        yield parts
    finally:
        with trio.move_on_after(_CLOSE_S, shield=True), suppress(httpx.HTTPError, httpx.StreamError):
            await reply.aclose()
            async for _ in parts:
                pass


async def _read(reply: httpx.Response, max_bytes: int) -> bytes:
    """A short body. Raises UpstreamMalformedError for a long one."""
    body = bytearray()
    async with _parts_of(reply) as parts:
        async for data in parts:
            body += data
            if len(body) > max_bytes:
                raise UpstreamMalformedError("it says more than it should")
    return bytes(body)


def _missing(model: UpstreamModel, served: dict[str, int | None]) -> str:
    names = ", ".join(map(repr, sorted(served)[:_NAMES_SHOWN])) or "nothing"
    return (
        f"the server does not serve {model.name!r}, it serves {names}: name one of these in engine.upstream_models, "
        f"as {model.alias}=NAME"
    )
