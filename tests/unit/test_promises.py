"""What members promise and deliver: honest errors cost nothing, lies come to cost what they claim, and that fades."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.identity import NodeId
from overlay.routing import promises as module
from overlay.routing.promises import (
    FAILED_S,
    FORGIVEN,
    GAIN,
    HALF_LIFE_S,
    LONGEST_BUSY_S,
    NAMED_S,
    RATIO,
    SLACK_S,
    Promises,
)

BOB, CAROL = NodeId(b"b" * 32), NodeId(b"c" * 32)


def test_nobody_is_late_of_whom_nothing_is_known():
    assert Promises().late_s(BOB, 5.0) == 0.0


@given(st.floats(0, 1000), st.floats(0, 1))
def test_honest_errors_cost_nothing(promised_s, share):
    promises = Promises()
    assert not promises.delivered(BOB, promised_s, share * (RATIO * promised_s + SLACK_S), 0.0)
    assert promises.late_s(BOB, 0.0) == 0.0


def test_what_counts_is_how_late_it_was_beyond_an_honest_error():
    promises = Promises()
    promises.delivered(BOB, 1.0, 10.0 + RATIO + SLACK_S, 0.0)
    assert promises.late_s(BOB, 0.0) == pytest.approx(GAIN * 10.0)
    assert promises.late_s(CAROL, 0.0) == 0.0


def test_a_liar_comes_to_cost_all_that_it_is_late_by():
    promises = Promises()
    for _ in range(30):
        promises.delivered(BOB, 0.0, 10.0 + SLACK_S, 0.0)
    assert promises.late_s(BOB, 0.0) == pytest.approx(10.0, rel=0.01)


def test_who_keeps_its_word_again_is_forgiven_prompt_by_prompt():
    promises = Promises()
    promises.delivered(BOB, 0.0, 10.0 + SLACK_S, 0.0)
    found = [promises.late_s(BOB, 0.0)]
    for _ in range(10):
        promises.delivered(BOB, 1.0, 1.0, 0.0)
        found.append(promises.late_s(BOB, 0.0))
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.1


def test_it_fades_by_half_in_a_half_life():
    promises = Promises()
    promises.delivered(BOB, 0.0, 10.0, 100.0)
    at_once = promises.late_s(BOB, 100.0)
    assert promises.late_s(BOB, 100.0 + HALF_LIFE_S) == pytest.approx(at_once / 2)
    assert promises.late_s(BOB, 100.0 + 10 * HALF_LIFE_S) < 0.01


def test_a_member_is_named_once_when_it_comes_to_be_late_and_again_when_it_does_so_anew():
    promises = Promises()
    named = [promises.delivered(BOB, 0.0, 3.0, 0.0) for _ in range(10)]
    assert named.count(True) == 1
    assert named.index(True) > 0  # once is no habit
    assert promises.late_s(BOB, 0.0) > NAMED_S
    later = 10 * HALF_LIFE_S
    assert [promises.delivered(BOB, 0.0, 3.0, later) for _ in range(10)].count(True) == 1


def test_so_many_members_are_remembered_and_the_one_heard_of_longest_ago_is_forgotten(monkeypatch):
    monkeypatch.setattr(module, "_MOST_MEMBERS", 3)
    promises = Promises()
    members = [NodeId(bytes([number]) * 32) for number in range(4)]
    for member in [*members[:3], members[0], members[3]]:
        promises.delivered(member, 0.0, 10.0, 0.0)
    assert [promises.late_s(member, 0.0) > 0 for member in members] == [True, False, True, True]


def test_who_fails_is_late_too_and_named():
    promises = Promises()
    assert [promises.failed(BOB, 0.0) for _ in range(5)].count(True) == 1
    assert NAMED_S < promises.late_s(BOB, 0.0) < FAILED_S


def test_who_is_too_busy_is_late_by_what_it_says_until_that_is_over():
    promises = Promises()
    assert not promises.refused(BOB, 4.0, 100.0)
    assert [promises.late_s(BOB, 100.0 + after) for after in (0.0, 1.0, 4.0, 5.0)] == [4.0, 3.0, 0.0, 0.0]


def test_refusals_of_a_burst_are_one_and_the_first_says_for_how_long():
    promises = Promises()
    for _ in range(20):
        promises.refused(BOB, 4.0, 100.0)
        promises.refused(BOB, 50.0, 103.0)
    assert promises.late_s(BOB, 103.0) == 1.0


def test_who_refuses_again_and_again_has_broken_its_word_and_is_named():
    promises = Promises()
    named = [promises.refused(BOB, 1.0, 10.0 * number) for number in range(FORGIVEN + 3)]
    assert not any(named[:FORGIVEN])
    assert named.count(True) == 1
    assert NAMED_S < promises.late_s(BOB, 10.0 * (FORGIVEN + 3)) < FAILED_S


def test_who_delivers_in_between_is_forgiven_anew():
    promises = Promises()
    for number in range(10):
        promises.refused(BOB, 1.0, 10.0 * number)
        promises.delivered(BOB, 1.0, 1.0, 10.0 * number + 5.0)
    assert promises.late_s(BOB, 100.0) == 0.0


def test_who_says_it_is_busy_for_ever_is_tried_again_all_the_same():
    promises = Promises()
    promises.refused(BOB, 1e30, 0.0)
    assert promises.late_s(BOB, LONGEST_BUSY_S) == 0.0


def test_what_was_taken_elsewhere_counts_as_late_as_it_was_and_forgives_nothing():
    promises = Promises()
    promises.given_up(BOB, 0.0, 2.0 + SLACK_S, 0.0)
    assert promises.late_s(BOB, 0.0) == pytest.approx(GAIN * 2.0)
    promises.failed(BOB, 0.0)
    before = promises.late_s(BOB, 0.0)
    promises.given_up(BOB, 0.0, 1.0 + SLACK_S, 0.0)
    assert promises.late_s(BOB, 0.0) == pytest.approx(before)
