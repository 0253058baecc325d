"""A daemon small enough to hold in the hand: what the API talks to where no network is under test."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import trio

from node.api.ports import (
    AnswerAccount,
    CircuitInfo,
    KeptAnswer,
    ModelInfo,
    PeerInfo,
    Readiness,
    StatusReport,
)
from node.engine.events import EngineLoad
from overlay.wire.answer import AnswerAccepted, AnswerEvent, AnswerFinished, TokensGenerated
from overlay.wire.prompt import Cache, Prompt

MODEL = ModelInfo("m-" + "ab" * 20, "smollm2-135m", "torch-fp32", 8192, 2)
NODE = "cd" * 32
READY = Readiness(ready=True)
ACCOUNT = AnswerAccount(
    node=NODE,
    model=MODEL.model_id,
    circuits=(("11" * 32, "22" * 32, "33" * 32),),
    k=2,
    n=4,
    cloves_sent=4,
    prompt_tokens=7,
    completion_tokens=3,
    cached_tokens=2,
    ttft_s=0.1,
    duration_s=0.5,
)


def script(*texts: str, reason: str = "stop") -> list[AnswerEvent]:
    """The events of an ordinary answer."""
    tokens = [TokensGenerated(text, 1) for text in texts]
    return [AnswerAccepted(), *tokens, AnswerFinished(reason, 7, len(texts), 2)]


@dataclass
class FakeStream:
    answer_id: str
    events: Sequence[AnswerEvent | Exception | trio.Event]

    def __post_init__(self) -> None:
        self._left = iter(self.events)

    def __aiter__(self) -> AsyncIterator[AnswerEvent]:
        return self

    async def __anext__(self) -> AnswerEvent:
        await trio.lowlevel.checkpoint()
        for event in self._left:
            if isinstance(event, trio.Event):
                await event.wait()
            elif isinstance(event, Exception):
                raise event
            else:
                return event
        raise StopAsyncIteration


@dataclass
class FakeService:
    """Answers from a script. An exception in it is raised there, a trio.Event is waited for."""

    events: Sequence[AnswerEvent | Exception | trio.Event] = field(
        default_factory=lambda: script("Hel", "lo", "!")
    )
    refusal: Exception | None = None
    known: Sequence[ModelInfo] = (MODEL,)
    readiness: Readiness = READY
    engine: tuple[EngineLoad, ...] = ()
    prompts: list[Prompt] = field(default_factory=list)
    ended: trio.Event = field(default_factory=trio.Event)
    stopped: trio.Event = field(default_factory=trio.Event)
    kept: dict[str, KeptAnswer] = field(default_factory=dict)

    def models(self) -> Sequence[ModelInfo]:
        return self.known

    @contextlib.asynccontextmanager
    async def complete(self, prompt: Prompt, *, cache: Cache | None = None) -> AsyncIterator[FakeStream]:
        self.prompts.append(prompt)
        await trio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal
        try:
            yield FakeStream(f"a{len(self.prompts)}", self.events)
        finally:
            self.ended.set()

    def status(self) -> StatusReport:
        return StatusReport(
            node_id=NODE,
            version="0.0.0",
            network="test",
            profile="test",
            roles=("client",),
            addresses=("/ip4/127.0.0.1/tcp/4160",),
            uptime_s=1.0,
            relays_known=16,
            model_nodes_known=2,
            models=(MODEL.alias,),
            links=3,
            clock_ahead_s=-75,
            circuits=4,
            relayed_circuits=0,
            anonymity="a local test network: no anonymity is claimed",
            readiness=self.readiness,
            engine=self.engine,
        )

    def peers(self) -> Sequence[PeerInfo]:
        peer = PeerInfo(
            node_id="11" * 32,
            roles=("relay",),
            models=(),
            addresses=("/ip4/127.0.0.1/tcp/1",),
            operator="",
            linked=True,
        )
        return [peer]

    def circuits(self) -> Sequence[CircuitInfo]:
        relays = ("11" * 32, "22" * 32, "33" * 32)
        return [
            CircuitInfo(
                circuit_id="c1", state="open", relays=relays, age_s=2.0, cells_sent=5, cells_received=6
            )
        ]

    def answer(self, answer_id: str) -> KeptAnswer | None:
        return self.kept.get(answer_id)

    def ready(self) -> Readiness:
        return self.readiness

    async def shutdown(self) -> None:
        self.stopped.set()
