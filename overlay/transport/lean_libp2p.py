"""Imports libp2p without the packages that it imports and we never call.

py-libp2p imports every transport and helper it has: QUIC, WebSocket, mDNS, UPnP, ACME, DNS and two elliptic
curves of its own, half of its .7 s and 60 MB. A network of twenty processes on two cores pays that twenty
times. While libp2p is imported, these packages are stood in for by empty modules whose names are all
`_Absent`; using one raises. Afterwards the stand-ins are gone from `sys.modules`, so that whoever else wants
the real package gets it. A package that is loaded already is left alone, and so is everything if libp2p
itself is.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence

UNUSED = frozenset(
    {
        "aioquic",  # QUIC and WebTransport
        "coincurve",  # secp256k1 keys: a node's key is Ed25519
        "dns",  # names are resolved by our own dialler
        "fastecdsa",  # ECDSA keys
        "httpx",  # ACME
        "miniupnpc",  # UPnP
        "prometheus_client",  # metrics of its own
        "psutil",  # the resource manager, which we do without
        "requests",  # ACME
        "trio_websocket",  # WebSocket
        "zeroconf",  # mDNS
    }
)


class _AbsentType(type):
    """Answers every name with another absent one, as modules, classes and decorators are looked up at import."""

    def __getattr__(cls, name: str) -> "_AbsentType":
        if name.startswith("__"):
            raise AttributeError(name)
        return _absent(name)

    def __or__(cls, other: object) -> "_AbsentType":  # in annotations: `Absent | None`
        return cls

    def __ror__(cls, other: object) -> "_AbsentType":
        return cls


class _Absent(Exception, metaclass=_AbsentType):  # noqa: N818 - an exception only so that `except` may name it
    """What any name of an absent package is. A few are called while libp2p is imported; they do nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        del args, kwargs


def _absent(name: str) -> _AbsentType:
    return _AbsentType(name, (_Absent,), {})


class _StandIn(types.ModuleType):
    """An empty package."""

    def __getattr__(self, name: str) -> _AbsentType:
        if name.startswith("__"):
            raise AttributeError(name)
        return _absent(name)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds stand-ins for the unused packages and everything in them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if fullname.partition(".")[0] not in UNUSED:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing in it."""


def import_libp2p() -> None:
    """Imports the parts of libp2p that the transport uses. Call it before importing `libp2p_host`; once is enough."""
    if "libp2p" in sys.modules:
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        importlib.import_module("overlay.transport.libp2p_host")
        importlib.import_module("overlay.transport.dht")
    finally:
        sys.meta_path.remove(finder)
        for name, module in list(sys.modules.items()):
            if isinstance(module, _StandIn):
                del sys.modules[name]
