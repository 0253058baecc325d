"""`clove shutdown`."""

from typing import Annotated

import typer

from node.cli.options import HomeOption
from node.cli.output import note

_POLL_S = 0.1


def shutdown(
    home: HomeOption = None,
    wait_s: Annotated[float, typer.Option("--wait", help="Seconds to wait for its end.")] = 30.0,
) -> None:
    """Tell the daemon to finish what it is doing and end."""
    import threading

    from node.cli.daemon import find_daemon
    from node.clock import monotonic
    from node.errors import DegradedError, NoDaemonError
    from node.home import Home

    place = Home.locate(home)
    if place.holder() is None:
        raise NoDaemonError(f"no daemon runs on {place.path}")
    find_daemon(home).post("/api/v1/shutdown", {})
    deadline = monotonic() + wait_s
    pause = threading.Event()
    while place.holder() is not None:
        if monotonic() > deadline:
            raise DegradedError(f"the daemon (pid {place.holder()}) still runs after {wait_s:g} s")
        pause.wait(_POLL_S)
    note("the daemon has ended")
