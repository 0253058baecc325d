"""Prompts that go to one member in the same moment: what they lose where it lies, and where it is merely slow."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
import trio

from node.serving.forwarder import MAX_TRIES
from node.serving.patience import DOUBT_S, PATIENCE_S
from overlay.routing.promises import honest_s
from overlay.wire.handover import PromptPart, WaitTold
from tests.support.group_engine import GroupEngine
from tests.support.liars import LIES, claim_absurd_speed
from tests.support.members import GOSSIP_S, Meddler, author_of, group_network, group_of, until_told
from tests.support.network import a_prompt, answer_to
from tests.support.queueing_engine import QueueingEngine

BURST = 6
LIAR = "m2"
WORDS = " ".join(f"word{number}" for number in range(2047))
"""Two seconds for an honest member, which reads one prompt after the other."""


@dataclass
class Burst:
    """first_s: until each first token; by: who answered how many; handed_over: by the entry node, in all."""

    first_s: list[float] = field(default_factory=list)
    by: Counter = field(default_factory=Counter)
    handed_over: int = 0

    @property
    def mean_s(self):
        return sum(self.first_s) / len(self.first_s)


def long_prompt(number):
    """No two begin alike."""
    return a_prompt(f"{number} {WORDS}", tokens=3)


async def a_burst(net):
    found = Burst()

    async def ask(number):
        prompt, asked_at, first_at = long_prompt(number), trio.current_time(), []
        told = await net.ask(prompt, cache="public", during=lambda _: first_at.append(trio.current_time()))
        assert told.text == answer_to(prompt)
        assert len(told.attempts) == 1
        found.first_s.append(first_at[0] - asked_at)
        found.by[net.name_of(author_of(told))] += 1

    async with trio.open_nursery() as nursery:
        for number in range(BURST):
            nursery.start_soon(ask, number)
    found.handed_over = net["m0"].groups.hands.counters["handed_over"]
    return found


async def say_taken_and_do_nothing(node, engine, prompts):
    await claim_absurd_speed(node, engine, prompts)

    def take(peer, message):
        if isinstance(message, PromptPart) and message.is_last:
            blob = group_of(node).tell_load()
            node.switch.send_group_message(peer, WaitTold(message.group, message.hand, blob, 0))
        return isinstance(message, PromptPart)

    Meddler(node, take)


@pytest.mark.parametrize("lie", [*LIES, say_taken_and_do_nothing])
async def test_of_a_burst_at_a_liar_one_prompt_waits_its_patience_and_the_others_a_second(
    autojump_clock, lie
):
    async with group_network(QueueingEngine(), QueueingEngine()) as net:
        without = await a_burst(net)
    engines = [QueueingEngine(), QueueingEngine(), GroupEngine(first_s=8.0)]
    async with group_network(*engines) as net:
        await lie(net[LIAR], engines[2], [long_prompt(number) for number in range(BURST)])
        await until_told(net, by=LIAR)
        await trio.sleep(GOSSIP_S)
        with_liar = await a_burst(net)
    assert with_liar.by[LIAR] == 0
    assert with_liar.handed_over > BURST  # they were all there
    given_up_after_s = honest_s(0.2) + DOUBT_S
    assert with_liar.mean_s < without.mean_s + given_up_after_s + PATIENCE_S / BURST
    assert max(with_liar.first_s) < max(without.first_s) + given_up_after_s + 0.5


@pytest.mark.parametrize("slowness", [2.0, 8.0])
async def test_a_burst_at_a_slow_honest_member_makes_no_stampede(autojump_clock, slowness):
    engines = [QueueingEngine(), QueueingEngine(), QueueingEngine(slowness=slowness)]
    async with group_network(*engines) as net:
        found = await a_burst(net)
        assert sum(found.by.values()) == BURST
        assert (
            found.handed_over <= BURST < MAX_TRIES * BURST
        )  # who is late is left once, for where there is room
        started = sum(len(engine.started) for engine in engines)
        assert BURST <= started <= BURST + 4  # little is begun in vain
        assert (
            max(found.first_s) < 18.0
        )  # two prompts that wait out their patience one after the other take 21 s
