"""Whom a prompt is handed to: at once, after asking, or to nobody."""

from dataclasses import replace

import pytest

from crypto.identity import NodeId
from overlay.routing.cost import Sent, Wait
from overlay.routing.forwarding import (
    PROBES,
    Candidate,
    Commit,
    Estimate,
    Probe,
    Reason,
    Refuse,
    commit_to_answer,
    decide,
    estimate_waits,
    find_better,
)
from overlay.wire.group import Load, Speed
from tests.support.entropy import fixed_entropy

MEMBERS = [NodeId(bytes([index]) * 32) for index in range(1, 9)]
A, B, C, D = MEMBERS[:4]
SPEED = Speed(prefill_token_s=0.001, attended_s=0.0, mixed_step_s=0.054, mixed_tokens=24)
IDLE = Load(queued_tokens=0, decoding=0, free_slots=8, answer_s=0.0, decoding_s=0.0)


def candidate(member, queued=0, *, age_s=2.0, weight=1.0, sent=0):
    load = replace(IDLE, queued_tokens=queued)
    return Candidate(member=member, speed=SPEED, load=load, sent=Sent(sent, 0), age_s=age_s, weight=weight)


def estimate(member, wait_s, *, reading_s=0.1, age_s=2.0):
    return Estimate(member, 0, Wait(wait_s - reading_s, 0.0, reading_s), age_s, 1.0)


def choose(estimates, max_wait_s=30.0):
    return decide(estimates, fixed_entropy("forwarding"), max_wait_s=max_wait_s)


def test_the_longest_queue_is_the_last_choice():
    found = estimate_waits([candidate(A, 500), candidate(B, 0), candidate(C, 0, sent=100)], {}, 200)
    assert [each.member for each in found] == [B, C, A]


def test_a_held_beginning_is_worth_the_seconds_that_it_saves():
    candidates = [candidate(A, 500), candidate(B, 0)]
    assert estimate_waits(candidates, {A: 20}, 1000)[0].member == B
    assert estimate_waits(candidates, {A: 40}, 1000)[0].member == A


def test_more_is_never_cached_than_the_prompt_is_long():
    assert estimate_waits([candidate(A)], {A: 1000}, 100)[0].cached_tokens == 100


def test_who_is_banned_is_not_listed_and_who_is_doubted_has_to_be_sooner():
    found = estimate_waits([candidate(A, weight=0.0), candidate(B, weight=0.5), candidate(C, 50)], {}, 100)
    assert [each.member for each in found] == [C, B]


def test_nobody_is_there():
    assert choose([]) == Refuse(None)


def test_who_is_alone_is_not_asked():
    assert choose([estimate(A, 1.0)]) == Commit(estimate(A, 1.0), Reason.ALONE)


def test_a_fresh_view_is_enough():
    best = estimate(A, 1.0, age_s=0.05)
    assert choose([best, estimate(B, 1.1)]) == Commit(best, Reason.FRESH)


def test_where_the_others_would_be_slower_even_if_idle_nobody_is_asked():
    best = estimate(A, 1.0)
    assert choose([best, estimate(B, 9.0, reading_s=5.0)]) == Commit(best, Reason.DOMINANT)
    assert isinstance(choose([best, estimate(B, 9.0, reading_s=2.0)]), Probe)


def test_who_was_idle_some_seconds_ago_is_asked_whether_he_still_is():
    idle, other = estimate(A, 0.01, reading_s=0.01, age_s=1.0), estimate(B, 2.0, reading_s=2.0)
    assert choose([idle, other]) == Commit(idle, Reason.DOMINANT)
    assert isinstance(choose([replace(idle, age_s=3.0), other]), Probe)


def test_the_best_ones_and_one_at_random_are_asked():
    found = [estimate(member, 1.0 + index / 10) for index, member in enumerate(MEMBERS)]
    drawn = set()
    entropy = fixed_entropy("forwarding")
    for _ in range(100):
        probe = decide(found, entropy, max_wait_s=30.0)
        assert len(probe.estimates) == PROBES
        assert probe.estimates[:-1] == tuple(found[: PROBES - 1])
        assert probe.otherwise == found[0]
        drawn.add(probe.estimates[-1].member)
    assert drawn == set(MEMBERS[PROBES - 1 :])


def test_the_best_answer_is_bound_whatever_the_view_said():
    probe = Probe((estimate(A, 1.0), estimate(B, 1.1), estimate(C, 9.0)), estimate(A, 1.0))
    slow, quick = estimate(A, 5.0), estimate(C, 0.5)
    found = commit_to_answer([slow, quick], probe, max_wait_s=30.0)
    assert found == Commit(quick, Reason.PROBED, others=(slow,))


def test_without_answers_the_best_by_the_view_gets_it():
    probe = Probe((estimate(A, 1.0),), estimate(A, 1.0))
    assert commit_to_answer([], probe, max_wait_s=30.0) == Commit(estimate(A, 1.0), Reason.UNANSWERED)


@pytest.mark.parametrize(
    "others",
    [
        [],
        [estimate(B, 41.0)],
        [estimate(B, 200.0, reading_s=190.0)],
    ],
    ids=["alone", "like the best", "far behind"],
)
@pytest.mark.parametrize("age_s", [0.05, 2.0])
@pytest.mark.parametrize("answers", [[], [estimate(A, 40.0)]], ids=["unanswered", "answered"])
def test_a_prompt_that_would_wait_too_long_is_refused_with_the_time(age_s, others, answers):
    decision = choose([estimate(A, 40.0, age_s=age_s), *others])
    if isinstance(decision, Probe):
        decision = commit_to_answer(answers, decision, max_wait_s=30.0)
    assert decision == Refuse(40.0)


@pytest.mark.parametrize("age_s", [0.05, 2.0])
def test_a_long_prompt_with_nothing_ahead_of_it_is_never_refused(age_s):
    idle = [estimate(member, 40.0, age_s=age_s, reading_s=40.0) for member in (A, B)]
    decision = choose(idle)
    if isinstance(decision, Probe):
        decision = commit_to_answer(idle, decision, max_wait_s=30.0)
    assert isinstance(decision, Commit)
    assert choose([estimate(A, 41.0, reading_s=40.0)]) == Refuse(41.0)


def test_it_is_handed_on_only_for_a_clear_gain_and_only_so_often():
    here = estimate(A, 1.0)
    assert find_better(here, [estimate(B, 0.74)], hops_left=1) == estimate(B, 0.74)
    assert find_better(here, [estimate(B, 0.76)], hops_left=1) is None
    assert find_better(here, [estimate(B, 0.1)], hops_left=0) is None
    assert find_better(here, [], hops_left=1) is None


def test_it_is_handed_on_to_the_best_of_the_others():
    others = [estimate(B, 0.5), estimate(C, 0.2), estimate(D, 0.3)]
    assert find_better(estimate(A, 1.0), others, hops_left=1) == others[1]
