"""How these tests share a machine: two at a time, of which one at most runs a network.

`make test` runs them by `-n 2 --dist loadgroup`. A file's tests stay together, since they share engines; those of all
files that run networks do, too, and come first, for they take longest.
"""

from pathlib import Path

import pytest

NETWORKS = "networks"
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=lambda item: group_of(item) != NETWORKS)


def group_of(item):
    marker = item.get_closest_marker("xdist_group")
    return marker and marker.args[0]
