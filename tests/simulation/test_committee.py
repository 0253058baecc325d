"""Committees under many schedules: never two decisions, never stuck once the network has healed.

`CLOVE_COMMITTEE_SCHEDULES=10000 pytest tests/simulation/test_committee.py` runs so many; half of them with seven.
"""

import os

import pytest

from tests.support.committee_world import World, install

SCHEDULES = int(os.environ.get("CLOVE_COMMITTEE_SCHEDULES", "300"))


@pytest.fixture(autouse=True)
def ideal_signatures(monkeypatch):
    install(monkeypatch)


@pytest.mark.parametrize("size", [4, 7])
def test_schedules_are_safe_and_go_on(size):
    for seed in range(SCHEDULES // 2):
        try:
            World(seed, size).run().check_logs()
        except Exception as error:
            raise AssertionError(f"schedule {seed} of {size} members") from error
