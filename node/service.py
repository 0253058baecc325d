"""What the daemon can do for its owner: the API's `Service`, over the client, the engine and the store.

A prompt for a model that this very node serves is answered here: nobody else has to see it, and there is no one to
hide from. Every other prompt leaves through circuits.
"""

import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, field

import trio

from crypto.errors import DecodeError
from crypto.identity import NodeId
from node.api.ports import (
    AnswerAccount,
    AnswerStream,
    CircuitInfo,
    KeptAnswer,
    ModelInfo,
    PeerInfo,
    Readiness,
    RouteReport,
    StatusReport,
)
from node.clock import Clock, explain_apart
from node.engine.errors import EngineError
from node.engine.events import EngineLoad
from node.errors import StoreError
from node.logs import get_logger
from node.metrics import Metrics
from node.route_report import report_route
from node.serving.answer_writer import AnswerWriter
from node.serving.groups import Groups
from node.store import Store, StoredAnswer
from overlay.client.client import Client
from overlay.client.completion import Completion, EarlierPart
from overlay.errors import AnswerError, NoRouteError
from overlay.transport.switch import Switch
from overlay.wire.answer import (
    AnswerAccepted,
    AnswerEvent,
    AnswerFailed,
    AnswerFinished,
    CheckpointIssued,
    ReceiptIssued,
    TokensGenerated,
)
from overlay.wire.descriptor import ModelOffer
from overlay.wire.prompt import SESSION_BYTES, Cache, Prompt, Task
from verify.answer import AnswerRecord
from verify.parts import KeptPart
from verify.receipt import decode_receipt
from verify.record_codec import encode_record

BLINDING_BYTES = 32
_ID_BYTES = 12
_LOCAL_EVENTS = 64
"""Events of a local answer that may wait for their reader; then the engine's own bound holds them."""

log = get_logger("service")


@dataclass(frozen=True, slots=True)
class Identity:
    """What never changes while the daemon runs."""

    node_id: NodeId
    version: str
    network: str
    profile: str
    roles: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Recorder:
    """Gathers an answer as it passes, for its record and account. Implements `AnswerStream`."""

    answer_id: str
    prompt: Prompt
    node_id: NodeId
    offer: ModelOffer
    started: float
    clock: Clock
    events: Callable[[], AsyncIterator[AnswerEvent]]
    texts: list[str] = field(default_factory=list)
    first_token_at: float | None = None
    finished: AnswerFinished | None = None
    receipt: bytes | None = None
    entry_id: NodeId | None = None

    async def __aiter__(self) -> AsyncIterator[AnswerEvent]:
        """The events, unchanged."""
        async for event in self.events():
            match event:
                case TokensGenerated(text):
                    self.first_token_at = self.first_token_at or self.clock.now()
                    self.texts.append(text)
                case AnswerFinished():
                    self.finished = event
                case ReceiptIssued(receipt):
                    self.receipt = receipt
                case AnswerAccepted() | CheckpointIssued() | AnswerFailed():
                    pass
            yield event

    def record(self, blinding: bytes, unix_time: float, completion: Completion | None) -> AnswerRecord | None:
        """The record of a whole answer, None for one that ended early."""
        if self.finished is None or self.receipt is None:
            return None
        return AnswerRecord(
            prompt=self.prompt,
            blinding=blinding,
            text="".join(self.texts),
            node_id=self.node_id,
            model_id=self.offer.model_id,
            numerics_class=self.offer.numerics_class,
            receipt=self.receipt,
            created_unix=int(unix_time),
            given=completion.given if completion is not None else 0,
            parts=tuple(map(_kept_part, completion.parts)) if completion is not None else (),
        )

    def account(self, completion: Completion | None) -> AnswerAccount:
        """What happened."""
        now, finished = self.clock.now(), self.finished
        terms = completion.current.request.terms if completion is not None else None
        attempts = completion.attempts if completion is not None else []
        paths = [path for attempt in attempts for path in attempt.paths_used]
        return AnswerAccount(
            node=self.node_id.hex(),
            entry=(self.entry_id or self.node_id).hex(),
            model=self.offer.alias,
            circuits=tuple(tuple(relay.hex() for relay in path) for path in paths),
            k=terms.k if terms is not None else 0,
            n=terms.n if terms is not None else 0,
            cloves_sent=sum(attempt.cloves_sent for attempt in attempts),
            prompt_tokens=finished.prompt_tokens if finished else 0,
            completion_tokens=finished.completion_tokens if finished else 0,
            cached_tokens=finished.cached_tokens if finished else 0,
            ttft_s=None if self.first_token_at is None else self.first_token_at - self.started,
            duration_s=now - self.started,
            paths_replaced=sum(attempt.paths_replaced for attempt in attempts),
            nodes_failed=tuple(attempt.node_id.hex() for attempt in attempts[:-1]),
        )


def _kept_part(part: EarlierPart) -> KeptPart:
    signed = part.signed
    if signed is None:
        return KeptPart(part.entry, part.until, part.blinding, b"")
    return KeptPart(signed.signer, part.until, part.blinding, signed.checkpoint)


class NodeService:
    """Implements `node.api.ports.Service`.

    writer, own_models, own_loads: this node's engine, where it has one. anonymity: a sentence on what protection is
    left.
    """

    def __init__(
        self,
        identity: Identity,
        switch: Switch,
        client: Client | None,
        store: Store,
        clock: Clock,
        *,
        anonymity: Callable[[], str],
        relayed_circuits: Callable[[], int],
        addresses: Callable[[], tuple[str, ...]],
        begin_shutdown: Callable[[], None],
        metrics: Metrics,
    ) -> None:
        self.writer: AnswerWriter | None = None
        self.own_models: Callable[[], tuple[ModelOffer, ...]] = tuple
        self.own_loads: Callable[[], tuple[EngineLoad, ...]] = tuple
        self.groups: Groups | None = None
        self.starting: dict[str, str] = {}
        """What is still being started, by part, in words for people; empty once all runs."""
        self.is_draining = False
        self.under_way = 0
        """Answers that its owner is getting."""
        self._session = secrets.token_bytes(SESSION_BYTES)  # all that its owner asks of this very node
        self._identity = identity
        self._switch = switch
        self._client = client
        self._store = store
        self._clock = clock
        self._started = clock.now()
        self._anonymity = anonymity
        self._relayed_circuits = relayed_circuits
        self._addresses = addresses
        self._begin_shutdown = begin_shutdown
        self._metrics = metrics

    # --- asking -----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def complete(
        self, prompt: Prompt, *, cache: Cache | None = None
    ) -> AsyncGenerator[AnswerStream, None]:
        """See `Service`. The answer is kept once it is whole, when the context is left."""
        if self.is_draining:
            raise AnswerError("draining", "this node is shutting down", 5.0)
        answer_id = f"a-{secrets.token_hex(_ID_BYTES)}"
        self.under_way += 1
        try:
            async with self._ask(answer_id, prompt, cache) as recorder:
                yield recorder
        finally:
            self.under_way -= 1

    def _ask(
        self, answer_id: str, prompt: Prompt, cache: Cache | None
    ) -> AbstractAsyncContextManager[Recorder]:
        own = next((m for m in self.own_models() if prompt.model in (m.model_id, m.alias)), None)
        if own is not None and self.writer is not None:
            return self._answer_here(answer_id, prompt, own, self.writer, cache or "session")
        if self._client is None:
            raise NoRouteError("this node has no client role: start it with `clove up --role client`")
        return self._ask_network(answer_id, prompt, self._client, cache)

    @asynccontextmanager
    async def _ask_network(
        self, answer_id: str, prompt: Prompt, client: Client, cache: Cache | None
    ) -> AsyncGenerator[Recorder, None]:
        started = self._clock.now()
        async with client.complete(prompt, cache=cache) as completion:
            recorder = Recorder(
                answer_id=answer_id,
                prompt=prompt,
                node_id=completion.current.node_id,
                offer=completion.offer,
                started=started,
                clock=self._clock,
                events=completion.__aiter__,
            )
            try:
                yield recorder
            finally:
                attempts = completion.attempts
                self._metrics.cloves.labels("sent").inc(sum(each.cloves_sent for each in attempts))
                self._metrics.failovers.labels("path").inc(sum(each.paths_replaced for each in attempts))
                self._metrics.failovers.labels("node").inc(len(attempts) - 1)
            recorder.entry_id, recorder.offer = completion.current.node_id, completion.offer
            is_open = completion.current.request.message.forward == "group"
            recorder.node_id = self._who_answered(recorder, may_be_handed_on=is_open)
            self._keep(recorder, completion.current.request.message.blinding, completion)

    @asynccontextmanager
    async def _answer_here(
        self, answer_id: str, prompt: Prompt, offer: ModelOffer, writer: AnswerWriter, cache: Cache
    ) -> AsyncGenerator[Recorder, None]:
        blinding = secrets.token_bytes(BLINDING_BYTES)
        send, receive = trio.open_memory_channel[AnswerEvent](_LOCAL_EVENTS)

        async def write() -> None:
            async with send:
                session = self._session if cache == "session" else b""
                task = Task(prompt=prompt, blinding=blinding, cache=cache, session=session)
                await writer.write(task, send.send)

        async def events() -> AsyncIterator[AnswerEvent]:
            async for event in receive:
                if isinstance(event, AnswerFailed):
                    raise AnswerError(event.code, event.message, event.retry_after_s)
                yield event

        recorder = Recorder(
            answer_id=answer_id,
            prompt=prompt,
            node_id=self._identity.node_id,
            offer=offer,
            started=self._clock.now(),
            clock=self._clock,
            events=events,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            yield recorder
            nursery.cancel_scope.cancel()
            self._keep(recorder, blinding, None)

    def _who_answered(self, recorder: Recorder, *, may_be_handed_on: bool) -> NodeId:
        """The node asked or, where it handed the prompt on, the signer of the receipt, if that is of the same group.

        Any other signer is a stranger, whom `clove verify` then finds in the asked one's place.
        """
        entry = recorder.entry_id or recorder.node_id
        if recorder.receipt is None or not may_be_handed_on:
            return entry
        try:
            signer = decode_receipt(recorder.receipt).signer
        except DecodeError:
            return entry
        return signer if self._switch.directory.serves_alike(signer, recorder.offer) else entry

    def _keep(self, recorder: Recorder, blinding: bytes, completion: Completion | None) -> None:
        record = recorder.record(blinding, self._clock.unix_time(), completion)
        if record is None:
            return
        account = json.dumps(asdict(recorder.account(completion)))
        answer = StoredAnswer(recorder.answer_id, self._clock.unix_time(), encode_record(record), account)
        try:
            self._store.keep_answer(answer)
        except StoreError as error:
            # Its author has the answer; what is lost is `clove verify`.
            log.warning("an answer can't be kept", reason=str(error))

    def answer(self, answer_id: str) -> KeptAnswer | None:
        """See `Service`."""
        stored = self._store.answer(answer_id)
        if stored is None:
            return None
        fields = json.loads(stored.account)
        fields["circuits"] = tuple(tuple(path) for path in fields["circuits"])
        fields.setdefault("entry", fields["node"])
        fields["nodes_failed"] = tuple(fields.get("nodes_failed", ()))
        return KeptAnswer(stored.answer_id, stored.created_unix, stored.record, AnswerAccount(**fields))

    async def explain_route(self, prompt: Prompt, *, cache: Cache) -> RouteReport:
        """See `Service`."""
        groups = self.groups
        group = None if groups is None else groups.own_group_of(prompt.model)
        if groups is None or group is None:
            raise AnswerError("model_not_found", f"this node does not serve {prompt.model!r} in a group")
        task = Task(prompt=prompt, blinding=bytes(BLINDING_BYTES), cache=cache)
        try:
            measured = await group.measure(task)
        except EngineError as error:
            raise AnswerError("prompt_refused", str(error)) from None
        return report_route(group, await groups.forwarder.plan(group, measured))

    # --- reporting --------------------------------------------------------------------------------------

    def models(self) -> Sequence[ModelInfo]:
        """See `Service`."""
        nodes: dict[ModelOffer, int] = {}
        for node in self._switch.directory.model_nodes():
            for offer in node.models:
                nodes[offer] = nodes.get(offer, 0) + 1
        for offer in self.own_models():
            nodes.setdefault(offer, 1)
        return [
            ModelInfo(offer.model_id, offer.alias, offer.numerics_class, offer.context_tokens, count)
            for offer, count in sorted(nodes.items(), key=lambda item: (item[0].alias, item[0].model_id))
        ]

    def status(self) -> StatusReport:
        """See `Service`."""
        identity, directory = self._identity, self._switch.directory
        return StatusReport(
            node_id=identity.node_id.hex(),
            version=identity.version,
            network=identity.network,
            profile=identity.profile,
            roles=identity.roles,
            addresses=self._addresses(),
            uptime_s=self._clock.now() - self._started,
            relays_known=len(directory.relays()),
            model_nodes_known=len(directory.model_nodes()),
            models=tuple(sorted({model.alias for model in self.models()})),
            links=len(self._switch.links.open_links()),
            circuits=len(self._switch.own_circuits),
            relayed_circuits=self._relayed_circuits(),
            engine=self.own_loads(),
            anonymity=self._anonymity(),
            readiness=self.ready(),
            clock_ahead_s=self._switch.links.clock_ahead_s(),
        )

    def peers(self) -> Sequence[PeerInfo]:
        """See `Service`."""
        return [
            PeerInfo(
                node_id=node.node_id.hex(),
                roles=tuple(sorted(role.value for role in node.roles)),
                models=tuple(offer.alias for offer in node.models),
                addresses=node.addresses,
                operator=node.operator,
                linked=self._switch.links.get(node.node_id) is not None,
            )
            for node in self._switch.directory
            if node.node_id != self._identity.node_id
        ]

    def circuits(self) -> Sequence[CircuitInfo]:
        """See `Service`."""
        now = self._clock.now()
        return [
            CircuitInfo(
                circuit_id=f"{circuit.machine.circ_id:08x}",
                state=circuit.machine.state.name.lower(),
                relays=tuple(relay.hex() for relay in circuit.machine.relays),
                age_s=now - circuit.opened_at,
                cells_sent=circuit.cells_sent,
                cells_received=circuit.cells_received,
            )
            for circuit in self._switch.own_circuits
        ]

    def ready(self) -> Readiness:
        """See `Service`."""
        reasons = list(self.starting.values())
        if self.is_draining:
            reasons.append("shutting down")
        if self._client is not None:
            reasons += self._client.explain_unready()
        if reasons:  # where nothing is missing the clock is no cause: neighbours may say any time
            reasons += explain_apart(self._switch.links.clock_ahead_s())
        return Readiness(not reasons, tuple(reasons))

    async def shutdown(self) -> None:
        """See `Service`."""
        self._begin_shutdown()
