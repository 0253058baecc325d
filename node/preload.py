"""Starts many daemons quickly: one process imports what they all need, then forks one process per node.

`python -m node.preload` reads a JSON list of `{"home", "log"}` from stdin and prints the pids as a JSON list. The
imports of a daemon cost about a second and a half of CPU each; on two cores that is most of the start of twenty.
The parent has one thread and no event loop, opens no socket and ends when all are forked: each daemon is a session
of its own with its own home, log and file descriptors, and shares nothing with the others but read-only pages.
"""

import gc
import importlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import NoReturn

from overlay.transport.lean_libp2p import import_libp2p

_NEEDED = ("node.launch", "node.daemon", "overlay.transport.libp2p_host", "overlay.transport.dht")


def main() -> None:
    """Fork a daemon per entry of stdin's list."""
    entries = json.load(sys.stdin)
    os.environ.setdefault(
        "OPENBLAS_NUM_THREADS", "1"
    )  # numpy's threads would be lost by the fork, and nobody needs them
    import_libp2p()
    for module in _NEEDED:
        importlib.import_module(module)
    if threading.active_count() != 1:
        sys.exit("an import started a thread; forking would lose it")
    gc.collect()
    gc.freeze()
    pids = []
    for entry in entries:
        pid = os.fork()
        if pid == 0:
            _become_daemon(Path(entry["home"]), Path(entry["log"]))
        pids.append(pid)
    print(json.dumps(pids), flush=True)


def _become_daemon(home: Path, log: Path) -> NoReturn:
    from node.errors import ExitCode, NodeError
    from node.launch import launch

    code = int(ExitCode.FAILED)
    try:
        os.setsid()
        _redirect(log)
        gc.unfreeze()
        launch(home, {})
        code = int(ExitCode.OK)
    except NodeError as error:
        print(f"clove: {error}", *filter(None, [error.remedy]), sep="\n  ", file=sys.stderr)
        code = int(error.exit_code)
    except KeyboardInterrupt:
        code = 130
    except BaseException:  # noqa: BLE001 -- nothing may escape into the launcher's own code after a fork
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def _redirect(log: Path) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(nothing, 0)
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.close(nothing)
    os.close(written)


if __name__ == "__main__":
    main()
