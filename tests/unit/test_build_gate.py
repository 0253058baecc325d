"""The bounds on builds: a rate per neighbour that survives reconnecting, and a replay cache that fails closed."""

import pytest

from crypto.identity import NodeId
from overlay.protocol import build_gate
from overlay.protocol.build_gate import BuildRate, ReplayCache
from overlay.wire.limits import BUILD_BURST, BUILDS_PER_S, REPLAY_GENERATION_S


def neighbour(number):
    return NodeId(number.to_bytes(32, "big"))


def test_burst_is_admitted_then_the_steady_rate():
    rate = BuildRate()
    assert sum(rate.admit(neighbour(1), 0.0) for _ in range(BUILD_BURST + 50)) == BUILD_BURST
    admitted = sum(rate.admit(neighbour(1), number / 1000) for number in range(2000))
    assert admitted == pytest.approx(2 * BUILDS_PER_S, abs=1)


def test_idle_neighbour_earns_no_more_than_a_burst():
    rate = BuildRate()
    rate.admit(neighbour(1), 0.0)
    assert sum(rate.admit(neighbour(1), 1e6) for _ in range(2 * BUILD_BURST)) == BUILD_BURST


def test_more_neighbours_than_can_be_rated_are_refused_until_old_ones_are_forgotten(monkeypatch):
    monkeypatch.setattr(build_gate, "MAX_RATED_NEIGHBOURS", 3)
    rate = BuildRate()
    assert [rate.admit(neighbour(number), 0.0) for number in range(4)] == [True, True, True, False]
    assert rate.admit(neighbour(0), 0.0)
    assert rate.admit(neighbour(3), BUILD_BURST / BUILDS_PER_S)


def test_replay_cache_remembers_for_a_generation_at_least_and_forgets_after_two():
    cache = ReplayCache()
    cache.rotate(0.0)
    cache.add(b"early")
    cache.rotate(REPLAY_GENERATION_S - 1)
    cache.add(b"late")
    cache.rotate(2 * REPLAY_GENERATION_S - 2)
    assert b"early" in cache
    assert b"late" in cache
    cache.rotate(3 * REPLAY_GENERATION_S)
    assert len(cache) == 0


def test_replay_cache_forgets_everything_after_a_long_silence():
    cache = ReplayCache()
    cache.rotate(0.0)
    cache.add(b"old")
    cache.rotate(10 * REPLAY_GENERATION_S)
    assert b"old" not in cache


def test_full_replay_cache_says_so_and_recovers(monkeypatch):
    monkeypatch.setattr(build_gate, "MAX_REPLAY_ENTRIES", 6)
    cache = ReplayCache()
    cache.rotate(0.0)
    for number in range(3):
        assert not cache.is_full
        cache.add(bytes([number]))
    assert cache.is_full
    cache.rotate(REPLAY_GENERATION_S)
    assert not cache.is_full
