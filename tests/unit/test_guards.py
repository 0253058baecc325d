"""Guards and blame: few entries, kept long, not to be driven off; blame fades and never empties a network."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from overlay.routing.blame import EXCLUDED_FROM, HALF_LIFE_S, MAX_BLAMED, Blame
from overlay.routing.directory import Directory
from overlay.routing.diversity import Diversity
from overlay.routing.guards import LOCAL_GUARDS, Guard, GuardPolicy, GuardSample, refresh_sample
from tests.support.descriptors import UNIX_TIME, fixed_id, network, relay
from tests.support.entropy import fixed_entropy

DAY_S = 24 * 3600
CLIENT = fixed_id(900_000)
POLICY = GuardPolicy()
EMPTY = GuardSample()


def refresh(sample=EMPTY, directory=None, *, unix_time=UNIX_TIME, seed=0, policy=POLICY, client=CLIENT):
    return refresh_sample(
        sample,
        directory if directory is not None else network(40),
        client=client,
        unix_time=unix_time,
        entropy=fixed_entropy(f"{seed}"),
        policy=policy,
    )


def test_first_sample_is_full_and_of_different_relays():
    sample = refresh()
    assert len(set(sample.node_ids)) == POLICY.listed
    for guard in sample.guards:
        assert 30 * DAY_S <= guard.until_unix - UNIX_TIME <= 90 * DAY_S


@given(st.integers(), st.integers(0, 29 * DAY_S))
def test_sample_stays_as_it_is_while_its_guards_are_listed(seed, later):
    sample = refresh()
    assert refresh(sample, network(80), unix_time=UNIX_TIME + later, seed=seed) == sample


def test_expired_guards_are_replaced_at_the_end_of_the_order():
    sample = refresh()
    first_over = min(guard.until_unix for guard in sample.guards) + 1
    later = refresh(sample, unix_time=first_over, seed=1)
    kept = [guard for guard in sample.guards if guard.until_unix >= first_over]
    assert list(later.guards[: len(kept)]) == kept
    assert len(later.guards) == POLICY.listed


def test_guard_that_is_away_keeps_its_place_and_gets_a_stand_in():
    sample = refresh()
    away = sample.node_ids[0]
    without = Directory(found for found in network(40) if found.node_id != away)
    later = refresh(sample, without, unix_time=UNIX_TIME + 60, seed=1)
    assert later.guards[0] == replace(sample.guards[0], away_since_unix=UNIX_TIME + 60)
    assert len(later.guards) == POLICY.listed + 1
    back = refresh(later, unix_time=UNIX_TIME + DAY_S, seed=2)
    assert back.guards[0] == sample.guards[0]
    assert back.node_ids == later.node_ids


def test_guard_that_is_away_too_long_loses_its_place():
    sample = refresh()
    without = Directory(found for found in network(40) if found.node_id != sample.node_ids[0])
    later = refresh(sample, without)
    over = refresh(later, without, unix_time=UNIX_TIME + POLICY.forget_away_s + 1)
    assert sample.node_ids[0] not in over.node_ids


def test_silencing_guards_one_by_one_does_not_walk_a_client_through_the_network():
    sample, met, relays = GuardSample(), set(), network(200)
    for step in range(100):
        sample = refresh(sample, relays, unix_time=UNIX_TIME + step, seed=step)
        met.update(sample.node_ids)
        silenced = {guard.node_id for guard in sample.guards}
        relays = Directory(found for found in relays if found.node_id not in silenced)
    assert len(met) == POLICY.size


def test_guards_are_diverse_and_never_the_client():
    crowd = [relay(number, operator="acme") for number in range(30)]
    directory = Directory([*crowd, *(relay(number) for number in range(50, 54))])
    sample = refresh(directory=directory, client=fixed_id(50))
    acme = {found.node_id for found in crowd}
    assert len(acme.intersection(sample.node_ids)) == 1
    assert fixed_id(50) not in sample.node_ids
    assert len(sample.guards) == 4
    loose = refresh(directory=directory, policy=GuardPolicy(diversity=Diversity.LOCAL))
    assert len(loose.guards) == POLICY.listed


def test_a_node_that_becomes_a_relay_is_no_guard_of_its_own():
    sample = GuardSample((Guard(CLIENT, UNIX_TIME, UNIX_TIME + DAY_S),))
    assert CLIENT not in refresh(sample).node_ids


def test_local_networks_forget_yesterdays_relays():
    sample = refresh(policy=LOCAL_GUARDS)
    tomorrow = Directory(relay(number) for number in range(500, 516))
    seen = refresh(sample, tomorrow, unix_time=UNIX_TIME + DAY_S, policy=LOCAL_GUARDS)
    later = refresh(seen, tomorrow, unix_time=UNIX_TIME + DAY_S + 61, policy=LOCAL_GUARDS)
    assert set(later.node_ids) <= {found.node_id for found in tomorrow}
    assert len(later.guards) == LOCAL_GUARDS.listed


def test_small_directory_gives_a_small_sample():
    assert len(refresh(directory=network(3)).guards) == 3
    assert refresh(directory=Directory()) == GuardSample()


PATH = tuple(fixed_id(number) for number in range(3))


def test_relays_of_a_failed_path_are_passed_over_for_one_half_life():
    blame = Blame().blamed(PATH, 0.0)
    assert blame.excluded(0.0, at_most=9) == set(PATH[1:])
    assert blame.excluded(HALF_LIFE_S + 1, at_most=9) == frozenset()


def test_guard_is_passed_over_only_after_several_failures_or_when_it_fails_itself():
    blame = Blame().blamed(PATH, 0.0)
    assert PATH[0] not in blame.excluded(0.0, at_most=9)
    assert PATH[0] in blame.blamed(PATH, 1.0).blamed(PATH, 2.0).excluded(2.0, at_most=9)
    assert PATH[0] in Blame().blamed(PATH[:1], 0.0).excluded(0.0, at_most=9)


def test_the_culprit_of_many_paths_stands_out():
    blame = Blame()
    for number in range(5):
        blame = blame.blamed((fixed_id(10 + number), fixed_id(1), fixed_id(20 + number)), float(number))
    assert blame.excluded(5.0, at_most=1) == {fixed_id(1)}


def test_a_path_that_works_absolves_its_relays():
    blame = Blame().blamed(PATH, 0.0).absolved(PATH, 0.0).absolved(PATH, 0.0)
    assert blame.excluded(0.0, at_most=9) == frozenset()
    assert Blame().absolved(PATH, 0.0) == Blame()


@given(st.integers(-3, 5))
def test_no_more_are_excluded_than_can_be_spared(spare):
    blame = Blame().blamed(PATH, 0.0).blamed(PATH[1:2], 0.0)
    excluded = blame.excluded(0.0, at_most=spare)
    assert len(excluded) == max(0, min(spare, 2))
    assert not excluded or PATH[1] in excluded


def test_blame_is_bounded_and_forgets_the_least_blamed():
    blame = Blame().blamed((fixed_id(0),), 0.0).blamed((fixed_id(0),), 0.0)
    for number in range(1, MAX_BLAMED + 50):
        blame = blame.blamed((fixed_id(number),), 0.0)
    assert len(blame.scores) == MAX_BLAMED
    assert blame.score(fixed_id(0), 0.0) == 2.0


@given(st.floats(0, 1e7), st.floats(0, 1e7))
def test_blame_only_ever_fades(first, second):
    blame = Blame().blamed(PATH, 0.0)
    earlier, later = sorted((first, second))
    assert blame.score(PATH[1], later) <= blame.score(PATH[1], earlier) <= 1.0
    assert blame.score(PATH[1], 0.0) >= EXCLUDED_FROM
