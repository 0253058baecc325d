"""`clove up`."""

from enum import StrEnum
from typing import Annotated

import typer

from node.cli.options import HomeOption


class Role(StrEnum):
    """What a node does."""

    RELAY = "relay"
    MODEL = "model"
    CLIENT = "client"


def up(
    home: HomeOption = None,
    role: Annotated[
        list[Role] | None, typer.Option("--role", "-r", help="Role of this node; repeat for several.")
    ] = None,
    bootstrap: Annotated[
        list[str] | None, typer.Option(help="Address of a node to join by; repeatable.")
    ] = None,
    listen: Annotated[list[str] | None, typer.Option(help="Address to listen on; repeatable.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Model to serve; repeatable.")] = None,
    api_port: Annotated[int | None, typer.Option(help="Port of the local API; 0 takes a free one.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting: --set privacy.hops=2")
    ] = None,
) -> None:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C."""
    from node.launch import launch

    flags: dict[str, object] = {
        "network.bootstrap": bootstrap or None,
        "network.listen": listen or None,
        "engine.models": model or None,
        "api.port": api_port,
        "logging.level": log_level,
    }
    if role:
        flags |= {f"roles.{name}": name in role for name in Role}
    launch(home, flags | parse_settings(setting or []))


def parse_settings(settings: list[str]) -> dict[str, object]:
    """`privacy.hops=2` as a flag of `node.config`."""
    parsed: dict[str, object] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or "." not in key:
            raise typer.BadParameter(f"{setting!r} is not SECTION.KEY=VALUE", param_hint="--set")
        parsed[key.strip()] = value.strip()
    return parsed
