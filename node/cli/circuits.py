"""`clove circuits`."""

from node.cli.options import HomeOption, JsonOption
from node.cli.output import print_json, print_table, short, span


def circuits(*, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the circuits that this node built, the guard first."""
    from node.cli.daemon import find_daemon

    listed = find_daemon(home).get("/api/v1/circuits")["circuits"]
    if as_json:
        print_json(listed)
        return
    rows = [
        (
            circuit["circuit_id"],
            circuit["state"],
            span(circuit["age_s"]),
            circuit["cells_sent"],
            circuit["cells_received"],
            " > ".join(short(relay) for relay in circuit["relays"]),
        )
        for circuit in listed
    ]
    print_table(("circuit", "state", "age", "sent", "received", "relays"), rows)
