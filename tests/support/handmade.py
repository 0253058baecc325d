"""Builds and cells made by hand, for what a well-behaved client would never send."""

from crypto.onion import start_build
from overlay.protocol.effects import SendCell
from overlay.wire.cells import Cell, Command, choose_circuit_id
from tests.support.entropy import fixed_entropy


def free_id(network, client, relay, label="id"):
    return choose_circuit_id(
        network[client].node_id,
        network[relay].node_id,
        taken=lambda _: False,
        entropy=fixed_entropy(f"{label} {client} {relay}"),
    )


def offer_build(network, client, relay, *hops, lifetime_s=600, label="build"):
    """Hand a relay a BUILD that was made by hand; returns what the relay wants done, and the cell."""
    entropy = fixed_entropy(f"{label} {network.now}")
    _, body = start_build(hops, network.terms(lifetime_s), entropy=entropy)
    cell = Cell(free_id(network, client, relay, label), Command.BUILD, body)
    return receive(network, client, relay, cell), cell


def receive(network, source, relay, cell):
    node = network[relay]
    return node.relay.receive_cell(network[source].node_id, cell, network.now, network.unix_time)


def is_refusal(effects, cell):
    return (
        len(effects) == 1
        and isinstance(effects[0], SendCell)
        and effects[0].cell.command is Command.DESTROY
        and effects[0].cell.circ_id == cell.circ_id
    )
