"""What a daemon with the model role runs: an engine, and the service that takes prompts for it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from crypto.identity import IdentityKey
from node.config import EngineConfig
from node.engine.errors import EngineError, ModelError, UnknownModelError
from node.engine.prompt_meter import PromptMeter
from node.engine.settings import EngineSettings
from node.engine.supervisor import Engine
from node.errors import NodeError
from node.home import Home
from node.joining import Announcer
from node.keys import KeyRing
from node.logs import get_logger
from node.metrics import Metrics
from node.service import NodeService
from node.serving.answer_writer import AnswerWriter, Emit
from node.serving.groups import Groups
from node.serving.model_service import ModelService
from overlay.protocol.intake import Intake
from overlay.routing.directory import Directory
from overlay.transport.switch import Switch
from overlay.wire.descriptor import ModelOffer
from overlay.wire.prompt import PromptMessage

if TYPE_CHECKING:
    from node.engine.upstream import UpstreamEngine

log = get_logger("models")


class ModelRole:
    """The engine that the configuration asks for, and how prompts reach it."""

    def __init__(
        self,
        engine: EngineConfig,
        home: Home,
        switch: Switch,
        key: IdentityKey,
        network: bytes,
        metrics: Metrics,
        unix_time: Callable[[], float],
    ) -> None:
        """Make the parts; nothing runs yet.

        Raises:
            NodeError: a model that the node should serve is not there.
        """
        self._names = ", ".join(engine.models)
        self._folders: list[Path] = []
        self.groups: Groups | None = None
        self._upstream: UpstreamEngine | None = None
        self.worker: Engine | None = None
        self._engine: UpstreamEngine | Engine
        if engine.kind == "openai":
            self._engine = self._upstream = _make_upstream(engine)
        else:
            self._folders = _find_folders(engine, home)
            self._engine = self.worker = Engine(self._folders, _worker_settings(engine))
        self._writer = AnswerWriter(
            self._engine,
            key,
            entropy=os.urandom,
            unix_time=unix_time,
            count_tokens=metrics.generated_tokens.inc,
        )
        if self.worker is not None and engine.group:
            self.groups = Groups(
                switch,
                key,
                network,
                self.worker,
                self._writer,
                metrics,
                entropy=os.urandom,
                unix_time=unix_time,
                max_wait_s=engine.max_wait_s,
            )
        intake = Intake(key.node_id, network)
        self._models = ModelService(switch, intake, self._answer, unix_time=unix_time, metrics=metrics)
        metrics.serving.set_function(lambda: self.answering)

    def offers(self) -> tuple[ModelOffer, ...]:
        """What the engine serves at this moment."""
        return tuple(
            ModelOffer(card.model_id, card.alias, card.numerics_class, card.context_tokens)
            for card in self._engine.cards
        )

    @property
    def answering(self) -> int:
        """Answers under way: those whose paths end here, and those for other members."""
        return self._models.running + (0 if self.groups is None else self.groups.hands.answering)

    def drain(self) -> None:
        """Take no new prompts."""
        self._models.is_draining = True
        if self.groups is not None:
            self.groups.is_draining = True

    def directory_changed(self, directory: Directory) -> None:
        """Other nodes may serve the same models now, or no longer."""
        if self.groups is not None:
            self.groups.directory_changed(directory)

    async def _answer(self, message: PromptMessage, emit: Emit) -> None:
        """Answer a prompt here or, where its author allows it, where it is answered soonest."""
        if self.groups is not None and message.forward == "group":
            await self.groups.forwarder.answer(message.task, emit)
        else:
            await self._writer.write(message.task, emit)

    def keys_changed(self, ring: KeyRing) -> None:
        """Prompts are sealed to other keys from now on."""
        self._models.set_keys({held.epoch: held.sealing for held in ring.keys})

    async def serve(
        self, service: NodeService, announcer: Announcer, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Take prompts at once, announce the models when they are loaded. A model that can't be is said."""
        service.starting["engine"] = f"loading {self._names}"
        async with trio.open_nursery() as nursery:
            await nursery.start(self._models.serve)
            task_status.started()
            try:
                await nursery.start(self._engine.serve)
            except EngineError as error:
                # The cause is a sentence for the operator; a traceback would bury it.
                log.error("the engine can't be started; this node serves no model", cause=str(error))  # noqa: TRY400
                service.starting["engine"] = f"no model can be served: {error}"
                return
            service.writer = self._writer
            service.own_models = self.offers
            del service.starting["engine"]
            if self.worker is not None:
                gate = self.worker.gate
                service.own_loads = lambda: gate.loads
                log.info("models loaded", models=[card.alias for card in self._engine.cards])
                announcer.announce_soon()
            if self.groups is not None:
                service.groups = self.groups
                meters = [PromptMeter(folder) for folder in self._folders]
                nursery.start_soon(self.groups.serve, list(zip(self._engine.cards, meters, strict=True)))
            if self._upstream is not None:
                await _follow_upstream(self._upstream, service, announcer)


async def _follow_upstream(engine: "UpstreamEngine", service: NodeService, announcer: Announcer) -> None:
    """Offer for ever what the server serves, and say what it does not."""
    while True:
        changed = engine.changed
        if engine.trouble is None:
            service.starting.pop("engine", None)
            log.info("the upstream engine serves", models=[card.alias for card in engine.cards])
        else:
            service.starting["engine"] = f"upstream engine: {engine.trouble}"
            log.warning(
                "the upstream engine does not serve all models",
                served=[card.alias for card in engine.cards],
                reason=engine.trouble,
            )
        announcer.announce_soon()
        await changed.wait()


def _find_folders(engine: EngineConfig, home: Home) -> list[Path]:
    # The store reads model files' headers; only nodes with the model role pay for its imports.
    from node.engine.models import ModelStore

    store = ModelStore(home.models_dir)
    folders = []
    for name in engine.models:
        try:
            folders.append(store.find(name).folder)
        except UnknownModelError as error:
            raise NodeError(str(error), f"bring it here: clove models pull {name}") from None
        except ModelError as error:
            raise NodeError(str(error)) from None
    return folders


def _worker_settings(engine: EngineConfig) -> EngineSettings:
    return EngineSettings(
        device=engine.device,
        weights=engine.weights,
        threads=engine.threads,
        max_batch=engine.max_batch,
        max_queue=engine.max_queue,
        max_wait_s=engine.max_wait_s,
        cache_bytes=engine.cache_mb << 20,
        slack_bytes=engine.memory_slack_mb << 20,
        step_log=engine.step_log,
    )


def _make_upstream(engine: EngineConfig) -> "UpstreamEngine":
    # Nodes with a worker of their own don't pay for the HTTP client.
    from node.engine.upstream import UpstreamEngine
    from node.upstream_settings import upstream_settings

    return UpstreamEngine(upstream_settings(engine))
