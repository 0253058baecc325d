"""The daemon: the one place where everything is built and joined, and the one nursery tree.

    switch (links, deadlines, membership, relay)     dht     neighbourhood     announcer
    client circuits     model service + engine worker     API     housekeeping     signals

Start-up never dies of a timer: what is not there yet (a model, circuits) is a reason in `readyz`, and the rest
works meanwhile. SIGTERM drains: no new prompts, answers under way may end within `limits.drain_s`, then the
circuits through this node are closed and the process ends.
"""

import hashlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from crypto.errors import DecodeError
from crypto.identity import IdentityKey, NodeId
from node.api.app import build_app
from node.api.guard import Access
from node.api.server import serve_api
from node.clock import SystemClock
from node.config import Config
from node.errors import ConfigError, NodeError, StoreError
from node.guard_record import decode_sample, encode_sample
from node.home import DaemonInfo, Home
from node.joining import Announcer, JoinTiming, Neighbourhood, Profile
from node.keys import KeyRing
from node.logs import get_logger
from node.loop_delay import watch_loop
from node.metrics import Metrics
from node.model_role import ModelRole
from node.observer import Observer
from node.service import Identity, NodeService
from node.store import Store, StoredDescriptor, open_store
from node.version import version
from overlay.client.circuit_pool import CircuitPool, PathPolicy
from overlay.client.client import Client, ClientTerms
from overlay.protocol.link import LINK_VERSION, LinkTiming
from overlay.protocol.membership import TEST_TIMING, MembershipMachine, MembershipTiming
from overlay.protocol.relay import RelayMachine
from overlay.protocol.request import RequestTerms
from overlay.protocol.stream import AnswerTiming
from overlay.routing.anonymity import anonymity_left
from overlay.routing.directory import Directory
from overlay.routing.diversity import Diversity
from overlay.routing.guards import (
    LOCAL_GUARDS,
    GuardPolicy,
    GuardSample,
    refresh_sample,
)
from overlay.transport.addresses import dialable, parse_entry_point
from overlay.transport.lean_libp2p import import_libp2p
from overlay.transport.links import Links
from overlay.transport.switch import Switch
from overlay.wire.descriptor import Role
from overlay.wire.messages import Hello

HOUSEKEEPING_S = 5.0
DRAIN_LOOK_S = 0.1
FAREWELL_S = 0.3
"""For the links to write what was said last: a proxy that leaves in good order is not blamed for it."""
ASSUMED_TENTH = 0.1

log = get_logger("daemon")


async def run(
    config: Config, home: Home, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a daemon until a signal or a shutdown request ends it. The home is locked by the caller.

    Raises:
        NodeError: it can't be started as configured; the message names the cause and the remedy.
    """
    with _unwrapped(), _opened(home, config) as store:
        await Daemon(config, home, store).serve(task_status=task_status)


@contextmanager
def _opened(home: Home, config: Config) -> Iterator[Store]:
    store = open_store(home.state_file, kept_answers=config.limits.kept_answers)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _surviving_store_errors(what: str) -> Iterator[None]:
    """A disk that is full costs the next run what it would have found; this one goes on."""
    try:
        yield
    except StoreError as error:
        log.warning("not kept for the next run", what=what, reason=str(error))


@contextmanager
def _unwrapped() -> Iterator[None]:
    """A person is shown the one thing that went wrong, not the nurseries it came through."""
    try:
        yield
    except BaseExceptionGroup as group:
        found, others = group.split(NodeError)
        if found is None or others is not None:
            raise
        error: BaseException = found
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


class Daemon:
    """One node, built from its configuration."""

    def __init__(self, config: Config, home: Home, store: Store) -> None:
        self._config = config
        self._home = home
        self._store = store
        self._clock = SystemClock()
        self._key = IdentityKey.from_seed(home.identity_seed())
        self._network = hashlib.sha256(b"clove-network/1" + config.network.id.encode()).digest()
        self._metrics = Metrics(version=version(), profile=config.network.profile)
        self._is_test = config.network.profile == "test"
        self._allows_private = config.network.allow_private or self._is_test
        self._diversity = Diversity(config.privacy.diversity)
        self._ring = KeyRing()
        self._guards = self._load_guards()
        self._directory_grew = trio.Event()
        self._stop = trio.Event()
        self._relay = self._make_relay() if config.roles.relay else None
        self._switch = self._make_switch()
        self._client = self._make_client() if config.roles.client else None
        self._models = self._make_models() if config.roles.model else None
        self._addresses: tuple[str, ...] = ()
        self._service = self._make_service()

    # --- making the parts -------------------------------------------------------------------------------

    def _make_relay(self) -> RelayMachine:
        return RelayMachine(
            self._key.node_id,
            entropy=os.urandom,
            may_extend_to=lambda node: self._has_role(node, Role.RELAY),
            may_deliver_to=lambda node: self._has_role(node, Role.MODEL),
            is_reserved=lambda peer, circ_id: self._switch.is_reserved(peer, circ_id),
            max_circuits=self._config.limits.circuits,
            max_circuits_per_neighbour=self._config.limits.circuits_per_neighbour,
        )

    def _has_role(self, node_id: NodeId, role: Role) -> bool:
        descriptor = self._switch.directory.find(node_id)
        return descriptor is not None and role in descriptor.roles

    def _make_switch(self) -> Switch:
        timing = TEST_TIMING if self._is_test else MembershipTiming()
        return Switch(
            node_id=self._key.node_id,
            membership=MembershipMachine(self._key.node_id, now=self._clock.now(), timing=timing),
            relay=self._relay,
            entropy=os.urandom,
            unix_time=self._clock.unix_time,
            directory_changed=self._directory_changed,
        )

    def _make_client(self) -> Client:
        privacy = self._config.privacy
        policy = PathPolicy(
            n=privacy.n, hops=privacy.hops, diversity=self._diversity, lifetime_s=privacy.lifetime_s
        )
        pool = CircuitPool(
            self._switch,
            policy,
            guards=lambda: self._guards.node_ids,
            entropy=os.urandom,
            unix_time=self._clock.unix_time,
        )
        terms = ClientTerms(self._network, RequestTerms(k=privacy.k, forward=privacy.forward), AnswerTiming())
        return Client(self._switch, pool, terms, entropy=os.urandom, unix_time=self._clock.unix_time)

    def _make_models(self) -> ModelRole:
        return ModelRole(
            self._config.engine,
            self._home,
            self._switch,
            self._key,
            self._network,
            self._metrics,
            self._clock.unix_time,
        )

    def _make_service(self) -> NodeService:
        config = self._config
        identity = Identity(
            self._key.node_id, version(), config.network.id, config.network.profile, config.roles.names
        )
        return NodeService(
            identity,
            self._switch,
            self._client,
            self._store,
            self._clock,
            anonymity=self._describe_anonymity,
            relayed_circuits=lambda: self._relay.circuit_count if self._relay is not None else 0,
            addresses=lambda: self._addresses,
            begin_shutdown=self._stop.set,
            metrics=self._metrics,
        )

    def _describe_anonymity(self) -> str:
        """What protection is left, for a person: the gravest warnings, and what a tenth of bad relays would see."""
        left = anonymity_left(
            self._switch.directory,
            diversity=self._diversity,
            is_relay=self._config.roles.relay,
            n=self._config.privacy.n,
            hops=self._config.privacy.hops,
        )
        tenth = next(found for found in left.exposures if found.share == ASSUMED_TENTH)
        risk = f"were a tenth of the relays bad, they would link you to the model node with p = {tenth.linked:.3f}"
        return "; ".join((*left.warnings, risk))

    # --- running ----------------------------------------------------------------------------------------

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run everything until stopped, then drain."""
        # Imported here: libp2p costs half a second, which a configuration error should not wait for.
        import_libp2p()
        from overlay.transport.dht import Dht
        from overlay.transport.libp2p_host import Libp2pTransport

        config, entry_points = self._config, self._entry_points()
        transport = Libp2pTransport(
            self._key.seed,
            config.network.listen,
            announce=config.network.announce,
            allow_private=self._allows_private,
            max_connections=config.limits.connections,
        )
        timing = LinkTiming(heartbeat_s=2.0, dead_after_s=6.0) if self._is_test else LinkTiming()
        links = Links(transport, self._switch, self._hello, timing=timing)
        dht = Dht(transport, network=self._network, unix_time=self._clock.unix_time)
        join = JoinTiming(refresh_s=20.0, ttl_s=90, look_s=1.0) if self._is_test else JoinTiming()
        announcer = Announcer(
            self._switch,
            self._key,
            self._ring,
            self._profile(),
            table=dht,
            timing=join,
            unix_time=self._clock.unix_time,
            keys_changed=self._keys_changed,
            metrics=self._metrics,
        )
        neighbourhood = Neighbourhood(
            self._switch, entry_points, table=dht, timing=join, entropy=os.urandom, metrics=self._metrics
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(self._switch.serve, links)
            self._addresses = transport.addresses
            self._load_directory()
            await nursery.start(dht.serve)
            if self._client is not None:
                await nursery.start(self._client.pool.serve)
                nursery.start_soon(self._keep_warm, self._client)
            if self._models is not None:
                await nursery.start(self._models.serve, self._service, announcer)
            await nursery.start(announcer.serve)
            await nursery.start(neighbourhood.serve)
            api_url = await nursery.start(self._serve_api)
            nursery.start_soon(self._keep_house)
            nursery.start_soon(watch_loop, self._metrics.loop_delay.observe)
            await nursery.start(self._await_signal)
            self._publish(api_url)
            task_status.started()
            await self._stop.wait()
            await self._drain()
            nursery.cancel_scope.cancel()
        self._save()
        log.info("stopped")

    def _entry_points(self) -> list[tuple[NodeId, str]]:
        points = []
        for text in self._config.network.bootstrap:
            try:
                points.append(parse_entry_point(text))
            except DecodeError as error:
                raise ConfigError(f"network.bootstrap: {text!r}: {error}") from None
            if not dialable([text], points[-1][0], allow_private=self._allows_private):
                raise ConfigError(
                    f"network.bootstrap: {text!r} is a private address",
                    "on a network of your own, allow them: network.allow_private = true",
                )
        return points

    def _hello(self) -> Hello:
        return Hello(LINK_VERSION, self._network, 0, int(self._clock.unix_time()))

    def _profile(self) -> Profile:
        roles = self._config.roles
        named = {Role.RELAY: roles.relay, Role.MODEL: roles.model}
        return Profile(
            roles=frozenset(role for role, is_on in named.items() if is_on),
            operator=self._config.network.operator,
            difficulty=0,
            addresses=lambda: self._addresses,
            models=self._models.offers if self._models is not None else tuple,
        )

    def _publish(self, api_url: str) -> None:
        info = DaemonInfo(
            pid=os.getpid(),
            node_id=self._key.node_id.hex(),
            api_url=api_url,
            addresses=self._addresses,
            started_unix=self._clock.unix_time(),
        )
        self._home.publish(info)
        log.info("up", api=api_url, addresses=self._addresses, roles=self._config.roles.names)

    # --- keys, directory, guards ------------------------------------------------------------------------

    def _keys_changed(self) -> None:
        keys = self._ring.keys
        if self._relay is not None:
            self._relay.set_keys([(held.epoch, held.onion) for held in keys])
        if self._models is not None:
            self._models.keys_changed(self._ring)

    def _directory_changed(self, directory: Directory) -> None:
        if self._client is not None:
            self._refresh_guards(directory)
        if self._models is not None:
            self._models.directory_changed(directory)
        self._directory_grew.set()

    def _load_guards(self) -> GuardSample:
        saved = self._store.guards()
        if saved is None:
            return GuardSample()
        try:
            return decode_sample(saved)
        except DecodeError as error:
            log.warning("the saved guards can't be read; new ones will be drawn", reason=str(error))
            return GuardSample()

    def _refresh_guards(self, directory: Directory) -> None:
        refreshed = refresh_sample(
            self._guards,
            directory,
            client=self._key.node_id,
            unix_time=int(self._clock.unix_time()),
            entropy=os.urandom,
            policy=LOCAL_GUARDS if self._diversity is Diversity.LOCAL else GuardPolicy(),
        )
        if refreshed != self._guards:
            self._guards = refreshed
            with _surviving_store_errors("guards"):
                self._store.save_guards(encode_sample(refreshed))

    def _load_directory(self) -> None:
        self._switch.learn(
            kept.blob
            for kept in self._store.descriptors(self._clock.unix_time())
            if kept.node_id != self._key.node_id
        )

    def _save(self) -> None:
        kept = [
            StoredDescriptor(node.node_id, node.seq, node.expires_unix, blob)
            for node, blob in self._switch.records()
        ]
        with _surviving_store_errors("descriptors"):
            self._store.save_descriptors(kept, self._clock.unix_time())

    # --- tasks ------------------------------------------------------------------------------------------

    async def _keep_warm(self, client: Client) -> None:
        """Build circuits before the first prompt asks for them."""
        while not client.pool.sets:
            self._directory_grew = trio.Event()
            client.warm()
            await self._directory_grew.wait()

    async def _serve_api(self, *, task_status: trio.TaskStatus[str]) -> None:
        api = self._config.api
        access = Access.for_host(
            api.host, loopback=api.is_loopback, key=api.key, admin_token=self._home.admin_token()
        )
        app = build_app(
            self._service, config=self._config, access=access, metrics=self._metrics, clock=self._clock
        )
        drain_s = self._config.limits.drain_s
        await serve_api(app, api, self._stop.wait, drain_s=drain_s, task_status=task_status)

    async def _keep_house(self) -> None:
        worker = self._models.worker if self._models is not None else None
        observer = Observer(self._metrics, self._switch, self._relay, self._client, worker)
        while True:
            observer.observe()
            self._save()
            await trio.sleep(HOUSEKEEPING_S)

    async def _await_signal(self, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for received in signals:
                log.info("stopping", signal=signal.Signals(received).name)
                self._stop.set()
                return

    def _is_answering(self) -> bool:
        return bool(self._service.under_way or (self._models is not None and self._models.answering))

    async def _drain(self) -> None:
        self._service.is_draining = True
        if self._models is not None:
            self._models.drain()
        with trio.move_on_after(self._config.limits.drain_s):
            while self._is_answering():  # noqa: ASYNC110 - two parts count, and a tenth of a second is soon enough
                await trio.sleep(DRAIN_LOOK_S)
        if self._client is not None:
            self._client.pool.close()
        self._switch.close_circuits()
        if self._switch.links.open_links():
            await trio.sleep(FAREWELL_S)
