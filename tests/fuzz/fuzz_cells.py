"""Fuzz targets for cells and contents: what comes off a link, and what comes out of the last layer."""

from contextlib import suppress

from crypto.errors import DecodeError
from crypto.identity import NodeId
from overlay.errors import RemoteProtocolError
from overlay.protocol.circuit import CircuitState
from overlay.protocol.effects import SendCell
from overlay.wire.cells import Command, decode_cell, encode_cell
from overlay.wire.contents import decode_inbound, decode_outbound, encode_inbound, encode_outbound
from overlay.wire.limits import CELL_BYTES, INBOUND_CONTENT_BYTES, OUTBOUND_CONTENT_BYTES
from tests.support.stapled import Network, inject

_NEIGHBOUR = NodeId(b"\x05" * 32)


def fuzz_cell(data: bytes) -> None:
    """Bytes are one cell or malformed, and a cell has one encoding."""
    for sized in (data, data.ljust(CELL_BYTES, b"\0")[:CELL_BYTES]):
        with suppress(DecodeError):
            assert encode_cell(decode_cell(sized)) == sized


def fuzz_content(data: bytes) -> None:
    """Bytes are one content or malformed, and a content has one encoding."""
    outbound = data.ljust(OUTBOUND_CONTENT_BYTES, b"\0")[:OUTBOUND_CONTENT_BYTES]
    inbound = data.ljust(INBOUND_CONTENT_BYTES, b"\0")[:INBOUND_CONTENT_BYTES]
    for sized in (data, outbound):
        with suppress(DecodeError):
            assert encode_outbound(decode_outbound(sized)) == sized
    for sized in (data, inbound):
        with suppress(DecodeError):
            assert encode_inbound(decode_inbound(sized)) == sized


def fuzz_relay(data: bytes) -> None:
    """A relay answers a stranger's cell by nothing, by one DESTROY, or by closing the link."""
    network = Network("relay")
    with suppress(DecodeError, RemoteProtocolError):
        cell = decode_cell(data.ljust(CELL_BYTES, b"\0")[:CELL_BYTES])
        effects = network["relay"].relay.receive_cell(_NEIGHBOUR, cell, network.now, network.unix_time)
        for effect in effects:
            assert isinstance(effect, SendCell)
            assert effect.cell.command is Command.DESTROY
    assert network.circuit_count() == 0


def fuzz_proxy(data: bytes) -> None:
    """Whatever a client wraps, its proxy answers it or destroys that circuit; it never raises."""
    network = Network("alice", "relay")
    circuit = network.open_circuit("alice", "relay")
    content = data.ljust(OUTBOUND_CONTENT_BYTES, b"\0")[:OUTBOUND_CONTENT_BYTES]
    inject(network, "alice", circuit, content)
    assert (circuit.machine.state is CircuitState.OPEN) == (network.circuit_count() == 1)
