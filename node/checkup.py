"""What `clove doctor` looks at: the machine, the packages, the home, the models, the daemon."""

import importlib.metadata
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import trio

from node.config import Config, load_config
from node.engine.errors import EngineError
from node.engine.models import ModelStore
from node.errors import NodeError
from node.home import Home, read_private

_OLDEST_PYTHON = (3, 11)
_PACKAGES = ("libp2p", "cryptography", "trio", "hypercorn", "torch", "transformers")
_ROOM_BYTES = 2 * 10**9
_MEMORY_BYTES = 2 * 10**9
_OPEN_FILES = 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. remedy is the step that mends it."""

    level: Literal["ok", "warn", "fail"]
    subject: str
    detail: str
    remedy: str | None = None


def check_up(home: Home) -> list[Finding]:
    """Look at everything; nothing is changed."""
    findings = [*_machine(), *_packages(), *_home(home)]
    try:
        config = load_config(home.config_file)
    except NodeError as error:
        return [*findings, Finding("fail", "configuration", str(error), f"edit {home.config_file}")]
    findings.append(Finding("ok", "configuration", f"{home.config_file} and the environment are understood"))
    return [*findings, *_models(home, config), *_daemon(home, config)]


def _machine() -> Iterator[Finding]:
    current = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info[:2] >= _OLDEST_PYTHON
    yield Finding(
        "ok" if good else "fail", "python", current, None if good else "install Python 3.11 or newer"
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0))
    level: Literal["ok", "warn"] = "ok" if memory >= _MEMORY_BYTES else "warn"
    yield Finding(level, "machine", f"{cores} cores, {memory / 1e9:.1f} GB of memory")
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _OPEN_FILES:
        yield Finding("warn", "open files", f"at most {soft}", f"ulimit -n {_OPEN_FILES}")


def _packages() -> Iterator[Finding]:
    for name in _PACKAGES:
        try:
            yield Finding("ok", name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding("fail", name, "is not installed", "install clovenet again: pip install clovenet")


def _home(home: Home) -> Iterator[Finding]:
    if not home.path.is_dir():
        yield Finding("warn", "home", f"{home.path} does not exist yet", "make it: clove init")
        return
    if not os.access(home.path, os.W_OK):
        yield Finding("fail", "home", f"{home.path} can't be written", "set CLOVE_HOME elsewhere")
        return
    free = shutil.disk_usage(home.path).free
    level: Literal["ok", "warn"] = "ok" if free >= _ROOM_BYTES else "warn"
    yield Finding(level, "home", f"{home.path}, {free / 1e9:.1f} GB free")
    for file in (home.identity_file, home.admin_token_file):
        if file.exists():
            yield _key_file(file)


def _key_file(file: Path) -> Finding:
    try:
        read_private(file)
    except NodeError as error:
        return Finding("fail", file.name, str(error), error.remedy)
    return Finding("ok", file.name, "is there and private")


def _upstream(config: Config) -> Iterator[Finding]:
    """Ask the server that answers for this node, once."""
    from node.engine.upstream import look_once
    from node.upstream_settings import upstream_settings

    settings = upstream_settings(config.engine)
    cards, trouble = trio.run(look_once, settings)
    for card in cards:
        yield Finding("ok", f"model {card.alias}", f"{settings.url}, {card.context_tokens} tokens of context")
    if trouble is not None:
        level: Literal["warn", "fail"] = "fail" if config.roles.model else "warn"
        yield Finding(level, "upstream engine", trouble, "start it, or mend the upstream settings")


def _models(home: Home, config: Config) -> Iterator[Finding]:
    if config.engine.kind == "openai":
        yield from _upstream(config)
        return
    store = ModelStore(home.models_dir)
    for alias in config.engine.models:
        try:
            record = store.find(alias)
        except EngineError as error:
            level: Literal["warn", "fail"] = "fail" if config.roles.model else "warn"
            yield Finding(level, f"model {alias}", str(error), f"fetch it: clove models pull {alias}")
        else:
            yield Finding("ok", f"model {alias}", str(record.folder))


def _daemon(home: Home, config: Config) -> Iterator[Finding]:
    holder = home.holder()
    if holder is not None:
        info = home.daemon()
        where = info.api_url if info else "its API is not up yet"
        yield Finding("ok", "daemon", f"runs, pid {holder}, {where}")
        return
    yield Finding("warn", "daemon", "does not run", "start it: clove up")
    if config.api.port and _is_taken(config.api.host, config.api.port):
        yield Finding("fail", "API port", f"{config.api.host}:{config.api.port} is in use", "set api.port")
    for address in config.network.listen:
        _, family, host, _, port = address.split("/")[:5]
        if family == "ip4" and int(port) and _is_taken(host, int(port)):
            yield Finding("fail", "listen port", f"{address} is in use", "set network.listen")
    if config.roles.client and not config.network.bootstrap:
        detail = "no node to join by is configured"
        yield Finding("warn", "bootstrap", detail, f"set network.bootstrap in {home.config_file}")


def _is_taken(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False
