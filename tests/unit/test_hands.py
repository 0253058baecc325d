"""Prompts between members: a refusal is said once, however much of the prompt was on its way already."""

import trio

from node.serving.hands import Hands
from overlay.wire.handover import HandEnded, PromptPart
from tests.support.descriptors import fixed_id
from tests.support.entropy import fixed_entropy
from tests.support.groups import GROUP

MALLORY = fixed_id("mallory")


class Sent(list):
    """Stands for the switch."""

    def send_group_message(self, peer, message):
        self.append((peer, message))
        return True


class NoHost:
    """Nobody is a member."""

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
