"""The violation that costs a peer one circuit, as against the one that costs it the link."""

from overlay.errors import RemoteProtocolError


class CircuitViolationError(RemoteProtocolError):
    """Somebody on one circuit broke the protocol. Destroy that circuit; the link carries others and lives."""
