"""What lying members cost everybody, in seconds, beside a group without them; and clocks that differ."""

from dataclasses import dataclass, field

import pytest
import trio
from structlog.testing import capture_logs

from node.keys import EPOCH_S, epoch_at
from node.serving.patience import PATIENCE_RATIO, PATIENCE_S
from overlay.wire.handover import HandEnded, PromptPart, WaitTold
from tests.support.group_engine import GroupEngine
from tests.support.liars import LIES
from tests.support.members import (
    GOSSIP_S,
    Meddler,
    author_of,
    group_network,
    group_of,
    public_chain,
    until,
    until_told,
)
from tests.support.network import UNIX_TIME, a_prompt, answer_to

LIAR = "m2"
HONEST_S, LIAR_S = 2.0, 8.0
"""What an honest member takes before its first token, as it tells; what the liar truly takes."""
WORDS = " ".join(f"word{number}" for number in range(2047))
PROMPTS = 12
SETTLED = PROMPTS // 2
"""After so many prompts the liar is known."""
LOST_AT_MOST_S = PATIENCE_S + PATIENCE_RATIO * (HONEST_S + 0.2)
"""What a prompt may lose to one member: it is given to whom promises less than the honest ones, some margin added."""


@dataclass
class Waits:
    """What the prompts of one run met."""

    first_s: list[float] = field(default_factory=list)
    by_liar: int = 0
    handed_to_liar: int = 0
    named: list[str] = field(default_factory=list)

    def mean_s(self, since: int = 0) -> float:
        return sum(self.first_s[since:]) / len(self.first_s[since:])


def a_long_prompt(number):
    """No two begin alike."""
    return a_prompt(f"{number} {WORDS}", tokens=3)


def an_honest_engine():
    return GroupEngine(first_s=HONEST_S)


async def ask_timed(net, number, waits):
    """Ask one prompt and note how long its first token took."""
    prompt, asked_at, first_at = a_long_prompt(number), trio.current_time(), []
    told = await net.ask(prompt, cache="public", during=lambda _: first_at.append(trio.current_time()))
    assert told.text == answer_to(prompt)
    assert len(told.attempts) == 1  # the client hears of no liar
    waits.first_s.append(first_at[0] - asked_at)
    if LIAR in net.nodes:
        waits.by_liar += author_of(told) == net[LIAR].node_id


async def waits_of(lie, ask_all) -> Waits:
    """A run of prompts at a group of two honest members, with a third one that lies, or without."""
    engines = [an_honest_engine(), an_honest_engine()]
    if lie is not None:
        engines.append(GroupEngine(first_s=LIAR_S))
    waits = Waits()
    async with group_network(*engines) as net:
        if lie is not None:
            await lie(net[LIAR], engines[2], [a_long_prompt(number) for number in range(PROMPTS)])
            await until_told(net, by=LIAR)
            await trio.sleep(GOSSIP_S)
        with capture_logs() as logs:
            await ask_all(net, waits)
        if lie is not None:
            waits.handed_to_liar = len(engines[2].started)
        waits.named = [log["member"] for log in logs if log["log_level"] == "warning" and "member" in log]
        if waits.named:
            assert set(waits.named) == {net[LIAR].node_id.hex()[:16]}
    return waits


async def one_by_one(net, waits):
    for number in range(PROMPTS):
        await ask_timed(net, number, waits)


async def all_at_once(net, waits):
    """Half of them in one moment, before anybody can know better; then the other half."""
    for numbers in (range(SETTLED), range(SETTLED, PROMPTS)):
        async with trio.open_nursery() as nursery:
            for number in numbers:
                nursery.start_soon(ask_timed, net, number, waits)


@pytest.mark.parametrize("ask_all", [one_by_one, all_at_once])
async def test_once_a_liar_is_known_prompts_wait_as_if_it_were_not_there(autojump_clock, ask_all):
    without = await waits_of(None, ask_all)
    assert without.mean_s() < HONEST_S + 0.5
    for lie in LIES:
        with_liar = await waits_of(lie, ask_all)
        assert with_liar.mean_s(SETTLED) < 1.1 * without.mean_s(SETTLED), lie
        assert max(with_liar.first_s) < max(without.first_s) + LOST_AT_MOST_S, lie
        assert 1 <= with_liar.handed_to_liar <= (2 if ask_all is one_by_one else SETTLED), lie
        assert with_liar.by_liar == 0, lie
        assert len(with_liar.named) == 1, lie


async def test_a_member_that_says_taken_and_does_nothing_is_waited_for_no_longer(autojump_clock):
    engines = [GroupEngine(), GroupEngine()]
    engines[0].gate.set(queued_tokens=20_000)
    async with group_network(*engines) as net:
        liar = net["m1"]

        def take(peer, message):
            if isinstance(message, PromptPart) and message.is_last:
                blob = group_of(liar).tell_load()
                liar.switch.send_group_message(peer, WaitTold(message.group, message.hand, blob, 0))
            return isinstance(message, PromptPart)

        ear = Meddler(liar, take)
        prompt, started = a_prompt(), trio.current_time()
        told = await net.ask(prompt)
        assert told.text == answer_to(prompt)
        assert author_of(told) == net["m0"].node_id
        assert len(told.attempts) == 1
        assert trio.current_time() - started < PATIENCE_S + 0.5 + 40 * 0.03 + 1.0
        assert sum(isinstance(message, HandEnded) for message in ear.seen) == 1
        assert group_of(net["m0"]).promises.late_s(liar.node_id, trio.current_time()) > 0.0


APART = [
    {},
    {"m0": -135.0, "m1": 160.0},
    {"m1": 295.0},
    {"m1": -295.0},
    {"m0": 200.0, "c": -95.0},
    {"r0": 290.0, "r1": 150.0},
]
"""By how much nodes' clocks are ahead: up to the five minutes that may lie between any two."""


@pytest.mark.parametrize("skews", APART)
async def test_clocks_that_differ_by_minutes_change_nothing(autojump_clock, skews):
    engines = [GroupEngine(), GroupEngine(), GroupEngine()]
    for engine in engines[::2]:
        engine.gate.set(queued_tokens=20_000)
    async with group_network(*engines, skews=skews) as net:
        apart_s = net["m1"].unix_time() - net["m0"].unix_time()
        assert apart_s == pytest.approx(skews.get("m1", 0.0) - skews.get("m0", 0.0))
        ahead_s = net["c"].links.clock_ahead_s()  # of most of its neighbours
        assert ahead_s == pytest.approx(skews.get("c", 0.0), abs=1.0)
        prompt, started = a_prompt(), trio.current_time()
        told = await net.ask(prompt)
        assert told.text == answer_to(prompt)
        assert author_of(told) == net["m1"].node_id
        assert trio.current_time() - started < 40 * 0.03 + 1.0
        machine = group_of(net["m0"]).machine
        await until(lambda: machine.load_of(net["m1"].node_id).received_at > trio.current_time() - 0.5)
        chain = await public_chain(net["m1"], prompt)
        assert chain == await public_chain(net["m0"], prompt)


@pytest.mark.parametrize("skews", [{"m0": -135.0, "m1": 160.0}, {"m0": 160.0, "c": -135.0}])
async def test_a_day_that_ends_changes_nothing_by_whichever_clock(autojump_clock, skews):
    """Keys turn at midnight, which comes to one node after the other; what was cached stays known, and prompts open."""
    names = ["c", *(f"m{number}" for number in range(3)), *(f"r{number}" for number in range(16))]
    before_midnight_s = EPOCH_S - UNIX_TIME % EPOCH_S - 180.0
    skews = {name: before_midnight_s + skews.get(name, 0.0) for name in names}
    engines = [GroupEngine(), GroupEngine(), GroupEngine()]
    prompt = a_prompt(WORDS)
    async with group_network(*engines, skews=skews) as net:
        m1 = net["m1"]
        days = {epoch_at(net[name].unix_time()) for name in net.nodes}
        assert len(days) == 1
        engines[1].cache.tell(await public_chain(m1, prompt))
        await trio.sleep(GOSSIP_S)
        for _ in range(5):
            told = await net.ask(prompt, cache="public")
            assert told.text == answer_to(prompt)
            assert author_of(told) == m1.node_id
            await trio.sleep(65.0)
        assert {epoch_at(net[name].unix_time()) - 1 for name in net.nodes} == days
