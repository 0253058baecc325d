"""Fuzz targets for the onion: what a relay and a client read from a link."""

from contextlib import suppress

from crypto.build import SLOTS_BYTES
from crypto.errors import AuthenticationError, DecodeError
from tests.support.entropy import fixed_entropy
from tests.support.onion import build_circuit, make_relays, start

_relays = make_relays(3, fixed_entropy("fuzz relays"))
_circuit = build_circuit(3, fixed_entropy("fuzz circuit"))


def fuzz_build(data: bytes) -> None:
    """A relay accepts no BUILD that isn't a client's: as it comes, and behind the relay's own name."""
    relay = _relays[0]
    for body in (data, (relay.node_id[:16] + data).ljust(1016, b"\0")[:1016]):
        with suppress(DecodeError, AuthenticationError):
            relay.accept(body, fixed_entropy("fuzz"))
            raise AssertionError("a build from nowhere was accepted")


def fuzz_build_changed(data: bytes) -> None:
    """A genuine BUILD XORed with the data: refused, or the same record (slots and tail of others may differ)."""
    relay = _relays[0]
    _, body = start(_relays[:1], fixed_entropy("fuzz"))
    mask = data[:SLOTS_BYTES].ljust(1016, b"\0")
    changed = bytes(a ^ b for a, b in zip(body, mask, strict=True))
    with suppress(DecodeError, AuthenticationError):
        accepted = relay.accept(changed, fixed_entropy("fuzz"))
        assert (accepted.next_id, accepted.lifetime_s) == (None, 600)


def fuzz_built(data: bytes) -> None:
    """A client finishes no circuit on bytes that no relay made."""
    pending, _ = start(_relays, fixed_entropy("fuzz"))
    with suppress(DecodeError, AuthenticationError):
        pending.finish(data.ljust(1016, b"\0") if len(data) % 2 else data)
        raise AssertionError("a circuit was built by nobody")


def fuzz_outbound_cell(data: bytes) -> None:
    """No relay peels a cell that its client did not wrap."""
    for layer in _circuit.relays:
        for body in (data, data.ljust(1016, b"\0")):
            with suppress(DecodeError, AuthenticationError):
                layer.peel(body)
                raise AssertionError("a cell from nowhere was peeled")


def fuzz_inbound_cell(data: bytes) -> None:
    """No client peels a cell that its proxy did not seal."""
    for body in (data, data.ljust(1016, b"\0")):
        with suppress(DecodeError, AuthenticationError):
            _circuit.client.peel(body)
            raise AssertionError("a cell from nowhere was peeled")
