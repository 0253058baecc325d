"""`clove version`."""

from node.cli.options import JsonOption
from node.cli.output import print_json


def version(*, as_json: JsonOption = False) -> None:
    """Say which clove this is."""
    from node.version import NAME
    from node.version import version as installed

    print_json({"name": NAME, "version": installed()}) if as_json else print(f"{NAME} {installed()}")
