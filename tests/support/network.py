"""A whole network in one trio loop: real crypto, machines, links, switches and clients; memory in place of TCP.

Run it under `autojump_clock`. Nodes are killed as processes are: from one moment to the next, without a farewell.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import trio

from crypto.identity import NodeId
from node.joining import Announcer, JoinTiming, Neighbourhood, Profile
from node.keys import KeyRing
from node.metrics import Metrics
from node.serving.answer_writer import AnswerWriter, Emit
from node.serving.groups import Groups
from node.serving.model_service import ModelService
from overlay.client.answering import Answering
from overlay.client.circuit_pool import CircuitPool, PathPolicy
from overlay.client.circuit_set import CircuitSet
from overlay.client.client import Client, ClientTerms
from overlay.client.pooled_circuit import PooledCircuit
from overlay.protocol.intake import Intake
from overlay.protocol.link import LINK_VERSION
from overlay.protocol.membership import MembershipMachine, MembershipTiming
from overlay.protocol.relay import RelayMachine
from overlay.protocol.request import RequestTerms
from overlay.protocol.stream import AnswerTiming
from overlay.routing.directory import Directory
from overlay.routing.diversity import Diversity
from overlay.routing.guards import LOCAL_GUARDS, GuardSample, refresh_sample
from overlay.transport.links import Links
from overlay.transport.memory import MemoryNetwork
from overlay.transport.switch import Switch
from overlay.wire.answer import AnswerFinished, ReceiptIssued, TokensGenerated
from overlay.wire.descriptor import ModelOffer, Role
from overlay.wire.messages import Hello
from overlay.wire.prompt import Cache, Prompt, PromptMessage, SamplerSpec
from tests.support.descriptors import UNIX_TIME, fixed_key
from tests.support.entropy import fixed_entropy
from tests.support.group_engine import GroupEngine, WordMeter
from tests.support.scripted_engine import CARD, ScriptedEngine, script_of
from tests.support.tap import Tap, Wire

NETWORK = b"simulated network, 32 bytes long"
LATENCY_S = 0.005
MEMBERSHIP = MembershipTiming(eager_s=0.1)
JOINING = JoinTiming(look_s=1.0)
MAX_WAIT_S = 60.0


def unix_time() -> float:
    return UNIX_TIME + trio.current_time()


class Node:
    """One node as the daemon would build it, but for engine, transport and API."""

    def __init__(self, name: str, network: "Network", *, relays=False, engine=None, policy=None) -> None:
        self.name = name
        self.key = fixed_key(name)
        self.node_id = self.key.node_id
        self.engine: ScriptedEngine | None = engine
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self._network = network
        self._entropy = fixed_entropy(f"node {name}")
        self._metrics = Metrics(version="test", profile="test")
        self._ring = KeyRing(entropy=self._entropy)
        self._guards = GuardSample()
        self.relay = self._make_relay() if relays else None
        self.switch = Switch(
            node_id=self.node_id,
            membership=MembershipMachine(self.node_id, now=trio.current_time(), timing=MEMBERSHIP),
            relay=self.relay,
            entropy=self._entropy,
            unix_time=unix_time,
            directory_changed=self._directory_changed,
        )
        self.transport = network.memory.transport(self.node_id)
        tap = Tap(self.node_id, self.switch, network.wire)
        self.links = Links(self.transport, tap, self._hello, entropy=self._entropy)
        self._policy: PathPolicy | None = policy
        self._client: Client | None = self._make_client(policy) if policy is not None else None
        self.groups: Groups | None = None
        self.models: ModelService | None = self._make_models(engine) if engine is not None else None

    def _make_relay(self) -> RelayMachine:
        return RelayMachine(
            self.node_id,
            entropy=self._entropy,
            may_extend_to=lambda node: self._has_role(node, Role.RELAY),
            may_deliver_to=lambda node: self._has_role(node, Role.MODEL),
            is_reserved=lambda peer, circ_id: self.switch.is_reserved(peer, circ_id),
        )

    def _has_role(self, node_id: NodeId, role: Role) -> bool:
        descriptor = self.switch.directory.find(node_id)
        return descriptor is not None and role in descriptor.roles

    def _make_client(self, policy: PathPolicy) -> Client:
        pool = CircuitPool(
            self.switch,
            policy,
            guards=lambda: self._guards.node_ids,
            entropy=self._entropy,
            unix_time=unix_time,
        )
        terms = ClientTerms(NETWORK, RequestTerms(k=2, forward=self._network.forward), AnswerTiming())
        return Client(self.switch, pool, terms, entropy=self._entropy, unix_time=unix_time)

    def _make_models(self, engine: ScriptedEngine) -> ModelService:
        writer = AnswerWriter(engine, self.key, entropy=self._entropy, unix_time=unix_time)
        intake = Intake(self.node_id, NETWORK)
        if isinstance(engine, GroupEngine):
            self.groups = Groups(
                self.switch,
                self.key,
                NETWORK,
                engine,
                writer,
                self._metrics,
                entropy=self._entropy,
                unix_time=unix_time,
                max_wait_s=MAX_WAIT_S,
            )

        async def answer(message: PromptMessage, emit: Emit) -> None:
            if self.groups is not None and message.forward == "group":
                await self.groups.forwarder.answer(message.task, emit)
            else:
                await writer.write(message.task, emit)

        return ModelService(self.switch, intake, answer, unix_time=unix_time, metrics=self._metrics)

    def _hello(self) -> Hello:
        return Hello(LINK_VERSION, NETWORK, 0, int(unix_time()))

    def _directory_changed(self, directory: Directory) -> None:
        if self._policy is not None:
            self._guards = refresh_sample(
                self._guards,
                directory,
                client=self.node_id,
                unix_time=int(unix_time()),
                entropy=self._entropy,
                policy=LOCAL_GUARDS,
            )
        if self.groups is not None:
            self.groups.directory_changed(directory)
        self._network.note_change()

    def _keys_changed(self) -> None:
        keys = self._ring.keys
        if self.relay is not None:
            self.relay.set_keys([(held.epoch, held.onion) for held in keys])
        if self.models is not None:
            self.models.set_keys({held.epoch: held.sealing for held in keys})

    def _profile(self) -> Profile:
        roles = {Role.RELAY: self.relay is not None, Role.MODEL: self.models is not None}
        offer = ModelOffer(CARD.model_id, CARD.alias, CARD.numerics_class, CARD.context_tokens)
        return Profile(
            roles=frozenset(role for role, is_on in roles.items() if is_on),
            operator="",
            difficulty=0,
            addresses=lambda: self.transport.addresses,
            models=lambda: (offer,) if self.models is not None else (),
        )

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    async def serve(self, entry: "Node | None", *, task_status: trio.TaskStatus[None]) -> None:
        entry_points = [] if entry is None else [(entry.node_id, entry.transport.addresses[0])]
        announcer = Announcer(
            self.switch,
            self.key,
            self._ring,
            self._profile(),
            table=None,
            timing=JOINING,
            unix_time=unix_time,
            keys_changed=self._keys_changed,
            metrics=self._metrics,
        )
        neighbourhood = Neighbourhood(
            self.switch,
            entry_points,
            table=None,
            timing=JOINING,
            entropy=self._entropy,
            metrics=self._metrics,
        )
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.switch.serve, self.links)
                    if self._client is not None:
                        await nursery.start(self._client.pool.serve)
                    if self.models is not None:
                        await nursery.start(self.models.serve)
                    if self.groups is not None:
                        nursery.start_soon(self.groups.serve, [(CARD, WordMeter())])
                    await nursery.start(announcer.serve)
                    await nursery.start(neighbourhood.serve)
                    task_status.started()
        finally:
            self.ended.set()

    async def kill(self) -> None:
        """End as a process killed with -9 does."""
        self._network.memory.break_connections(self.node_id)
        self.scope.cancel()
        await self.ended.wait()


@dataclass
class Told:
    """An answer as its reader got it."""

    text: str = ""
    tokens: int = 0
    finished: AnswerFinished | None = None
    receipt: bytes | None = None
    answering: Answering | None = None
    attempts: list[Answering] = field(default_factory=list)


@dataclass
class Network:
    """The nodes, by name: r0, r1, ... relay, m0, ... serve the scripted model, c asks."""

    nursery: trio.Nursery
    wire: Wire = field(default_factory=Wire)
    memory: MemoryNetwork = field(default_factory=lambda: MemoryNetwork(LATENCY_S))
    nodes: dict[str, Node] = field(default_factory=dict)
    forward: Literal["none", "group"] = "none"
    _changed: trio.Event = field(default_factory=trio.Event)

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def name_of(self, node_id: NodeId) -> str:
        return next(node.name for node in self.nodes.values() if node.node_id == node_id)

    def named(self, node_id: NodeId) -> Node:
        return self.nodes[self.name_of(node_id)]

    async def add(self, name: str, **roles) -> Node:
        node = Node(name, self, **roles)
        self.nodes[name] = node
        entry = next(iter(self.nodes.values()))
        await self.nursery.start(node.serve, None if entry is node else entry)
        return node

    def note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def until_known(self, timeout_s: float = 30.0) -> None:
        """Wait until every node knows every other one that lives."""
        with trio.fail_after(timeout_s):
            while not self.all_known:
                await self._changed.wait()

    @property
    def all_known(self) -> bool:
        alive = [node for node in self.nodes.values() if not node.ended.is_set()]
        return all(node.switch.directory.find(other.node_id) is not None for node in alive for other in alive)

    @property
    def now_answering(self) -> NodeId | None:
        """The model node that generates something, if one does."""
        return next(
            (node.node_id for node in self.nodes.values() if node.engine and node.engine.generating), None
        )

    @property
    def client(self) -> Client:
        return self["c"].client

    async def ask(
        self,
        prompt: Prompt,
        *,
        during: Callable[[Told], object] | None = None,
        cache: Cache | None = None,
    ) -> Told:
        """The client's question and the whole answer. during: called (and awaited) after each token."""
        told = Told()
        async with self.client.complete(prompt, cache=cache) as answering:
            told.answering = answering.current
            async for event in answering:
                match event:
                    case TokensGenerated(text, count):
                        told.text += text
                        told.tokens += count
                        if during is not None and (pending := during(told)) is not None:
                            await pending
                    case AnswerFinished():
                        told.finished = event
                    case ReceiptIssued(receipt):
                        told.receipt = receipt
            told.attempts, told.answering = answering.attempts, answering.current
        return told

    async def circuits(self, destination: str = "m0") -> list[PooledCircuit]:
        """The client's open circuits to a model node, in the order of their slots."""
        return await self.circuit_set(destination).wait_open(20.0)

    def circuit_set(self, destination: str = "m0") -> CircuitSet:
        return self.client.pool.to(self[destination].node_id)

    async def kill_after(self, seconds: float, *node_ids: NodeId) -> None:
        await trio.sleep(seconds)
        await self.kill(*node_ids)

    async def kill(self, *node_ids: NodeId) -> None:
        for node_id in node_ids:
            await self.named(node_id).kill()


def a_prompt(text: str = "Why is the sky blue?", *, tokens: int = 40) -> Prompt:
    return Prompt(
        model=CARD.alias, text=text, sampler=SamplerSpec(max_tokens=tokens), nonce=fixed_entropy(text)(32)
    )


def answer_to(prompt: Prompt) -> str:
    return "".join(script_of(prompt))


POLICY = PathPolicy(diversity=Diversity.LOCAL)


@asynccontextmanager
async def network(
    relays: int = 16,
    *,
    models: int = 1,
    engines: Sequence[ScriptedEngine] = (),
    policy: PathPolicy = POLICY,
    forward: Literal["none", "group"] = "none",
) -> AsyncIterator[Network]:
    """A network that has found itself. forward: what its client allows."""
    engines = engines or [ScriptedEngine() for _ in range(models)]
    async with trio.open_nursery() as nursery:
        made = Network(nursery, forward=forward)
        for number in range(relays):
            await made.add(f"r{number}", relays=True)
        for number, engine in enumerate(engines):
            await made.add(f"m{number}", engine=engine)
        await made.add("c", policy=policy)
        await made.until_known()
        yield made
        nursery.cancel_scope.cancel()
