"""Committees under many schedules: never two decisions, never stuck once the network has healed.

`CLOVE_COMMITTEE_SCHEDULES=10000 pytest tests/simulation/test_committee.py` runs so many; half of them with seven.
"""

import os

import pytest

from tests.support.committee_mutants import MUTANTS
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


def run_alternating(count):
    for seed in range(count):
        for size in (4, 7):
            World(seed, size).run().check_logs()


# Broken locks hide from schedules that are drawn: `test_committee_mutants.py` has them, one by one.
@pytest.mark.parametrize(
    "name",
    [
        "a late quorum locks",
        "a lock outlives its height",
        "quorum one too small",
        "quorum of all",
        "sent, then written",
        "never written",
        "a vote is no step",
        "a log written anew is empty",
        "who forgot speaks",
        "nobody is taken along",
        "no timeouts",
        "nothing is repeated",
        "nobody is served",
    ],
)
def test_schedules_find_a_broken_rule(monkeypatch, name):
    for owner, attribute, replacement in MUTANTS[name][0]:
        monkeypatch.setattr(owner, attribute, replacement)
    with pytest.raises(AssertionError):
        run_alternating(100)
