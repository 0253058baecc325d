"""`clove route`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli import options
from node.cli.output import print_json, print_table, short, write

route_app = typer.Typer(help="Where prompts are answered.", no_args_is_help=True)

_COLUMNS = ("node", "cached", "ahead", "slot", "reading", "late", "wait s", "told s ago", "")

_WHOM_TO_ASK = (
    "ask a node that serves it and has loaded it: --home its home or, in a local network, --node model-01"
)


@route_app.command("explain")
def explain(
    prompt: Annotated[str, typer.Argument(help="The question whose way is wanted. Nobody answers it.")],
    *,
    model: options.ModelOption = None,
    system: options.SystemOption = None,
    node: Annotated[str | None, typer.Option(help="Ask this node of a local network, e.g. model-01.")] = None,
    as_json: options.JsonOption = False,
    home: options.HomeOption = None,
) -> None:
    """Show where a model node would have a prompt answered now: predicted waits, who was asked, the choice."""
    from node.cli.conversation import first_model, turns
    from node.cli.daemon import RefusedError, find_daemon
    from node.errors import NodeError
    from node.home import Home
    from node.testbed import LocalNetworkError, require_record

    where = home
    if node is not None:
        found = require_record(Home.locate(home)).find(node)
        if found is None:
            raise LocalNetworkError(f"no node {node!r} in the local network")
        where = Path(found.home)
    daemon = find_daemon(where)
    body = {"model": model or first_model(daemon), "messages": turns(system, prompt)}
    try:
        report = daemon.post("/api/v1/route", body)
    except RefusedError as error:
        if error.code != "model_not_found":
            raise
        raise NodeError(str(error), _WHOM_TO_ASK) from None
    if as_json:
        print_json(report)
        return
    write(
        f"{report['tokens']} tokens of {report['model']}, {report['blocks']} blocks\n\nby this node's view:\n"
    )
    print_table(_COLUMNS, [_row(each, report) for each in report["candidates"]])
    if report["probed"]:
        write("\nasked, and what they said:\n")
        print_table(_COLUMNS, [_row(each, report) for each in report["probed"]])
    chosen = "nobody: it would be refused" if report["chosen"] is None else short(report["chosen"])
    write(f"\nchosen: {chosen} ({report['reason']})\n")


def _row(candidate: dict[str, Any], report: dict[str, Any]) -> tuple[object, ...]:
    terms = (candidate[f"{name}_s"] for name in ("ahead", "slot", "reading", "late", "total"))
    marks = ["chosen"] if candidate["node"] == report["chosen"] else []
    marks += ["this node"] if candidate["is_here"] else []
    return (
        short(candidate["node"]),
        candidate["cached_tokens"],
        *(f"{term:.3f}" for term in terms),
        f"{candidate['age_s']:.1f}",
        ", ".join(marks),
    )
