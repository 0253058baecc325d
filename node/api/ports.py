"""What the API asks of the daemon: the one seam between HTTP and everything else, in plain values."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from node.engine.events import EngineLoad
from overlay.wire.answer import AnswerEvent
from overlay.wire.prompt import Cache, Prompt


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that the network serves, and by how many nodes."""

    model_id: str
    alias: str
    numerics_class: str
    context_tokens: int
    nodes: int


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether prompts can be answered now; reasons say what is missing, in sentences."""

    ready: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """The daemon about itself. node_id is hex; anonymity is a sentence on what protection is left.

    engine: how busy the models of this very node are; empty where it has none. clock_ahead_s: by how much its clock is
    ahead of its neighbours', as the median of them said when they were linked; None where there are none.
    """

    node_id: str
    version: str
    network: str
    profile: str
    roles: tuple[str, ...]
    addresses: tuple[str, ...]
    uptime_s: float
    relays_known: int
    model_nodes_known: int
    models: tuple[str, ...]
    links: int
    circuits: int
    relayed_circuits: int
    anonymity: str
    readiness: Readiness
    engine: tuple[EngineLoad, ...] = ()
    clock_ahead_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerInfo:
    """A node of the directory. linked: there is an open link to it."""

    node_id: str
    roles: tuple[str, ...]
    models: tuple[str, ...]
    addresses: tuple[str, ...]
    operator: str
    linked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitInfo:
    """A circuit that this node built as a client; relays are hex node ids, the guard first."""

    circuit_id: str
    state: str
    relays: tuple[str, ...]
    age_s: float
    cells_sent: int
    cells_received: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerAccount:
    """What happened for one answer, kept beside it. node: the model node's hex id; circuits: their relays.

    entry: the node asked, where it is another one; nodes_failed: those that began the answer and did not end it.
    """

    node: str
    model: str
    circuits: tuple[tuple[str, ...], ...]
    k: int
    n: int
    cloves_sent: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    ttft_s: float | None
    duration_s: float
    entry: str = ""
    paths_replaced: int = 0
    nodes_failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteCandidate:
    """What a prompt would wait at one node, in seconds, term by term, and how old what is known of it is.

    total_s: their sum. compared_s: it over the node's weight, by which nodes are compared.
    """

    node: str
    is_here: bool
    cached_tokens: int
    ahead_s: float
    slot_s: float
    reading_s: float
    late_s: float
    total_s: float
    compared_s: float
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteReport:
    """Where a prompt would be answered, and why. chosen: a node's hex id; None where it would be refused.

    candidates: by this node's view; probed: those who were asked, by what they answered.
    """

    model: str
    tokens: int
    blocks: int
    candidates: tuple[RouteCandidate, ...]
    probed: tuple[RouteCandidate, ...]
    chosen: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer that the daemon kept. record: JSON text of `verify.answer.AnswerRecord`."""

    answer_id: str
    created_unix: float
    record: str
    account: AnswerAccount


class AnswerStream(Protocol):
    """An answer on its way: iterate it for its events. Leaving its context ends it, at the model node too."""

    @property
    def answer_id(self) -> str:
        """The id under which the answer is kept."""
        ...

    def __aiter__(self) -> AsyncIterator[AnswerEvent]:
        """Events in order; raises `overlay.errors.AnswerError` where the answer ends early."""
        ...


class Service(Protocol):
    """The daemon, as the API sees it."""

    def models(self) -> Sequence[ModelInfo]:
        """Models served by nodes of the directory."""
        ...

    def complete(
        self, prompt: Prompt, *, cache: Cache | None = None
    ) -> AbstractAsyncContextManager[AnswerStream]:
        """Send a prompt. Entering raises `overlay.errors.NoRouteError` or `AnswerError`.

        cache: with whom what is computed for it may be shared; None: as it is configured.
        """
        ...

    async def explain_route(self, prompt: Prompt, *, cache: Cache) -> RouteReport:
        """Where this node, as a member of a model's group, would have a prompt answered now. Raises AnswerError."""
        ...

    def status(self) -> StatusReport:
        """The daemon about itself."""
        ...

    def peers(self) -> Sequence[PeerInfo]:
        """Nodes of the directory."""
        ...

    def circuits(self) -> Sequence[CircuitInfo]:
        """Circuits built by this node as a client."""
        ...

    def answer(self, answer_id: str) -> KeptAnswer | None:
        """A kept answer; `last` is the newest."""
        ...

    def ready(self) -> Readiness:
        """Whether prompts can be answered now; false while draining."""
        ...

    async def shutdown(self) -> None:
        """Begin to drain and end; returns at once."""
        ...
