"""The onion as the rest of the project sees it: building circuits (`build`) and their layers (`layers`).

Normative text and byte tables: docs/spec/onion.md.
"""

from crypto.build import (
    MAX_MINUTES_APART,
    AcceptedBuild,
    BuildTerms,
    Hop,
    PendingCircuit,
    accept_build,
    start_build,
)
from crypto.exchange import OnionKey, OnionPublicKey
from crypto.layers import (
    CELL_BODY_BYTES,
    CONTENT_BYTES,
    INBOUND_CONTENT_BYTES,
    MAX_HOPS,
    MESSAGE_ID_BYTES,
    REPLY_TOKEN_BYTES,
    ClientLayers,
    RelayLayer,
)

__all__ = [
    "CELL_BODY_BYTES",
    "CONTENT_BYTES",
    "INBOUND_CONTENT_BYTES",
    "MAX_HOPS",
    "MAX_MINUTES_APART",
    "MESSAGE_ID_BYTES",
    "REPLY_TOKEN_BYTES",
    "AcceptedBuild",
    "BuildTerms",
    "ClientLayers",
    "Hop",
    "OnionKey",
    "OnionPublicKey",
    "PendingCircuit",
    "RelayLayer",
    "accept_build",
    "start_build",
]
