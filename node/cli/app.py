"""Puts the commands together, and ends the process with a code and a sentence where one of them fails."""

import os
import sys

import typer

from node.cli.ask import ask
from node.cli.chat import chat
from node.cli.circuits import circuits
from node.cli.demo import demo
from node.cli.doctor import doctor
from node.cli.id import show_id
from node.cli.init import init
from node.cli.models import models_app
from node.cli.output import note
from node.cli.peers import peers
from node.cli.route import route_app
from node.cli.shutdown import shutdown
from node.cli.status import status
from node.cli.testbed import testbed_app
from node.cli.up import up
from node.cli.verify import verify
from node.cli.version import version
from node.errors import ExitCode, NodeError

_INTERRUPTED = 130
_NEXT_STEP = """\
clove: private, verifiable answers from language models over a peer-to-peer network.

  clove demo          a whole network on this machine, one question, and what happened to it
  clove testbed up    that network, to keep; then: clove ask "Why is the sky blue?"
  clove init          make this machine a node; then: clove up

All commands: clove --help
"""
_EPILOG = "Exit codes: 0 ok, 1 failed, 2 usage, 3 no daemon, 4 degraded."

app = typer.Typer(
    name="clove",
    help="Private, verifiable answers from language models over a peer-to-peer network.",
    epilog=_EPILOG,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (init, up, ask, chat, status, peers, circuits, verify, doctor, demo, shutdown, version):
    app.command()(command)
app.command("id")(show_id)
app.add_typer(models_app, name="models")
app.add_typer(route_app, name="route")
app.add_typer(testbed_app, name="testbed")


@app.callback(invoke_without_command=True)
def _start(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(_NEXT_STEP, end="")


def run() -> None:
    """Run `clove` and end the process."""
    try:
        app(prog_name="clove")
    except NodeError as error:
        _fail(str(error), error.remedy, error.exit_code)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has enough of it; Python must not try to flush the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.OK)


def _fail(message: str, remedy: str | None, code: int) -> None:
    note(f"clove: {message}")
    if remedy:
        note(f"  {remedy}")
    sys.exit(code)
