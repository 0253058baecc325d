"""What a prompt would wait, term by term."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.routing.cost import Sent, predict_wait
from overlay.wire.group import Load, Speed

SPEED = Speed(prefill_token_s=0.001, attended_s=1e-7, mixed_step_s=0.054, mixed_tokens=24)
IDLE = Load(queued_tokens=0, decoding=0, free_slots=16, answer_s=0.0, decoding_s=0.0)
START_S = SPEED.mixed_step_s - SPEED.mixed_tokens * SPEED.prefill_token_s
BUSY = Load(queued_tokens=1000, decoding=8, free_slots=8, answer_s=2.0, decoding_s=9.0)


NOTHING = Sent()


def wait(load=IDLE, sent=NOTHING, *, speed=SPEED, tokens=512, cached=0):
    return predict_wait(speed, load, sent, tokens=tokens, cached=cached)


def test_an_idle_member_reads_at_once():
    found = wait(tokens=1000)
    assert (found.ahead_s, found.slot_s) == (0.0, 0.0)
    assert found.total_s == pytest.approx(1.0 + START_S + 1000 * 500 * 1e-7)


def test_cached_tokens_are_seconds_saved_but_are_attended_to():
    found = wait(tokens=1000, cached=992)
    assert found.reading_s == pytest.approx(0.008 + START_S + 8 * 996 * 1e-7)


def test_the_last_token_is_computed_whatever_is_cached():
    assert wait(tokens=1000, cached=1000) == wait(tokens=1000, cached=999)
    assert wait(tokens=1000, cached=5000).total_s > 0


def test_running_answers_take_a_step_for_every_chunk():
    answering = Load(queued_tokens=0, decoding=8, free_slots=8, answer_s=0.0, decoding_s=9.0)
    more = wait(answering, tokens=240).reading_s - wait(tokens=240).reading_s
    assert more == pytest.approx(10 * 0.03 - START_S)  # none is read alone


def test_what_was_sent_since_the_load_was_told_counts_as_queued():
    told = Load(queued_tokens=300, decoding=0, free_slots=16, answer_s=0.0, decoding_s=0.0)
    assert wait(IDLE, Sent(300, 1)) == wait(told)


def test_without_a_free_slot_it_waits_for_an_answer_to_end():
    full = Load(queued_tokens=0, decoding=16, free_slots=0, answer_s=2.0, decoding_s=9.0)
    assert wait(full).slot_s == 2.0
    assert wait(BUSY, Sent(0, 8)).slot_s == 2.0
    assert wait(BUSY, Sent(0, 7)).slot_s == 0.0


def test_what_is_left_when_the_answers_are_over_is_read_in_long_chunks():
    answering = replace(
        IDLE, decoding=8, decoding_s=0.27
    )  # five steps of 24 tokens and 30 ms more than they take alone
    assert wait(answering, tokens=500).reading_s == pytest.approx(wait(tokens=500).reading_s + 5 * 0.03)


@given(
    st.integers(1, 1 << 20),
    st.integers(0, 1 << 20),
    st.integers(0, 1 << 20),
    st.integers(0, 64),
)
def test_more_to_do_is_never_sooner(tokens, cached, queued, decoding):
    load = Load(queued_tokens=queued, decoding=decoding, free_slots=1, answer_s=0.0, decoding_s=decoding)
    heavier = Load(
        queued_tokens=queued + 1, decoding=decoding, free_slots=1, answer_s=0.0, decoding_s=decoding
    )
    found = wait(load, tokens=tokens, cached=cached).total_s
    assert 0 < found < wait(heavier, tokens=tokens, cached=cached).total_s
    assert found <= wait(load, tokens=tokens + 1, cached=cached).total_s
    assert found >= wait(load, tokens=tokens, cached=cached + 1).total_s


def test_the_steps_of_answers_weigh_less_where_chunks_are_longer():
    answering = replace(IDLE, decoding=8, queued_tokens=1000, decoding_s=9.0)
    found = predict_wait(
        replace(SPEED, mixed_tokens=512, mixed_step_s=0.542), answering, Sent(), tokens=100, cached=0
    )
    assert found.total_s < wait(answering, tokens=100, cached=0).total_s
