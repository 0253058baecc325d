"""The benchmark with real engines: its prompts, what holds the engines to their share, and its rules' sums."""

import json
from itertools import pairwise

import pytest

from benchmarks.forwarding.arms import Seen
from benchmarks.forwarding.cpu_cap import PERIOD_S, Account
from benchmarks.forwarding.tool_prompts import LIST_TOKENS, QUERY_TOKENS, make_asks, make_sets, read_sets
from overlay.routing.cost import Sent
from overlay.routing.forwarding import Candidate
from overlay.wire.group import Load, Speed


def count(text):
    return len(text.split())


def test_the_same_seed_gives_the_same_prompts_within_bounds():
    sets = make_sets(20, count, 1)
    asks = make_asks(sets, 200, count, 1)
    assert asks == make_asks(make_sets(20, count, 1), 200, count, 1)
    assert all(count(each.system) <= LIST_TOKENS and count(each.user) <= QUERY_TOKENS for each in asks)
    assert len({each.user for each in asks}) == 200
    drawn = [sum(ask.tools == number for ask in asks) for number in range(20)]
    assert drawn[0] > drawn[5] > 0
    assert sum(each.gap for each in asks) == pytest.approx(200, rel=0.3)


def test_sets_are_read_once_each_and_cut_to_whole_tools(tmp_path):
    tool = {
        "name": "find_film",
        "description": "Finds films. " * 10,
        "parameters": {"properties": {"year": {}}},
    }
    rows = [{"query": "Find one. Which year?", "tools": [tool] * number} for number in (1, 1, 2, 100)]
    path = tmp_path / "queries.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    sets = read_sets(path, 10, count)
    assert [each.sentences for each in sets] == [("Find one.", "Which year?")] * 3
    assert [each.listing.count("find_film") for each in sets[:2]] == [1, 2]
    assert 2 < sets[2].listing.count("find_film") < 100
    assert sets[2].listing.endswith("Takes: year (string).")


def test_a_file_without_queries_is_refused(tmp_path):
    (tmp_path / "none.jsonl").write_text("", "utf-8")
    with pytest.raises(ValueError, match="no queries"):
        read_sets(tmp_path / "none.jsonl", 10, count)


def test_a_process_that_wants_all_gets_its_share_in_short_turns():
    account, look_s = Account(0.4), 0.003
    spent, turns, is_stopped = 0.0, [], False
    for _ in range(10_000):
        spent += 0.0 if is_stopped else look_s
        is_stopped = account.note(look_s, spent)
        turns.append(is_stopped)
    assert spent / (10_000 * look_s) == pytest.approx(0.4, abs=0.01)
    changes = [at for at, (before, after) in enumerate(pairwise(turns)) if before != after]
    assert max(late - soon for soon, late in pairwise(changes)) * look_s < PERIOD_S


def test_a_process_that_was_idle_has_saved_little():
    account = Account(0.4)
    assert not account.note(100.0, 0.0)
    assert account.note(0.03, 0.04)


def test_prompts_at_a_member_are_those_it_told_of_and_those_sent_since():
    load = Load(queued_tokens=100, decoding=2, free_slots=5, answer_s=0.0, decoding_s=3.0)
    speed = Speed(prefill_token_s=0.01, attended_s=1e-7, mixed_step_s=0.26, mixed_tokens=16)
    candidate = Candidate(member=bytes(32), speed=speed, load=load, sent=Sent(40, 1), age_s=1.0)
    seen = Seen(candidate, cached_tokens=16, slots=8)
    assert (seen.requests, seen.queued_tokens) == (4, 140)
