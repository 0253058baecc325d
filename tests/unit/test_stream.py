"""Stories of one answer between a model node and a client; the machine that tries everything is below them."""

import os
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.errors import LocalProtocolError
from overlay.protocol import answer_receiver
from overlay.protocol.answer_cell import AnswerCell, CellKind, seal_cell
from overlay.protocol.answer_sender import (
    BACKLOG_BYTES,
    BULK_CELLS,
    BULK_TICKS,
    LINGER_S,
    bucket_s,
    next_tick,
)
from overlay.protocol.stream import (
    TICK_S,
    AnswerAbandoned,
    AnswerClosed,
    AnswerEnded,
    AnswerMalformed,
    AnswerTimedOut,
    BlocksMissing,
    PathFaulty,
    PathLossy,
    PathSilent,
    SendAnswerCell,
)
from overlay.wire.answer import AnswerAccepted, AnswerFinished, ReceiptIssued, TokensGenerated
from overlay.wire.limits import ANSWER_CELL_BYTES
from tests.support.answers import StapledAnswer, a_request, answer_events, reply_path

FINISHED = AnswerFinished("stop", 5, 20, 0)


def token(number: int) -> TokensGenerated:
    return TokensGenerated(f"word{number} ", 1)


def say(answer: StapledAnswer, *numbers: int) -> list[TokensGenerated]:
    """One token a tick."""
    tokens = [token(number) for number in numbers]
    for each in tokens:
        answer.write(each)
        answer.run_for(TICK_S)
    return tokens


def an_answer(**changes) -> StapledAnswer:
    return StapledAnswer(a_request(), **changes)


def close(answer: StapledAnswer) -> None:
    answer.write(FINISHED)
    answer.sender.finish()
    answer.run_for(60)


# --- the answer itself ----------------------------------------------------------------------------


def test_events_arrive_in_order_and_once():
    answer = an_answer()
    answer.write(AnswerAccepted())
    tokens = say(answer, *range(20))
    answer.write(ReceiptIssued(bytes(3000)))
    close(answer)
    assert answer.events == [AnswerAccepted(), *tokens, ReceiptIssued(bytes(3000)), FINISHED]
    assert answer.notices == [AnswerEnded()]
    assert answer.sent[-1] == AnswerClosed()


@pytest.mark.parametrize(("k", "n"), [(1, 1), (1, 3), (2, 2), (3, 4), (5, 8)])
def test_any_code_carries_an_answer(k, n):
    answer = StapledAnswer(a_request(k=k, n=n))
    tokens = say(answer, *range(3))
    close(answer)
    assert answer.events == [*tokens, FINISHED]


@settings(deadline=None, max_examples=40)
@given(st.lists(answer_events, max_size=12), st.lists(st.booleans(), min_size=12, max_size=12))
def test_whatever_is_written_arrives(events, pauses):
    answer = an_answer()
    for event, pause in zip(events, pauses, strict=False):
        answer.write(event)
        if pause:
            answer.run_for(TICK_S)
    answer.sender.finish()
    answer.run_for(60)
    assert answer.events == events
    assert answer.notices == [AnswerEnded()]


def test_a_token_is_there_one_tick_after_it_was_written():
    answer = an_answer()
    answer.run_for(1.0)
    answer.write(token(1))
    answer.run_for(TICK_S)
    assert answer.events == [token(1)]


# --- what a watcher sees --------------------------------------------------------------------------


def test_every_path_carries_one_cell_a_tick_whatever_is_said():
    """The same number of cells at the same times, for a silent model and for a busy one."""
    patterns = []
    for speak in (range(0), range(40), range(0, 40, 7)):
        answer = an_answer()
        seen = []
        for tick in range(40):
            if tick in speak:
                answer.write(token(tick), token(tick))
            cells = [out for out in answer.step() if isinstance(out, SendAnswerCell)]
            seen.append((round(answer.now, 6), sorted(answer.number_of[cell.reply_token] for cell in cells)))
            assert {len(cell.data) for cell in cells} == {ANSWER_CELL_BYTES}
        patterns.append(seen)
    assert patterns[0] == patterns[1] == patterns[2]
    assert all(numbers == [0, 1, 2, 3] for _, numbers in patterns[0])


def test_a_long_receipt_goes_in_runs_of_one_length():
    def extra_cells(size: int) -> int:
        answer = an_answer()
        answer.run_for(0.5)
        answer.write(ReceiptIssued(os.urandom(size)))
        answer.sender.finish()
        per_tick = []
        while not answer.sender.is_done:
            per_tick.append(len(answer.step()))
        return sum(count == 4 * BULK_CELLS for count in per_tick)

    assert extra_cells(5_000) == 0
    assert extra_cells(10_000) == extra_cells(60_000) == BULK_TICKS
    assert extra_cells(100_000) == 2 * BULK_TICKS


def test_dummies_go_on_until_the_duration_is_one_of_a_few():
    ends = set()
    for ticks in (3, 30, 38, 50):
        answer = an_answer()
        say(answer, *range(ticks))
        answer.sender.finish()
        started = answer.now - ticks * TICK_S
        last = started
        while not answer.sender.is_done:
            if any(isinstance(out, SendAnswerCell) for out in answer.step()):
                last = answer.now
        ends.add(round(last - started + TICK_S))
    assert ends == {2, 3, 4}


def test_buckets_are_a_short_row():
    row = sorted({bucket_s(tenths / 10) for tenths in range(1, 1000)})
    assert row == [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128]


def test_no_two_cells_share_sixteen_bytes():
    answer = an_answer()
    say(answer, *range(20))
    answer.replace(2)
    close(answer)
    pieces = [
        cell.data[at : at + 16] for cell in answer.cells() for at in range(8, ANSWER_CELL_BYTES - 16, 16)
    ]
    assert len(set(pieces)) == len(pieces)


def test_a_stopped_process_does_not_make_up_for_missed_ticks():
    answer = an_answer()
    answer.run_for(0.2)
    answer.now += 5.0
    assert len(answer.sender.handle_deadline(answer.now)) == 4
    assert answer.sender.next_deadline() > answer.now


# --- paths that fail ------------------------------------------------------------------------------


def test_two_of_four_paths_are_enough():
    answer = an_answer(spoil=lambda number, data: None if number in (0, 3) else data)
    tokens = say(answer, *range(40))
    close(answer)
    assert answer.events == [*tokens, FINISHED]
    assert {notice.number for notice in answer.notices if isinstance(notice, PathSilent)} == {0, 3}


def test_a_silent_path_is_reported_once_and_in_time():
    answer = an_answer()
    answer.run_for(1.0)
    answer.spoil = lambda number, data: None if number == 2 else data
    answer.run_for(1.4)
    assert answer.notices == []
    answer.run_for(0.3)
    assert answer.notices == [PathSilent(2)]
    answer.run_for(5.0)
    assert answer.notices == [PathSilent(2)]


def test_a_path_whose_circuit_is_known_to_be_gone_is_not_called_silent():
    answer = an_answer()
    answer.run_for(1.0)
    answer.receiver.path_lost(2)
    answer.spoil = lambda number, data: None if number == 2 else data
    answer.run_for(5.0)
    assert answer.notices == []
    assert answer.receiver.retired_paths == {2}


def test_a_client_that_slept_blames_nobody():
    """After a pause, one link's cells are read before the next one's; no path is silent for that."""
    answer = an_answer()
    answer.run_for(1.0)
    held = []
    for _ in range(60):
        answer.now = answer.sender.next_deadline()
        held += answer.sender.handle_deadline(answer.now)
    for cell in sorted(held, key=lambda cell: answer.number_of[cell.reply_token]):
        answer.deliver(cell)
    assert answer.notices == []


def test_a_damaged_cell_names_its_path_once_and_costs_nothing():
    def flip(number: int, data: bytes) -> bytes:
        return data[:500] + bytes([data[500] ^ 1]) + data[501:] if number == 1 else data

    answer = an_answer(spoil=flip)
    tokens = say(answer, *range(10))
    assert answer.events == tokens
    assert answer.notices == [PathFaulty(1)]


def test_a_cell_of_another_length_names_its_path():
    answer = an_answer(spoil=lambda number, data: data[:-1] if number == 1 else data)
    answer.run_for(0.2)
    assert answer.notices == [PathFaulty(1)]


def test_a_repeated_cell_is_ignored():
    answer = an_answer()
    tokens = say(answer, *range(5))
    for cell in answer.cells():
        answer.deliver(cell)
    assert answer.events == tokens
    assert answer.notices == []


def test_a_cell_swapped_to_another_path_is_a_forgery():
    answer = an_answer()
    (first, *_) = answer.step()
    assert answer.receiver.receive_cell(1, first.data, answer.now) == [PathFaulty(1)]


def test_a_path_that_loses_more_than_one_cell_in_twenty_is_reported():
    counts = dict.fromkeys(range(4), 0)

    def lose(number: int, data: bytes) -> bytes | None:
        counts[number] += 1
        every = {1: 10, 2: 25}.get(number)
        return None if every and counts[number] % every == 0 else data

    answer = an_answer(spoil=lose)
    answer.run_for(20.0)
    assert answer.notices == [PathLossy(1)]


# --- repair ---------------------------------------------------------------------------------------


def test_a_replaced_path_brings_what_was_missed():
    """Three of four circuits die; what was said meanwhile comes over their successors."""
    answer = an_answer()
    before = say(answer, *range(5))
    dead = {1, 2, 3}
    answer.spoil = lambda number, data: None if number in dead else data
    for number in dead:
        answer.receiver.path_lost(number)
        answer.sender.path_refused(reply_path(number).token, answer.now)
    missed = say(answer, *range(5, 25))
    assert answer.events == before
    assert answer.replace(1) == 5
    answer.run_for(0.5)
    assert answer.events == [*before, *missed]
    close(answer)
    assert answer.events == [*before, *missed, FINISHED]


def test_a_path_can_be_replaced_again_and_again():
    answer = an_answer()
    number, tokens = 0, []
    for round_ in range(20):
        tokens += say(answer, round_)
        number = answer.replace(number)
    close(answer)
    assert number == 80
    assert answer.events == [*tokens, FINISHED]


def test_updates_may_come_late_twice_and_out_of_order():
    answer = an_answer()
    answer.receiver.path_lost(0)
    answer.replace(0, tell=False)
    old = answer.request.current_update(0)
    answer.replace(4, tell=False)
    new = answer.request.current_update(0)
    for update in (new, old, new, old):
        answer.sender.receive_update(update, answer.now)
    tokens = say(answer, 1, 2)
    numbers = {answer.number_of[cell.reply_token] for cell in answer.cells()}
    assert numbers == {8, 1, 2, 3}
    assert answer.events == tokens


def test_lost_blocks_are_asked_for_and_sent_again():
    answer = an_answer()
    answer.run_for(0.5)
    answer.spoil = lambda number, _: None
    missed = say(answer, *range(3))
    answer.spoil = lambda _, data: data
    answer.run_for(0.5)
    assert answer.events == []
    answer.run_for(0.7)
    assert answer.notices == [BlocksMissing(0)]
    answer.tell(stalled=True)
    answer.run_for(0.2)
    assert answer.events == missed


def test_the_last_block_can_be_had_after_all_cells_have_been_sent():
    """Everything dies just before the end; the sender's linger is for this."""
    answer = an_answer()
    tokens = say(answer, 1)
    answer.spoil = lambda number, data: None if number < 4 else data
    answer.write(FINISHED)
    answer.sender.finish()
    answer.run_for(4.0)  # the client has not given up yet
    assert answer.sent[-1] != AnswerClosed()
    for number in range(4):
        answer.receiver.path_lost(number)
        answer.replace(number)
    answer.run_for(0.5)
    assert answer.events == [*tokens, FINISHED]
    assert answer.receiver.is_over


def test_repair_is_paced():
    answer = an_answer()
    answer.write(*(ReceiptIssued(os.urandom(1800)) for _ in range(200)))
    answer.run_for(1.0)
    answer.spoil = lambda number, _: None
    answer.write(*(ReceiptIssued(os.urandom(1800)) for _ in range(100)))
    sent_before = len(answer.cells())
    answer.tell(stalled=True)
    outputs = answer.step()
    assert len(answer.cells()) == sent_before + len(outputs)
    assert len(outputs) <= 4 * (BULK_CELLS + 4)


def test_what_the_client_has_is_not_sent_again():
    answer = an_answer()
    say(answer, *range(10))
    answer.replace(0)
    before = len(answer.cells())
    answer.step()
    assert len(answer.cells()) == before + 4


# --- ends -----------------------------------------------------------------------------------------


def test_no_living_path_for_ten_seconds_abandons_the_answer():
    answer = an_answer()
    answer.run_for(1.0)
    for number in range(4):
        answer.sender.path_refused(reply_path(number).token, answer.now)
    assert answer.sender.live_path_count == 0
    answer.run_for(9.9)
    assert not answer.sender.is_done
    answer.run_for(0.2)
    assert answer.sent[-2:] == [AnswerAbandoned("unreachable"), AnswerClosed()]
    assert answer.sender.write(token(1))


def test_an_update_in_time_keeps_the_answer_alive():
    answer = an_answer()
    answer.sender.proxy_lost(reply_path(0).proxy, answer.now)
    for number in range(1, 4):
        answer.sender.path_refused(reply_path(number).token, answer.now)
    answer.run_for(9.0)
    answer.replace(0)
    answer.run_for(9.0)
    assert answer.sender.live_path_count == 4, "paths that the client still lists get another chance"
    assert not answer.sender.is_done


def test_cancel_stops_the_answer_at_once():
    answer = an_answer()
    say(answer, 1)
    answer.tell(cancel=True)
    assert answer.sent[-2:] == [AnswerAbandoned("cancelled"), AnswerClosed()]
    assert answer.sender.next_deadline() is None
    assert answer.sender.handle_deadline(answer.now + 1) == []


def test_cancel_after_the_last_block_abandons_nothing():
    answer = an_answer()
    answer.write(FINISHED)
    answer.sender.finish()
    answer.run_for(0.2)
    answer.tell(cancel=True)
    assert AnswerAbandoned("cancelled") not in answer.sent
    assert answer.sender.is_done


def test_a_sender_lingers_and_then_is_done():
    answer = an_answer()
    answer.write(FINISHED)
    answer.sender.finish()
    answer.run_for(2.0 + LINGER_S - 0.2)
    assert not answer.sender.is_done
    answer.run_for(0.3)
    assert answer.sender.is_done


def test_a_model_node_that_never_speaks_times_out():
    answer = an_answer(spoil=lambda _number, _data: None)
    answer.run_for(10.1)
    assert answer.notices == [AnswerTimedOut("first")]
    assert answer.receiver.next_deadline() is None


def test_a_model_node_that_falls_silent_times_out():
    answer = an_answer()
    say(answer, 1)
    answer.spoil = lambda _number, _data: None
    answer.run_for(10.1)
    assert answer.notices == [AnswerTimedOut("idle")]


def test_dummies_for_ever_time_out():
    answer = an_answer()
    answer.run_for(121)
    assert answer.notices == [AnswerTimedOut("progress")]


def test_a_full_backlog_refuses_until_a_tick_has_gone():
    answer = an_answer()
    written = 0
    while answer.sender.write(ReceiptIssued(os.urandom(1000))):
        written += 1
    assert BACKLOG_BYTES / 1010 < written < BACKLOG_BYTES / 990
    assert answer.sender.is_full
    answer.run_for(TICK_S)
    assert answer.sender.write(token(1))


def test_nothing_follows_finish():
    answer = an_answer()
    answer.sender.finish()
    with pytest.raises(LocalProtocolError):
        answer.sender.write(token(1))


# --- a model node that lies -----------------------------------------------------------------------


def lie(answer: StapledAnswer, *cells: AnswerCell) -> list[object]:
    terms = answer.request.terms
    return [
        event
        for index, cell in enumerate(cells)
        for event in answer.receiver.receive_cell(index, seal_cell(terms.key(index), 0, cell), answer.now)
    ]


@pytest.mark.parametrize(
    "cells",
    [
        [AnswerCell(CellKind.FRAGMENT, 0, 60_000, b"")],
        [AnswerCell(CellKind.DUMMY, 0, 1, b"x")],
        [AnswerCell(CellKind.FRAGMENT, 0, 8, b"abcd"), AnswerCell(CellKind.FRAGMENT, 0, 9, b"abcde")],
        [AnswerCell(CellKind.FRAGMENT, 0, 8, b"abcd"), AnswerCell(CellKind.LAST, 0, 8, b"abcd")],
        [AnswerCell(CellKind.FRAGMENT, 0, 8, b"\xff" * 4), AnswerCell(CellKind.FRAGMENT, 0, 8, b"\xff" * 4)],
        [AnswerCell(CellKind.LAST, 0, 4, b"\0\0"), AnswerCell(CellKind.LAST, 0, 4, b"\0\5")],
    ],
    ids=["too long", "loud dummy", "two lengths", "two kinds", "no frame", "ends inside an event"],
)
def test_sound_cells_with_nonsense_end_the_answer(cells):
    answer = an_answer()
    assert [type(event) for event in lie(answer, *cells)] == [AnswerMalformed]
    assert answer.receiver.is_over


def test_an_answer_without_end_is_malformed(monkeypatch):
    monkeypatch.setattr(answer_receiver, "MAX_ANSWER_BYTES", 20)
    answer = an_answer()
    answer.write(token(1), token(2), token(3))
    answer.run_for(1)
    assert isinstance(answer.notices[-1], AnswerMalformed)
    assert answer.receiver.is_over


def test_blocks_far_ahead_are_not_held():
    answer = an_answer()
    assert lie(answer, AnswerCell(CellKind.FRAGMENT, 5000, 8, b"abcd")) == []
    assert answer.receiver.have == 0
    answer.run_for(1.1)
    assert BlocksMissing(0) in answer.notices


def test_deadlines_never_lie_in_the_past_for_long():
    answer = an_answer()
    say(answer, *range(5))
    deadlines = []
    while not answer.sender.is_done:
        answer.step()
        deadlines.append(answer.now)
        if len(deadlines) == 60:
            answer.sender.finish()
    assert all(earlier <= later for earlier, later in pairwise(deadlines))
    assert len(set(deadlines)) > len(deadlines) / 2


def test_a_path_that_was_refused_before_its_clove_came_is_used_when_it_has_come():
    answer = an_answer()
    said = say(answer, 1, 2)
    late = reply_path(3).token
    answer.sender.path_refused(late, answer.now)
    assert answer.sender.live_path_count == 3
    said += say(answer, 3, 4)
    answer.sender.path_delivered(late, answer.now)
    assert answer.sender.live_path_count == 4
    said += say(answer, 5)
    assert answer.events == said
    assert not answer.receiver.retired_paths


@given(st.floats(0, 1e7) | st.integers(0, 10**8).map(lambda number: number * TICK_S))
def test_the_next_tick_is_later_and_within_a_tick(now):
    tick = next_tick(now)
    assert now < tick <= now + 1.01 * TICK_S
    assert next_tick(tick) > tick


def test_all_answers_of_a_node_tick_together():
    one, other = an_answer(now=1.013), an_answer(now=1.041)
    assert one.sender.next_deadline() == other.sender.next_deadline() == next_tick(1.02)
