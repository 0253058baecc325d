"""Carries what the machines count into the metrics. Machines know nothing of Prometheus; totals only grow."""

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import Counter

from node.engine.events import EngineLoad
from node.engine.supervisor import Engine
from node.metrics import Metrics
from overlay.client.client import Client
from overlay.protocol.relay import RelayMachine
from overlay.transport.switch import Switch

_CELLS = {"cells_forwarded_outbound": "fwd", "cells_forwarded_inbound": "bwd", "pads_received": "pad"}
_DROPS = {"cells_unknown_circuit": "unknown_circuit"}
_CLOVES = {"cloves_delivered": "delivered", "cloves_undelivered": "undelivered"}


@dataclass(slots=True)
class Observer:
    """Reads the parts of one daemon whenever it is asked to.

    Models are labels by their aliases, which the node's owner has chosen.
    """

    metrics: Metrics
    switch: Switch
    relay: RelayMachine | None
    client: Client | None
    engine: Engine | None = None

    def observe(self) -> None:
        """Bring the metrics up to what the parts have counted."""
        metrics, directory = self.metrics, self.switch.directory
        metrics.links.set(len(self.switch.links.open_links()))
        metrics.circuits.labels("own").set(len(self.switch.own_circuits))
        metrics.known_nodes.labels("relay").set(len(directory.relays()))
        metrics.known_nodes.labels("model").set(len(directory.model_nodes()))
        if self.relay is not None:
            self._observe_relay(self.relay)
        memory = None if self.engine is None else self.engine.worker_memory
        metrics.engine_memory.labels("own").set(0 if memory is None else memory.own)
        metrics.engine_memory.labels("mapped").set(0 if memory is None else memory.mapped)
        if self.client is not None:
            pool = self.client.pool
            _raise_to(metrics.circuit_builds, {"ok": pool.built, "failed": pool.failed})
        if self.engine is not None:
            self._observe_engine(self.engine)

    def _observe_relay(self, relay: RelayMachine) -> None:
        counted = relay.counters.as_dict()
        self.metrics.circuits.labels("relayed").set(relay.circuit_count)
        _raise_to(self.metrics.cells, _named(counted, _CELLS))
        _raise_to(self.metrics.dropped_cells, _named(counted, _DROPS))
        _raise_to(self.metrics.cloves, _named(counted, _CLOVES))

    def _observe_engine(self, engine: Engine) -> None:
        _raise_to(self.metrics.engine_refusals, engine.gate.refusals)
        for load in engine.gate.loads:
            self._observe_load(load)

    def _observe_load(self, load: EngineLoad) -> None:
        metrics, model = self.metrics, load.alias
        for state in ("waiting", "reading", "decoding"):
            metrics.engine_requests.labels(model, state).set(getattr(load, state))
        metrics.engine_queued_tokens.labels(model).set(load.queued_tokens)
        metrics.engine_wait.labels(model).set(load.wait_s)
        metrics.engine_prefill_token.labels(model).set(load.prefill_token_s)
        metrics.engine_decode_step.labels(model).set(load.decode_step_s)


def _named(counted: Mapping[str, int], names: Mapping[str, str]) -> dict[str, int]:
    return {label: counted[name] for name, label in names.items()}


def _raise_to(counter: Counter, totals: Mapping[str, int]) -> None:
    for label, total in totals.items():
        child = counter.labels(label)
        child.inc(max(0, total - _value(child)))


def _value(child: Counter) -> float:
    return next(
        sample.value
        for metric in child.collect()
        for sample in metric.samples
        if "created" not in sample.name
    )
