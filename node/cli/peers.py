"""`clove peers`."""

from node.cli.options import HomeOption, JsonOption
from node.cli.output import print_json, print_table, short


def peers(*, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the nodes of the directory."""
    from node.cli.daemon import find_daemon

    listed = find_daemon(home).get("/api/v1/peers")["peers"]
    if as_json:
        print_json(listed)
        return
    rows = [
        (
            short(peer["node_id"]),
            ",".join(peer["roles"]),
            "yes" if peer["linked"] else "no",
            ",".join(peer["models"]) or "-",
            " ".join(peer["addresses"]),
        )
        for peer in listed
    ]
    print_table(("node", "roles", "linked", "models", "addresses"), rows)
