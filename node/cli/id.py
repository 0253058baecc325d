"""`clove id`."""

from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.options import HomeOption, JsonOption
from node.cli.output import note, print_facts, print_json

if TYPE_CHECKING:
    from node.home import Home

_ANYWHERE = ("/ip4/0.0.0.0/", "/ip6/::/")


def show_id(
    *,
    address: Annotated[
        bool, typer.Option("--address", help="Print one address that others can join by, and nothing else.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say who this node is: its id, its peer id, its addresses for other nodes' network.bootstrap."""
    from crypto.identity import IdentityKey
    from node.errors import NodeError
    from node.home import Home
    from overlay.transport.addresses import peer_id_text

    place = Home.locate(home)
    if not place.identity_file.exists():
        raise NodeError(f"{place.path} has no identity yet", "make one: clove init")
    node_id = IdentityKey.from_seed(place.identity_seed()).node_id
    peer_id = peer_id_text(node_id)
    addresses = _addresses(place, peer_id)
    if as_json:
        print_json({"node_id": node_id.hex(), "peer_id": peer_id, "addresses": addresses})
        return
    reachable = [each for each in addresses if not each.startswith(_ANYWHERE)]
    remedy = f'say where it is reached: announce = ["/ip4/ADDRESS/tcp/PORT"] under [network] in {place.config_file}'
    if not address:
        print_facts([("node", node_id.hex()), ("peer", peer_id), *(("address", each) for each in addresses)])
        if not reachable:
            note(f"no other node can dial these; {remedy}")
    elif reachable:
        print(reachable[0])
    else:
        raise NodeError(f"no other node can dial {', '.join(addresses)}", remedy)


def _addresses(place: "Home", peer_id: str) -> list[str]:
    """What the running daemon announces, else what it would by its configuration."""
    from node.config import load_config

    running = place.daemon()
    if running is not None:
        return list(running.addresses)
    network = load_config(place.config_file).network
    return [f"{each}/p2p/{peer_id}" for each in network.announce or network.listen]
