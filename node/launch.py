"""Starts a daemon in this process: configuration, logs, the home's lock, then `node.daemon`."""

from collections.abc import Mapping
from pathlib import Path

import trio

from node.config import load_config
from node.daemon import run
from node.home import Home
from node.logs import configure_logs


def launch(home: Path | None, flags: Mapping[str, object]) -> None:
    """Run the daemon of a home until it is told to end.

    Raises:
        NodeError: bad configuration, unusable home, a second daemon on it, an address in use.
    """
    place = Home.locate(home)
    config = load_config(place.config_file, flags)
    configure_logs(config.logging)
    with place.lock():
        try:
            trio.run(run, config, place)
        finally:
            place.unpublish()
