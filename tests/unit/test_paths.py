"""Paths: disjoint, diverse, entered by guards, and drawn without favour."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import LocalProtocolError, NoRouteError
from overlay.routing.directory import Directory
from overlay.routing.diversity import Diversity, network_of, networks_of
from overlay.routing.draw import draw_below, draw_each
from overlay.routing.paths import choose_paths, choose_replacement
from tests.support.descriptors import fixed_id, model_node, network, relay
from tests.support.entropy import fixed_entropy

BOB = fixed_id(100_000)
CLIENT = fixed_id(900_000)
GUARDS = tuple(fixed_id(number) for number in range(6))


def choose(directory, **changes):
    fields = {"client": CLIENT, "destination": BOB, "guards": GUARDS, "entropy": fixed_entropy("")}
    return choose_paths(directory, **{**fields, **changes})


def ids_of(paths):
    return [node_id for path in paths for node_id in path.node_ids]


@given(st.integers(12, 40), st.integers(), st.sampled_from(Diversity))
def test_four_paths_of_three_relays_share_none(relays, seed, diversity):
    paths = choose(network(relays), entropy=fixed_entropy(f"{seed}"), diversity=diversity)
    assert [len(path.relays) for path in paths] == [3] * 4
    assert len(set(ids_of(paths))) == 12
    assert [path.guard for path in paths] == list(GUARDS[:4])
    assert [path.proxy for path in paths] == [path.node_ids[-1] for path in paths]


def test_client_and_destination_are_never_on_a_path():
    directory = network(14)
    for seed in range(50):
        paths = choose(
            directory, client=fixed_id(0), destination=fixed_id(7), entropy=fixed_entropy(f"{seed}")
        )
        assert {fixed_id(0), fixed_id(7)}.isdisjoint(ids_of(paths))


def test_too_few_relays_says_how_many_are_needed_and_known():
    with pytest.raises(NoRouteError, match=r"needs 12 relays for 4 paths of 3, knows 7$"):
        choose(network(7), diversity=Diversity.LOCAL)
    with pytest.raises(
        NoRouteError, match=r"needs 12 relays of different networks and operators .*, knows 7 of"
    ):
        choose(network(7))


def test_relays_that_are_excluded_count_as_unknown():
    with pytest.raises(NoRouteError, match="needs 12 relays for 4 paths of 3, knows 11"):
        choose(network(13), excluded={fixed_id(0), fixed_id(8)}, diversity=Diversity.LOCAL)


def test_an_excluded_or_missing_guard_is_passed_over_in_order():
    guards = (fixed_id(3), fixed_id(555), *GUARDS)
    paths = choose(network(20), guards=guards, excluded={fixed_id(0)})
    assert [path.guard for path in paths] == [fixed_id(number) for number in (3, 1, 2, 4)]


def test_too_few_guards_are_an_error_and_not_a_random_entry():
    with pytest.raises(NoRouteError, match="needs 4 guards for 4 paths of 3, 3 of the sample"):
        choose(network(20), guards=GUARDS[:3])


@pytest.mark.parametrize(
    "changes",
    [{"address": "/ip4/9.9.9.{}/tcp/1"}, {"address": "/ip6/2001:db8:7:{}::1/tcp/1"}, {"operator": "acme"}],
)
def test_strict_uses_one_relay_per_network_and_operator(changes):
    def crowd(number):
        return relay(number, **{name: value.format(number) for name, value in changes.items()})

    directory = Directory(
        [*network(12).relays(), *(crowd(number) for number in range(50, 90)), model_node(100_000)]
    )
    crowded = {fixed_id(number) for number in range(50, 90)}
    for seed in range(20):
        assert len(crowded.intersection(ids_of(choose(directory, entropy=fixed_entropy(f"{seed}"))))) <= 1
    loose = choose(directory, diversity=Diversity.LOCAL)
    assert len(crowded.intersection(ids_of(loose))) > 1


def test_strict_uses_no_relay_of_the_destinations_operator():
    bob = model_node(100_000, operator="acme")
    shady = [relay(number, operator="Acme") for number in range(50, 60)]
    paths = choose(Directory([*network(12).relays(), *shady, bob]))
    assert {found.node_id for found in shady}.isdisjoint(ids_of(paths))


def test_strict_uses_no_relay_that_hides_its_network():
    hidden = [relay(number, address=f"/dns4/r{number}.example/tcp/1") for number in range(12)]
    with pytest.raises(NoRouteError):
        choose(Directory(hidden))
    assert len(choose(Directory(hidden), diversity=Diversity.LOCAL)) == 4


def test_a_relay_of_two_networks_stands_for_both():
    twins = [
        replace(relay(number), addresses=(f"/ip4/9.9.9.{number}/tcp/1", f"/ip4/20.8.{number}.1/tcp/1"))
        for number in (50, 51)
    ]
    with pytest.raises(NoRouteError):
        choose(Directory([*network(10).relays(), *twins]))


def test_every_relay_is_drawn_as_often_as_any_other():
    directory = network(40)
    drawn = Counter(
        node_id
        for seed in range(2000)
        for path in choose(directory, entropy=fixed_entropy(f"{seed}"))
        for node_id in path.node_ids[1:]
    )
    assert GUARDS[0] not in drawn
    others = list(drawn.values())
    expected = 2000 * 8 / 34
    assert len(others) == 34
    # 34 binomial counts with a deviation of about 19: five of those either way
    assert all(abs(count - expected) < 5 * 19 for count in others)


def test_a_replacement_shares_no_relay_with_the_paths_in_use():
    directory = network(15)
    paths = choose(directory)
    lost, others = paths[1], (paths[0], *paths[2:])
    for seed in range(30):
        new = choose_replacement(
            directory,
            client=CLIENT,
            destination=BOB,
            others=others,
            guards=GUARDS,
            entropy=fixed_entropy(f"{seed}"),
            excluded={lost.node_ids[1]},
        )
        assert len({*new.node_ids, *ids_of(others)}) == 12
        assert new.guard == lost.guard
        assert lost.node_ids[1] not in new.node_ids


def test_no_replacement_says_what_is_missing():
    directory = network(12)
    paths = choose(directory, diversity=Diversity.LOCAL)
    with pytest.raises(
        NoRouteError, match="needs 3 relays for 1 path of 3, knows 2 beside the 3 paths in use"
    ):
        choose_replacement(
            directory,
            client=CLIENT,
            destination=BOB,
            others=paths[1:],
            guards=GUARDS,
            entropy=fixed_entropy(""),
            excluded={paths[0].node_ids[1]},
            diversity=Diversity.LOCAL,
        )


def test_odd_shapes_are_refused():
    for changes in ({"n": 0}, {"n": 9}, {"hops": 0}, {"hops": 6}):
        with pytest.raises(LocalProtocolError):
            choose(network(20), **changes)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/ip4/192.0.2.77/tcp/4001", "192.0.2.0/24"),
        ("/ip6/2001:db8:1:2::3/tcp/4001", "2001:db8:1::/48"),
        ("/ip6/::ffff:192.0.2.77/tcp/4001", "192.0.2.0/24"),
        ("/ip4/2001:db8::1/tcp/1", None),
        ("/ip4/300.1.1.1/tcp/1", None),
        ("/dns4/example.org/tcp/1", None),
        ("/memory/alice", None),
        ("", None),
    ],
)
def test_network_of_an_address(address, expected):
    assert network_of(address) == expected


def test_networks_are_unknown_where_one_address_hides_its_own():
    assert networks_of(replace(relay(1), addresses=("/ip4/1.2.3.4/tcp/1", "/dns4/x/tcp/1"))) is None
    assert networks_of(replace(relay(1), addresses=())) is None


@given(st.integers(1, 2000), st.integers())
def test_draw_stays_below_its_end(end, seed):
    assert 0 <= draw_below(end, fixed_entropy(f"{seed}")) < end


def test_draw_is_unbiased_where_a_remainder_would_not_be():
    entropy = fixed_entropy("bias")
    drawn = Counter(draw_below(6, entropy) for _ in range(12_000))
    assert all(abs(drawn[face] - 2000) < 5 * 41 for face in range(6))


@given(st.lists(st.integers()), st.integers())
def test_draw_each_yields_every_item_once(items, seed):
    assert sorted(draw_each(items, fixed_entropy(f"{seed}"))) == sorted(items)


def test_guards_are_not_spent_on_other_hops_while_others_are_left():
    directory = network(16)
    guards = [fixed_id(number) for number in range(8)]
    for seed in range(20):
        paths = choose(
            directory, guards=guards, entropy=fixed_entropy(f"spared {seed}"), diversity=Diversity.LOCAL
        )
        others = {node_id for path in paths for node_id in path.node_ids[1:]}
        assert not others & set(guards)
        replaced = choose_replacement(
            directory,
            client=CLIENT,
            destination=BOB,
            others=paths[1:],
            guards=guards,
            entropy=fixed_entropy(f"spared {seed}"),
            excluded=paths[0].node_ids[:1],
            diversity=Diversity.LOCAL,
        )
        assert replaced.guard in guards
