"""A client's prompt on its way out."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.dispersal import recover
from overlay.errors import LocalProtocolError
from overlay.protocol.envelope import SealingTarget, open_envelope, open_update, update_key
from overlay.protocol.request import RequestTerms, open_request
from overlay.wire.limits import FIRST_FRAGMENT_BYTES
from overlay.wire.prompt_codec import decode_prompt_message
from overlay.wire.update import MAX_PATH_NUMBER, NumberedPath
from tests.support.answers import (
    EPOCH,
    MODEL_NODE,
    NETWORK,
    UNIX_TIME,
    a_prompt,
    a_request,
    prompts,
    reply_path,
    sealing_key,
)
from tests.support.entropy import fixed_entropy

KEYS = {EPOCH: sealing_key()}


def opened(envelope):
    return open_envelope(envelope, network=NETWORK, node_id=MODEL_NODE, keys=KEYS)


@settings(deadline=None, max_examples=30)
@given(prompts(), st.integers(1, 4), st.integers(0, 4))
def test_any_k_cloves_hold_the_prompt(prompt, k, spare):
    request = a_request(prompt, k=k, n=k + spare)
    cloves = [opened(envelope) for envelope in request.cloves()]
    assert len(cloves) == k + spare
    message = decode_prompt_message(recover(cloves[-k:]).message)
    assert message == request.message
    assert message.prompt == prompt
    assert message.paths == tuple(reply_path(index) for index in range(k + spare))


def test_a_short_prompt_takes_one_cell_a_path():
    assert {len(envelope) for envelope in a_request().cloves()} == {4 + 48 + 1 + 88 + 520}
    assert len(a_request().clove(0)) <= FIRST_FRAGMENT_BYTES


def test_a_clove_that_is_sent_again_looks_new():
    request = a_request()
    first, again = request.clove(1), request.clove(1)
    assert first[4:] != again[4:]
    assert opened(first) == opened(again)


def test_two_requests_share_no_secret():
    one, other = a_request(seed="one"), a_request(seed="other")
    assert one.mid != other.mid
    assert one.message.response_secret != other.message.response_secret
    assert one.message.blinding != one.message.response_secret


def test_a_replaced_path_gets_the_next_number_of_its_fragment():
    request = a_request()
    assert request.replace_path(1, reply_path(11)) == 5
    assert request.replace_path(5, reply_path(12)) == 9
    assert request.path_numbers == (0, 9, 2, 3)
    new = reply_path(12)
    assert request.current_update(3).paths[1] == NumberedPath(9, new.proxy, new.token)


def test_a_path_that_is_not_in_use_can_not_be_replaced():
    request = a_request()
    request.replace_path(1, reply_path(11))
    for number in (1, 9, 4):
        with pytest.raises(LocalProtocolError):
            request.replace_path(number, reply_path(12))


def test_path_numbers_end():
    request = a_request(k=1, n=1)
    request._paths[0] = dataclasses.replace(request._paths[0], number=MAX_PATH_NUMBER)
    with pytest.raises(LocalProtocolError, match="used up"):
        request.replace_path(MAX_PATH_NUMBER, reply_path(12))


def test_an_update_says_how_the_paths_are_now():
    request = a_request()
    request.replace_path(0, reply_path(9))
    first = [opened(envelope) for envelope in request.update(5)]
    (second,) = [opened(envelope) for envelope in request.update(6, cancel=True, copies=1)]
    assert first[0] == first[1]
    assert (first[0].sequence, second.sequence) == (0, 1)
    assert open_update(update_key(request.terms), first[0]) == request.current_update(5)
    assert open_update(update_key(request.terms), second) == request.current_update(6, cancel=True)


@pytest.mark.parametrize(
    ("n", "terms"),
    [
        (4, RequestTerms(k=0)),
        (4, RequestTerms(k=5)),
        (9, RequestTerms(k=2)),
        (0, RequestTerms(k=0)),
        (4, RequestTerms(lifetime_s=601)),
        (4, RequestTerms(lifetime_s=0)),
    ],
)
def test_terms_that_can_not_hold_are_refused(n, terms):
    with pytest.raises(LocalProtocolError):
        send("hi", n, terms)


def test_what_no_proxy_would_take_is_not_sent():
    with pytest.raises(LocalProtocolError, match="too long"):
        send("x" * 600_000, 4, RequestTerms())
    with pytest.raises(LocalProtocolError, match="too long for k = 1"):
        send("x" * 400_000, 4, RequestTerms(k=1))
    assert len(send("x" * 400_000, 4, RequestTerms(k=2)).cloves()) == 4


def send(text, n, terms):
    return open_request(
        a_prompt(text),
        [reply_path(index) for index in range(n)],
        SealingTarget(NETWORK, MODEL_NODE, EPOCH, sealing_key().public),
        terms,
        unix_time=UNIX_TIME,
        entropy=fixed_entropy("send"),
    )
