"""`clove status`."""

import typer

from node.cli.options import HomeOption, JsonOption
from node.cli.output import print_facts, print_json, span
from node.errors import ExitCode


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
                ("known", f"{report['relays_known']} relays, {report['model_nodes_known']} model nodes"),
                ("models", ", ".join(report["models"]) or "none"),
                ("circuits", f"{report['circuits']} of its own, {report['relayed_circuits']} relayed"),
                ("anonymity", report["anonymity"]),
            ]
        )
    if not readiness["ready"]:
        raise typer.Exit(ExitCode.DEGRADED)
