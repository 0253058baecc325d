"""What is said of a clock that is wrong."""

import pytest

from node.clock import explain_apart


@pytest.mark.parametrize("ahead_s", [None, 0, 300, -300])
def test_nothing_is_said_of_a_clock_that_others_go_along_with(ahead_s):
    assert explain_apart(ahead_s) == []


def test_a_clock_that_nobody_goes_along_with_is_named_as_the_cause():
    assert explain_apart(412) == ["its clock is 412 s ahead of its neighbours'"]
    assert explain_apart(-301) == ["its clock is 301 s behind its neighbours'"]
