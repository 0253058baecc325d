"""`clove testbed up|down|status|kill`."""

from typing import Annotated

import typer

from node.cli.options import HomeOption, JsonOption
from node.cli.output import note, print_json, print_table, short
from node.errors import ExitCode

testbed_app = typer.Typer(
    help="A whole network of separate processes on this machine.", no_args_is_help=True, rich_markup_mode=None
)
DEFAULT_NODES = 19
DEFAULT_MODELS = 2


@testbed_app.command("up")
def start_network(
    *,
    nodes: Annotated[
        int,
        typer.Option(
            help="Processes in all: relays, model nodes and one client. Model nodes relay too where there are few."
        ),
    ] = DEFAULT_NODES,
    models: Annotated[int, typer.Option(help="How many of them serve the model.")] = DEFAULT_MODELS,
    model: Annotated[str, typer.Option(help="The model they serve.")] = "smollm2-135m",
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds until all must be ready.")] = 180.0,
    setting: Annotated[list[str] | None, typer.Option("--set", help="A setting for every node.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a network here and wait until it answers."""
    from dataclasses import asdict

    from node.cli.testbed_start import start_testbed
    from node.cli.up import parse_settings
    from node.home import Home

    base = Home.locate(home)
    settings = parse_settings(setting or [])
    record = start_testbed(base, nodes, models, model, timeout_s, settings)
    if as_json:
        print_json(asdict(record))
        return
    relays = sum(node.role == "relay" for node in record.nodes)
    client = record.client
    note(f"up: {relays} relays, {models} model nodes, 1 client; API {client.api_url if client else '?'}/v1")
    note('ask it: clove ask "Why is the sky blue?"    end it: clove testbed down')


@testbed_app.command("down")
def end_network(home: HomeOption = None) -> None:
    """End every process of the network."""
    from node.home import Home
    from node.testbed import take_down

    killed = take_down(Home.locate(home))
    note("the testbed is down" + (f"; {killed} processes had to be killed" if killed else ""))


@testbed_app.command("status")
def list_network(*, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the processes; ends with 4 when one is gone."""
    from dataclasses import asdict

    from node.home import Home
    from node.testbed import is_running, require_record

    record = require_record(Home.locate(home))
    alive = {node.name: is_running(node) for node in record.nodes}
    if as_json:
        print_json([{**asdict(node), "running": alive[node.name]} for node in record.nodes])
    else:
        rows = [
            (n.name, n.role, n.pid, "yes" if alive[n.name] else "no", short(n.node_id), n.address, n.api_url)
            for n in record.nodes
        ]
        print_table(("name", "role", "pid", "running", "node", "address", "api"), rows)
    if not all(alive.values()):
        raise typer.Exit(ExitCode.DEGRADED)


@testbed_app.command("start")
def start_node(
    name: Annotated[str, typer.Argument(help="A node that has ended.")],
    *,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds until it must be up.")] = 60.0,
    home: HomeOption = None,
) -> None:
    """Start a node again that was killed, with the key and the home that it had."""
    from node.home import Home
    from node.testbed import start_again

    node = start_again(Home.locate(home), name, timeout_s=timeout_s)
    note(f"{node.name} is up again (pid {node.pid})")


@testbed_app.command("kill")
def signal_node(
    name: Annotated[str, typer.Argument(help="A node's name, or `serving`: the one that answers now.")],
    signal_name: Annotated[str, typer.Option("--signal", help="KILL, TERM, STOP, CONT, ...")] = "KILL",
    home: HomeOption = None,
) -> None:
    """Send a signal to a node, as when it fails."""
    import signal

    from node.home import Home
    from node.testbed import LocalNetworkError, require_record, send_signal, serving_node

    record = require_record(Home.locate(home))
    number = getattr(signal, f"SIG{signal_name.upper().removeprefix('SIG')}", None)
    if not isinstance(number, signal.Signals):
        raise typer.BadParameter(f"no signal {signal_name!r}", param_hint="--signal")
    node = serving_node(record) if name == "serving" else record.find(name)
    if node is None:
        names = ", ".join(each.name for each in record.nodes)
        raise LocalNetworkError(f"no node {name!r}; there are {names}")
    send_signal(node, number)
    note(f"sent {number.name} to {node.name} (pid {node.pid})")
