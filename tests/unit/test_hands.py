"""Prompts between members: a refusal is said once, and what a member tells is looked at where it was asked for."""

import pytest
import trio

from node.serving.hands import Hands
from overlay.wire.group import GroupId
from overlay.wire.handover import HandEnded, PromptPart, WaitAsked, WaitTold
from tests.fuzz.fuzz_handover import HANDED
from tests.support.descriptors import fixed_id
from tests.support.entropy import fixed_entropy
from tests.support.groups import GROUP

MALLORY = fixed_id("mallory")


class Sent(list):
    """Stands for the switch."""

    def send_group_message(self, peer, message):
        self.append((peer, message))
        return True

    async def link_to(self, _peer):
        await trio.lowlevel.checkpoint()


class NoHost:
    """Nobody is a member. checked: what was told that a signature was checked for."""

    def __init__(self):
        self.checked = []

    def wait_told(self, peer, told):
        self.checked.append((peer, told))

    def is_member(self, _peer, _group):
        return False


def parts(hand, count):
    return [PromptPart(GROUP, hand, number == count - 1, bytes(100)) for number in range(count)]


async def test_a_refused_prompt_is_refused_once_whatever_parts_of_it_still_come():
    await trio.lowlevel.checkpoint()
    sent = Sent()
    hands = Hands(sent, NoHost(), fixed_entropy("hands"))
    for part in parts(b"one hand", 4):
        hands.receive(MALLORY, part)
    assert sent == [(MALLORY, HandEnded(b"one hand"))]
    for part in parts(b"another ", 2):
        hands.receive(MALLORY, part)
    assert sent == [(MALLORY, HandEnded(b"one hand")), (MALLORY, HandEnded(b"another "))]
    assert hands.counters["refused"] == 2


ALICE, FLOOD = fixed_id("alice"), 1000


@pytest.fixture
def host():
    return NoHost()


@pytest.fixture
def sent():
    return Sent()


@pytest.fixture
def hands(sent, host):
    return Hands(sent, host, fixed_entropy("hands"))


def told(hand, group=GROUP):
    return WaitTold(group, hand, b"a signed load", 3)


async def until_sent(sent, kind):
    with trio.fail_after(1):
        while not sent or not isinstance(sent[-1][1], kind):
            await trio.lowlevel.checkpoint()
    return sent[-1][1].hand


async def test_a_question_is_answered_once_by_the_member_that_was_asked(sent, host, hands, autojump_clock):
    async def answer():
        hand = await until_sent(sent, WaitAsked)
        for number in range(FLOOD):
            hands.receive(ALICE, told(hand))  # she was not asked
            hands.receive(MALLORY, told(number.to_bytes(8, "big")))
        hands.receive(MALLORY, told(hand, GroupId(b"another group...")))
        assert host.checked == []
        for _ in range(FLOOD):
            hands.receive(MALLORY, told(hand))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        found = await hands.ask([MALLORY], GROUP, (), timeout_s=1.0)
    assert found == host.checked
    assert [member for member, _ in found] == [MALLORY]
    assert hands.counters["told_uncalled_for"] == 3 * FLOOD


async def test_an_answer_that_comes_too_late_is_not_looked_at(sent, host, hands, autojump_clock):
    assert await hands.ask([MALLORY], GROUP, (), timeout_s=0.3) == []
    hands.receive(MALLORY, told(sent[-1][1].hand))
    assert host.checked == []


async def test_with_a_prompts_answer_a_load_is_looked_at_twice_and_no_more(host, hands):
    async with hands.deliver(MALLORY, b"one hand", GROUP, HANDED, 8):
        for _ in range(FLOOD):
            hands.receive(MALLORY, told(b"one hand"))
            hands.receive(ALICE, told(b"one hand"))
        assert len(host.checked) == 2
    hands.receive(MALLORY, told(b"one hand"))
    assert len(host.checked) == 2
