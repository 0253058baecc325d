"""`clove init`."""

from node.cli.options import HomeOption, JsonOption
from node.cli.output import note, print_json

_TEMPLATE = """\
# clove's configuration. Every key may be left out; what is commented shows the default.
# The environment beats this file (CLOVE_PRIVACY__HOPS=2), flags of `clove up` beat both.

[network]
# id = "clovenet"
# bootstrap = ["/ip4/203.0.113.7/tcp/4160/p2p/12D3KooW..."]   # nodes to join by
# listen = ["/ip4/0.0.0.0/tcp/4160"]
# profile = "server"          # server, test
# allow_private = false       # dial strangers' private addresses: on a LAN of your own only

[roles]
# relay = true                # pass on sealed cells of others
# model = false               # serve models to the network
# client = true               # ask

[privacy]
# n = 4                       # cloves, one over each of n disjoint circuits
# k = 2                       # so many are enough
# hops = 3                    # relays of a circuit
# diversity = "strict"        # local: relays may share a network; for tests, no anonymity claimed

[engine]
# models = ["smollm2-135m"]
# device = "auto"             # auto, cpu, cuda
# threads = 0                 # 0: all cores
# kind = "worker"             # openai: pass prompts to a server that you run already, at upstream_url

[api]
# host = "127.0.0.1"          # any other needs a key
# port = 8160
"""


def init(*, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Make this machine a node: a home folder with a key and a configuration to edit."""
    from crypto.identity import IdentityKey
    from node.home import Home

    place = Home.locate(home)
    place.create()
    is_new = not place.identity_file.exists()
    node_id = IdentityKey.from_seed(place.identity_seed()).node_id.hex()
    place.admin_token()
    if not place.config_file.exists():
        place.config_file.write_text(_TEMPLATE, "utf-8")
    if as_json:
        print_json({"home": str(place.path), "node_id": node_id, "created": is_new})
        return
    print(f"{'made' if is_new else 'there already'}: node {node_id} in {place.path}")
    note(f"next: edit {place.config_file} (bootstrap, roles), then: clove up")
