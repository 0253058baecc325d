"""The one importable name of the distribution: starts the `clove` command.

In a wheel the rooms live in the private folder `_app/`; in a checkout they lie at the top level. Only the
former needs a path entry, so that no generic name ever lands in anyone's site-packages.
"""

import sys
from pathlib import Path

_APP = Path(__file__).parent / "_app"


def main() -> None:
    """Run the `clove` command line."""
    if _APP.is_dir():
        sys.path.insert(0, str(_APP))
    from node.cli import main as run

    run()
