"""Nodes and their descriptors for tests, from numbers."""

import hashlib
from collections.abc import Iterable

from crypto.identity import IdentityKey, NodeId
from overlay.routing.directory import Directory
from overlay.wire.descriptor import Descriptor, EpochKey, ModelOffer, Role
from overlay.wire.prompt import ModelId

UNIX_TIME = 1_700_000_000
MODEL_ID = ModelId("m-" + "0123456789abcdef0123" * 2)


def fixed_key(name: object) -> IdentityKey:
    return IdentityKey.from_seed(hashlib.sha256(f"{name}".encode()).digest())


def fixed_id(number: int) -> NodeId:
    """An id without a key: quick, for directories of thousands of nodes."""
    return NodeId(hashlib.sha256(f"node {number}".encode()).digest())


def relay(number: int, *, address: str | None = None, operator: str | None = None, **changes) -> Descriptor:
    """A relay on a network of its own, run by nobody else."""
    fields = {
        "node_id": fixed_id(number),
        "seq": 1,
        "issued_unix": UNIX_TIME,
        "ttl_s": 3600,
        "addresses": (
            address or f"/ip4/{20 + number // 65536}.{number // 256 % 256}.{number % 256}.7/tcp/4001",
        ),
        "roles": frozenset({Role.RELAY}),
        "onion_keys": (EpochKey(19675, hashlib.sha256(f"onion {number}".encode()).digest()),),
        "operator": f"operator-{number}" if operator is None else operator,
    }
    return Descriptor(**{**fields, **changes})


def model_node(number: int, **changes) -> Descriptor:
    """A model node that serves one model and relays nothing."""
    fields = {
        "roles": frozenset({Role.MODEL}),
        "onion_keys": (),
        "sealing_keys": (EpochKey(19675, hashlib.sha256(f"seal {number}".encode()).digest()),),
        "models": (ModelOffer(MODEL_ID, "smollm2-135m", "torch-fp32", 2048),),
    }
    return relay(number, **{**fields, **changes})


def network(relays: int, *, models: int = 1) -> Directory:
    """Relays 0, 1, ... and model nodes 100000, 100001, ..."""
    nodes: Iterable[Descriptor] = [relay(number) for number in range(relays)]
    return Directory([*nodes, *(model_node(100_000 + number) for number in range(models))])
