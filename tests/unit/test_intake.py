"""What a model node lets in: each prompt once, whoever delivers its cloves and however often."""

import dataclasses
import itertools
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.dispersal import Clove, split
from crypto.identity import NodeId
from crypto.sealed import seal
from overlay.protocol.envelope import close_update, seal_clove, seal_info, seal_update, update_key
from overlay.protocol.intake import Intake, IntakeEvent, IntakeLimits, PromptArrived, UpdateArrived
from overlay.protocol.request import Request
from overlay.wire.limits import MAX_UPDATES
from overlay.wire.prompt_codec import encode_prompt_message
from tests.support.answers import EPOCH, MODEL_NODE, NETWORK, UNIX_TIME, a_request, sealing_key
from tests.support.entropy import fixed_entropy

PROXY = NodeId(b"P" * 32)
OTHER_PROXY = NodeId(b"Q" * 32)


def an_intake(**limits: int) -> Intake:
    intake = Intake(MODEL_NODE, NETWORK, IntakeLimits(**limits))
    intake.set_keys({EPOCH: sealing_key(), EPOCH - 1: sealing_key("yesterday")})
    return intake


def deliver(
    intake: Intake, *envelopes: bytes, now: float = 0.0, unix_time: float = UNIX_TIME, proxy: NodeId = PROXY
) -> list[IntakeEvent]:
    return [
        event for envelope in envelopes for event in intake.receive_delivery(proxy, envelope, now, unix_time)
    ]


def resealed(request: Request, clove: Clove) -> bytes:
    return seal_clove(request.target, clove)


def cloves_of(request: Request, message: bytes) -> list[bytes]:
    """Cloves with any content in place of the request's own."""
    cloves = split(message, 2, 4, mid=request.mid, entropy=fixed_entropy("other"))
    return [resealed(request, clove) for clove in cloves]


# --- prompts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", list(itertools.permutations(range(4), 2)))
def test_any_two_cloves_bring_the_prompt(pair):
    request, intake = a_request(), an_intake()
    (event,) = deliver(intake, *(request.clove(index) for index in pair))
    assert event == PromptArrived(request.mid, request.message, request.terms, frozenset())
    assert intake.partial_count == 0


def test_one_clove_is_not_enough():
    request, intake = a_request(), an_intake()
    assert deliver(intake, request.clove(0), request.clove(0)) == []
    assert intake.counters["clove_repeated"] == 1


def test_a_false_clove_is_outvoted_and_named():
    request, intake = a_request(), an_intake()
    true = split(encode_prompt_message(request.message), 2, 4, mid=request.mid, entropy=os.urandom)
    false = dataclasses.replace(true[1], fragment=bytes(len(true[1].fragment)))
    (event,) = deliver(intake, *(resealed(request, clove) for clove in (false, true[0], true[3])))
    assert isinstance(event, PromptArrived)
    assert event.culprits == {1}
    assert event.message == request.message


def test_a_message_of_which_no_cloves_agree_is_dropped():
    request, intake = a_request(), an_intake()
    cloves = split(encode_prompt_message(request.message), 2, 4, mid=request.mid, entropy=os.urandom)
    false = [
        dataclasses.replace(clove, fragment=bytes([clove.index]) * len(clove.fragment)) for clove in cloves
    ]
    assert deliver(intake, *(resealed(request, clove) for clove in false)) == []
    assert intake.counters["unrecoverable"] == 1
    assert intake.partial_count == 0


def test_cloves_of_several_prompts_may_be_mixed():
    requests, intake = [a_request(seed=f"{number}") for number in range(5)], an_intake()
    envelopes = [request.clove(index) for index in (2, 0) for request in requests]
    events = deliver(intake, *envelopes)
    assert [event.mid for event in events] == [request.mid for request in requests]


def test_yesterdays_key_still_opens():
    request, intake = a_request(), an_intake()
    target = dataclasses.replace(request.target, epoch=EPOCH - 1, public=sealing_key("yesterday").public)
    assert len(deliver(intake, *(seal_clove(target, clove) for clove in request._cloves))) == 1


@pytest.mark.parametrize(
    "changes",
    [{"network": b"tset"}, {"node_id": NodeId(b"N" * 32)}, {"epoch": EPOCH - 1}, {"epoch": 7}],
    ids=["network", "node", "other epoch", "unknown epoch"],
)
def test_what_was_sealed_for_another_purpose_does_not_open(changes):
    request, intake = a_request(), an_intake()
    target = dataclasses.replace(request.target, **changes)
    assert deliver(intake, *(seal_clove(target, clove) for clove in request._cloves)) == []
    assert intake.counters == {"not_authentic": 4}


# --- replay and time ------------------------------------------------------------------------------


def test_a_replayed_prompt_is_never_run_again():
    request, intake = a_request(), an_intake()
    cloves = request.cloves()
    assert len(deliver(intake, *cloves)) == 1
    for now in range(0, 720, 40):
        assert deliver(intake, *cloves, now=now, unix_time=UNIX_TIME + now, proxy=OTHER_PROXY) == []
        intake.handle_deadline(float(now))
        intake.answer_ended(request.mid)
    # From here on it is its expiry that keeps it out, and nothing needs to be remembered.
    for now in (727.0, 735.0, 2000.0):
        intake.handle_deadline(now)
        assert deliver(intake, *cloves, now=now, unix_time=UNIX_TIME + now) == []
    assert intake.counters["prompts"] == 1
    assert intake.remembered_count == 0


def test_a_prompt_is_remembered_while_its_answer_runs():
    request, intake = a_request(lifetime_s=60), an_intake()
    deliver(intake, *request.cloves())
    intake.handle_deadline(1000.0)
    assert intake.remembered_count == 1
    assert deliver(intake, *request.update(0), now=1000.0) != []
    intake.answer_ended(request.mid)
    intake.handle_deadline(1005.0)
    assert intake.remembered_count == 0


@pytest.mark.parametrize(("after_s", "count"), [(-301, 0), (-299, 1), (899, 1), (901, 0)])
def test_a_prompt_counts_from_issue_to_expiry_give_or_take_the_skew(after_s, count):
    request, intake = a_request(), an_intake()
    assert len(deliver(intake, *request.cloves(), unix_time=UNIX_TIME + after_s)) == count
    assert intake.counters["expired"] == (0 if count else 2)


def test_half_a_prompt_is_forgotten_after_a_while():
    request, intake = a_request(), an_intake()
    deliver(intake, request.clove(0))
    assert intake.next_deadline() == 5.0
    intake.handle_deadline(29.0)
    assert intake.partial_count == 1
    intake.handle_deadline(34.0)
    assert intake.partial_count == 0
    assert intake.next_deadline() is None
    assert deliver(intake, request.clove(1), now=35.0) == []


# --- limits ---------------------------------------------------------------------------------------


def test_one_proxy_can_not_crowd_out_another():
    intake = an_intake(partial_groups=20, partial_groups_per_proxy=8)
    mine = a_request(seed="mine")
    deliver(intake, mine.clove(0), proxy=OTHER_PROXY)
    for number in range(50):
        deliver(intake, a_request(seed=f"flood {number}").clove(0))
    assert intake.partial_count == 9
    assert len(deliver(intake, mine.clove(1), proxy=OTHER_PROXY)) == 1


def test_the_oldest_half_prompt_goes_first():
    intake = an_intake(partial_groups=3)
    requests = [a_request(seed=f"{number}") for number in range(4)]
    deliver(intake, *(request.clove(0) for request in requests))
    assert intake.counters["groups_evicted"] == 1
    assert deliver(intake, requests[0].clove(1)) == []
    assert len(deliver(intake, requests[3].clove(1))) == 1


def test_half_prompts_are_bounded_in_bytes():
    intake = an_intake(partial_bytes=2000)
    for number in range(10):
        deliver(intake, a_request(seed=f"{number}").clove(0))
    assert intake.partial_count == 3, "of about 520 bytes each"


def test_a_full_memory_refuses_rather_than_forgets():
    intake = an_intake(remembered=2)
    requests = [a_request(seed=f"{number}") for number in range(3)]
    counts = [len(deliver(intake, *request.cloves())) for request in requests]
    assert counts == [1, 1, 0]
    assert deliver(intake, *requests[0].cloves()) == []


# --- updates --------------------------------------------------------------------------------------


def test_an_update_reaches_its_answer_once():
    request, intake = a_request(), an_intake()
    deliver(intake, *request.cloves())
    copies = request.update(7, copies=3)
    assert len(set(copies)) == 3
    assert deliver(intake, *copies, *copies) == [UpdateArrived(request.mid, request.current_update(7))]
    assert intake.counters["update_repeated"] == 5


def test_updates_may_overtake_each_other():
    request, intake = a_request(), an_intake()
    deliver(intake, *request.cloves())
    first, second = request.update(1, copies=1), request.update(2, copies=1)
    assert [event.update.have for event in deliver(intake, *second, *first)] == [2, 1]


def test_an_update_of_a_prompt_that_is_not_known_or_over_is_dropped():
    request, intake = a_request(), an_intake()
    assert deliver(intake, *request.update(0)) == []
    deliver(intake, *request.cloves())
    intake.answer_ended(request.mid)
    assert deliver(intake, *request.update(0)) == []
    assert intake.counters["update_without_answer"] == 4


def test_only_the_author_of_a_prompt_can_update_it():
    """Anyone can seal to the model node, and the mid is known to whoever holds a clove of it."""
    request, mallory, intake = a_request(), a_request(seed="mallory"), an_intake()
    deliver(intake, *request.cloves())
    forged = close_update(update_key(mallory.terms), request.mid, 0, request.current_update(0, cancel=True))
    assert deliver(intake, seal_update(request.target, forged)) == []
    assert intake.counters["not_authentic"] == 1
    assert len(deliver(intake, *request.update(0, copies=1))) == 1


def test_updates_of_one_answer_are_bounded():
    request, intake = a_request(), an_intake()
    deliver(intake, *request.cloves())
    events = [
        event for _ in range(MAX_UPDATES + 5) for event in deliver(intake, *request.update(0, copies=1))
    ]
    assert len(events) == MAX_UPDATES
    assert intake.counters["update_over_limit"] == 5


# --- rubbish --------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_rubbish_is_counted_and_dropped(rubbish, is_sealed, has_epoch):
    intake = an_intake()
    if is_sealed:
        rubbish = seal(sealing_key().public, rubbish, info=seal_info(NETWORK, MODEL_NODE, EPOCH))
    if has_epoch:
        rubbish = EPOCH.to_bytes(4, "big") + rubbish
    assert deliver(intake, rubbish) == []
    assert intake.counters.total() == 1
    assert intake.partial_count == 0


@settings(deadline=None)
@given(st.binary(max_size=1500))
def test_cloves_of_rubbish_are_counted_and_dropped(message):
    request, intake = a_request(), an_intake()
    assert deliver(intake, *cloves_of(request, message)) == []
    assert intake.counters["prompts"] == 0
    assert intake.remembered_count == 0


def test_update_keys_differ_between_nodes_and_attempts():
    terms = a_request().terms
    others = (
        dataclasses.replace(terms, attempt=1),
        dataclasses.replace(terms, serving=NodeId(b"N" * 32)),
    )
    sealed = close_update(update_key(terms), b"m" * 16, 0, a_request().current_update(0)).sealed
    for other in others:
        assert close_update(update_key(other), b"m" * 16, 0, a_request().current_update(0)).sealed != sealed
