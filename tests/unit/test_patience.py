"""What becomes of one prompt at a member says how long the others are waited for."""

from contextlib import ExitStack

import pytest

from node.serving.patience import DOUBT_S, PATIENCE_RATIO, PATIENCE_S, Patience
from overlay.routing.promises import honest_s
from tests.support.descriptors import fixed_id

BOB, CAROL = fixed_id(1), fixed_id(2)


@pytest.fixture
def patience():
    return Patience()


@pytest.fixture
def out(patience):
    """Hands prompts to members: `out(member, predicted_s, now)`."""
    with ExitStack() as stack:
        yield lambda member, predicted_s, now=0.0: stack.enter_context(
            patience.awaiting(member, predicted_s, now)
        )


def deadlines(*awaited):
    return [each.scope.deadline for each in awaited]


@pytest.mark.parametrize("predicted_s", [0.0, 2.0])
def test_one_alone_is_waited_for_as_long_as_an_honest_slow_member_may_take(out, predicted_s):
    assert deadlines(out(BOB, predicted_s, 5.0)) == [5.0 + PATIENCE_S + PATIENCE_RATIO * predicted_s]


def test_of_a_burst_that_was_promised_at_once_all_but_one_go_when_that_one_is_late(out):
    burst = [out(BOB, 0.0) for _ in range(4)]
    assert deadlines(*burst) == [PATIENCE_S] + [honest_s(0.0) + DOUBT_S] * 3


def test_what_is_not_promised_yet_is_not_given_up_for_the_first_one(out):
    first, later = out(BOB, 1.0), out(BOB, 5.0)
    assert deadlines(first, later) == [PATIENCE_S + PATIENCE_RATIO, honest_s(5.0)]


def test_members_are_judged_apart(out):
    out(CAROL, 0.0)
    assert deadlines(out(BOB, 0.0)) == [PATIENCE_S]


def test_one_that_begins_gives_the_others_time(patience, out):
    burst = [out(BOB, 0.0) for _ in range(3)]
    patience.begun(BOB, burst[0], 1.4)
    assert deadlines(*burst[1:]) == [PATIENCE_S, 1.4 + DOUBT_S]
    burst[0].scope.deadline = 99.0
    patience.begun(BOB, burst[0], 1.6)  # it goes on: that says nothing of the others
    assert deadlines(*burst) == [99.0, PATIENCE_S, 1.4 + DOUBT_S]


def test_once_one_has_failed_those_that_are_over_their_time_go_at_once(patience, out):
    overdue, promised_later = out(BOB, 0.0), out(BOB, 2.0)
    patience.failed(BOB, 1.0)
    assert deadlines(overdue, promised_later) == [1.0, honest_s(2.0)]
    patience.failed(CAROL, 1.0)  # nothing is out there


def test_what_failed_before_is_not_held_against_a_prompt_that_is_sent_later(patience):
    with patience.awaiting(BOB, 0.0, 0.0):
        patience.failed(BOB, 1.0)
    with patience.awaiting(BOB, 0.0, 5.0) as later:
        assert deadlines(later) == [5.0 + PATIENCE_S]


def test_the_next_one_is_the_first_due_when_the_first_has_gone(patience, out):
    with patience.awaiting(BOB, 0.0, 0.0):
        left = [out(BOB, 0.0, 0.1), out(BOB, 0.0, 0.2)]
    assert deadlines(*left) == [0.1 + PATIENCE_S, 0.1 + honest_s(0.0) + DOUBT_S]
