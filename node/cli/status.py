"""`clove status`."""

from collections.abc import Mapping
from typing import Any

import typer

from node.cli.options import HomeOption, JsonOption
from node.cli.output import print_facts, print_json, span
from node.errors import ExitCode

TOLD_APART_S = 60


def status(*, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Say how the daemon is; ends with 4 while it can't answer prompts."""
    from node.cli.daemon import find_daemon

    report = find_daemon(home).get("/api/v1/status")
    readiness = report["readiness"]
    if as_json:
        print_json(report)
    else:
        print_facts(
            [
                ("ready", "yes" if readiness["ready"] else "no: " + "; ".join(readiness["reasons"])),
                ("node", report["node_id"]),
                ("roles", ", ".join(report["roles"])),
                ("network", f"{report['network']} ({report['profile']} profile), clove {report['version']}"),
                ("addresses", " ".join(report["addresses"])),
                ("up for", span(report["uptime_s"])),
                ("links", report["links"]),
                *clock_line(report["clock_ahead_s"]),
                ("known", f"{report['relays_known']} relays, {report['model_nodes_known']} model nodes"),
                ("models", ", ".join(report["models"]) or "none"),
                *(("engine", engine_line(load)) for load in report["engine"]),
                ("circuits", f"{report['circuits']} of its own, {report['relayed_circuits']} relayed"),
                ("anonymity", report["anonymity"]),
            ]
        )
    if not readiness["ready"]:
        raise typer.Exit(ExitCode.DEGRADED)


def clock_line(ahead_s: int | None) -> list[tuple[str, str]]:
    """The line on a clock that is a minute or more from its neighbours'; none else."""
    from node.clock import describe_apart

    if ahead_s is None or abs(ahead_s) < TOLD_APART_S:
        return []
    return [("clock", describe_apart(ahead_s))]


def engine_line(load: Mapping[str, Any]) -> str:
    """How busy a model is, for people. load: `node.engine.events.EngineLoad` as the API gives it."""
    requests = f"{load['decoding']} answering, {load['reading']} being read, {load['waiting']} waiting"
    wait = f"first token in about {load['wait_s']:.1f} s" if load["wait_s"] else "idle"
    speed = (
        f"{1 / load['prefill_token_s']:.0f} prompt tokens/s" if load["prefill_token_s"] else "speed unknown"
    )
    return f"{load['alias']}: {requests}; {wait}; {speed}, {load['decode_step_s'] * 1000:.0f} ms a step"
