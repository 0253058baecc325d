"""Every rule of the committee, once broken, is noticed: the checks are worth something."""

import pytest

from tests.support import committee_rules
from tests.support.committee_mutants import MUTANTS


def break_rule(monkeypatch, name):
    for owner, attribute, replacement in MUTANTS[name][0]:
        monkeypatch.setattr(owner, attribute, replacement)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_fails_its_check(monkeypatch, name):
    break_rule(monkeypatch, name)
    check = getattr(committee_rules, MUTANTS[name][1])
    with pytest.raises((AssertionError, IndexError, ValueError)):
        check()
