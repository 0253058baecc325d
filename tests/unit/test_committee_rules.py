"""A member of the committee keeps every rule of the algorithm, each shown by what it says and does not say."""

import pytest

from tests.support.committee_rules import RULES


@pytest.mark.parametrize("check", RULES, ids=lambda check: check.__name__)
def test_rule(check):
    check()
