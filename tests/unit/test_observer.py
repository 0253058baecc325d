"""Totals that machines count become counters, once each."""

from node.metrics import Metrics
from node.observer import _raise_to


def value(metrics, line):
    return [row for row in metrics.render().decode().splitlines() if row.startswith(line)]


def test_a_counter_follows_a_total_and_never_goes_back():
    metrics = Metrics(version="0", profile="test")
    for total in (3, 3, 5, 4):
        _raise_to(metrics.cells, {"fwd": total})
    assert value(metrics, 'clove_cells_total{cmd="fwd"}') == ['clove_cells_total{cmd="fwd"} 5.0']
