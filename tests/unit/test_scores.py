"""The median of reports: a third of liars moves nothing beyond what honest verifiers said."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verify.committee.genesis import quorum_of
from verify.lower_bound import UNIT
from verify.reputation import Reputation
from verify.scores import Scores, median_scores

ALICE, BOB = b"a" * 32, b"b" * 32
SCORES = st.builds(Scores, st.integers(0, UNIT), st.integers(0, UNIT))


@given(st.data(), st.integers(1, 16))
@settings(deadline=None)
def test_result_lies_between_honest_reports_whatever_a_third_says(data, members):
    liars = data.draw(st.integers(0, (members - 1) // 3))
    count = data.draw(st.integers(quorum_of(members), members))
    honest = data.draw(st.lists(SCORES, min_size=count - liars, max_size=count - liars))
    lies = data.draw(st.lists(SCORES, min_size=liars, max_size=liars))
    found = median_scores([{BOB: said} for said in (*lies, *honest)], members)[BOB]
    for rate in ("integrity", "service"):
        said = [getattr(scores, rate) for scores in honest]
        assert min(said) <= getattr(found, rate) <= max(said)


def test_each_coordinate_has_a_median_of_its_own_the_lower_of_two():
    reports = [{BOB: Scores(1, 40)}, {BOB: Scores(2, 30)}, {BOB: Scores(3, 20)}, {BOB: Scores(4, 10)}]
    assert median_scores(reports, 4)[BOB] == Scores(2, 20)
    assert median_scores(reports[:3], 4)[BOB] == Scores(2, 30)


def test_order_of_reports_changes_nothing():
    reports = [{BOB: Scores(1, 3), ALICE: Scores(5, 5)}, {BOB: Scores(2, 1)}, {ALICE: Scores(9, 9)}]
    assert median_scores(reports, 3) == median_scores(reports[::-1], 3)
    assert list(median_scores(reports, 3)) == [ALICE, BOB]


def test_few_who_name_a_node_cant_make_it_known():
    praised = {BOB: Scores(UNIT, UNIT)}
    assert median_scores([praised, {}, {}], 3)[BOB] == Scores.of(Reputation())
    assert median_scores([praised, praised, {}], 3)[BOB] == Scores(UNIT, UNIT)


@pytest.mark.parametrize(("members", "needed"), [(1, 1), (4, 3), (7, 5), (10, 7), (16, 11)])
def test_fewer_reports_than_a_quorum_are_no_result(members, needed):
    assert quorum_of(members) == needed
    reports = [{BOB: Scores(1, 1)}] * members
    assert median_scores(reports[:needed], members)
    with pytest.raises(ValueError, match="not"):
        median_scores(reports[: needed - 1], members)
    with pytest.raises(ValueError, match="not"):
        median_scores([*reports, {}], members)


@pytest.mark.parametrize("wrong", [(-1, 0), (0, UNIT + 1), (UNIT + 1, 0), (0, -1)])
def test_what_is_no_rate_is_no_score(wrong):
    with pytest.raises(ValueError, match="from 0"):
        Scores(*wrong)
