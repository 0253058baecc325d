"""A prompt goes to the member of the group that answers it soonest, and nothing is lost where members fail."""

import pytest
import trio

from overlay.routing.promises import _Record
from overlay.wire.handover import PromptPart
from tests.support.group_engine import GroupEngine
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
from tests.support.network import a_prompt, answer_to
from tests.support.scripted_engine import CARD
from verify.receipt import decode_receipt

LONG = " ".join(f"word{number}" for number in range(4001))
BUSY = {"queued_tokens": 20_000}
"""Twenty seconds."""


def busy_engine():
    engine = GroupEngine()
    engine.gate.set(**BUSY)
    return engine


def assert_whole(told, prompt):
    assert told.text == answer_to(prompt)
    assert told.tokens == told.finished.completion_tokens == prompt.sampler.max_tokens
    assert decode_receipt(told.receipt).check().output_ids == tuple(range(prompt.sampler.max_tokens))


async def test_a_prompt_goes_to_the_idle_member_when_its_entry_is_loaded(autojump_clock):
    engines = [busy_engine(), busy_engine(), GroupEngine()]
    async with group_network(*engines) as net:
        prompt = a_prompt()
        told = await net.ask(prompt)
        assert_whole(told, prompt)
        assert author_of(told) == net["m2"].node_id
        assert [len(engine.started) for engine in engines] == [0, 0, 1]
        assert told.answering.node_id == net["m0"].node_id


async def test_a_prompt_stays_where_the_entry_is_as_idle_as_the_others(autojump_clock):
    engines = [GroupEngine(), GroupEngine()]
    async with group_network(*engines) as net:
        told = await net.ask(a_prompt())
        assert author_of(told) == net["m0"].node_id


async def test_a_prompt_that_may_not_be_handed_over_stays(autojump_clock):
    engines = [busy_engine(), GroupEngine()]
    async with group_network(*engines, forward="none") as net:
        told = await net.ask(a_prompt())
        assert author_of(told) == net["m0"].node_id
        assert [len(engine.started) for engine in engines] == [1, 0]


@pytest.mark.parametrize("is_loaded", [False, True])
async def test_a_public_prefix_draws_a_prompt_to_its_holder_unless_that_one_is_loaded(
    autojump_clock, is_loaded
):
    engines = [GroupEngine(), GroupEngine()]
    async with group_network(*engines) as net:
        prompt = a_prompt(LONG, tokens=5)
        engines[1].cache.tell(await public_chain(net["m1"], prompt))
        if is_loaded:
            engines[1].gate.set(**BUSY)
        await until_told(net, by="m1")
        await trio.sleep(GOSSIP_S)
        told = await net.ask(prompt, cache="public")
        assert_whole(told, prompt)
        assert author_of(told) == net["m0" if is_loaded else "m1"].node_id


async def test_a_member_that_dies_before_its_first_token_costs_a_moment(autojump_clock):
    engines = [busy_engine(), GroupEngine(first_s=1.0)]
    async with group_network(*engines) as net, trio.open_nursery() as nursery:
        prompt, started = a_prompt(), trio.current_time()

        async def kill_it() -> None:
            await until(lambda: engines[1].generating)
            await net.kill(net["m1"].node_id)

        nursery.start_soon(kill_it)
        told = await net.ask(prompt)
        assert_whole(told, prompt)
        assert author_of(told) == net["m0"].node_id
        assert len(told.attempts) == 1  # the client saw nothing of it
        assert trio.current_time() - started < 40 * 0.03 + 1.0


@pytest.mark.parametrize("tokens", [1, 20])
async def test_a_member_that_dies_in_its_answer_costs_no_token_and_its_entry_no_trust(autojump_clock, tokens):
    engines = [busy_engine(), GroupEngine()]
    async with group_network(*engines) as net:
        prompt, started = a_prompt(), trio.current_time()

        def kill_it(told):
            return net.kill(net["m1"].node_id) if told.tokens == tokens else None

        told = await net.ask(prompt, during=kill_it)
        assert_whole(told, prompt)
        assert [attempt.node_id for attempt in told.attempts] == [net["m0"].node_id] * 2
        assert told.attempts[0].error.code == "member_lost"
        assert engines[0].given[0] >= tokens
        assert author_of(told) == net["m0"].node_id
        assert trio.current_time() - started < 40 * 0.03 + 2.0
        again = await net.ask(a_prompt("And the sea?"))
        assert again.answering.node_id == net["m0"].node_id


async def test_a_member_whose_engine_fails_gives_way_to_another(autojump_clock):
    engines = [busy_engine(), GroupEngine(slots=0), GroupEngine(first_s=0.1)]
    engines[2].gate.set(queued_tokens=100)
    async with group_network(*engines) as net:
        prompt = a_prompt()
        told = await net.ask(prompt)
        assert_whole(told, prompt)
        assert author_of(told) == net["m2"].node_id


async def test_a_draining_member_is_passed_over(autojump_clock):
    engines = [busy_engine(), GroupEngine(), GroupEngine()]
    engines[2].gate.set(queued_tokens=500)
    async with group_network(*engines) as net:
        net["m1"].groups.is_draining = True
        prompt, started = a_prompt(), trio.current_time()
        told = await net.ask(prompt)
        assert_whole(told, prompt)
        assert author_of(told) == net["m2"].node_id
        assert engines[1].started == []
        assert trio.current_time() - started < 40 * 0.03 + 1.0
        groups, group, peer = net["m1"].groups, group_of(net["m1"]).id, net["m0"].node_id
        assert groups.tell_wait(peer, group, ()) is None  # it is not even asked in vain
        assert not groups.is_member(peer, group)


async def test_a_prompt_over_the_context_is_nobody_elses_business(autojump_clock):
    engines = [busy_engine(), GroupEngine()]
    async with group_network(*engines) as net:
        await net.ask(a_prompt(" ".join(f"word{number}" for number in range(CARD.context_tokens))))
        assert (
            len(engines[0].started) == 1
        )  # a real engine would refuse it here, and say by how much it is too long
        assert engines[1].started == []


async def test_when_the_client_leaves_the_members_engine_is_freed(autojump_clock):
    engines = [busy_engine(), GroupEngine()]
    async with group_network(*engines) as net:
        async with net.client.complete(a_prompt(tokens=1000)) as completion:
            await until(lambda: engines[1].generating)
            await anext(completion)
        await until(lambda: not engines[1].generating, 5.0)
        assert engines[1].finished == 0
        assert net["m1"].groups.hands.answering == 0


async def test_when_the_client_leaves_before_the_first_token_the_members_engine_is_freed(autojump_clock):
    engines = [busy_engine(), GroupEngine(first_s=3.0)]
    async with group_network(*engines) as net:
        # What is known of the member stays as it is: nobody knows how long the first token would have taken.
        late = group_of(net["m0"]).promises._records
        late[net["m1"].node_id] = _Record(1.0, trio.current_time())
        async with net.client.complete(a_prompt()):
            await until(lambda: engines[1].generating)
            await trio.sleep(2.5)
        await until(lambda: not engines[1].generating, 2.0)
        assert 0.9 < group_of(net["m0"]).promises.late_s(net["m1"].node_id, trio.current_time()) < 1.0


async def test_when_the_entry_dies_the_members_engine_is_freed(autojump_clock):
    engines = [busy_engine(), GroupEngine()]
    async with group_network(*engines) as net:
        prompt = a_prompt()

        def kill_it(told):
            return net.kill(net["m0"].node_id) if told.tokens == 10 else None

        told = await net.ask(prompt, during=kill_it)
        assert_whole(told, prompt)
        assert told.answering.node_id == net["m1"].node_id
        assert engines[1].generating == 0


async def test_a_prompt_is_handed_on_once_and_not_twice(autojump_clock):
    engines = [busy_engine(), GroupEngine(), GroupEngine()]
    engines[2].gate.set(queued_tokens=50)
    async with group_network(*engines) as net:
        # Others have been there first: each member is loaded by the time that the prompt comes.
        taps = [
            loads_when_a_prompt_comes(net, "m1", engines[1]),
            loads_when_a_prompt_comes(net, "m2", engines[2]),
        ]
        await until_told(net, by="m1")
        prompt = a_prompt()
        told = await net.ask(prompt)
        assert_whole(told, prompt)
        assert author_of(told) == net["m2"].node_id
        assert [sum(isinstance(each, PromptPart) for each in tap.seen) for tap in taps] == [1, 1]
        assert [len(engine.started) for engine in engines] == [0, 0, 1]


def loads_when_a_prompt_comes(net, name, engine):
    def load(_peer, message):
        if isinstance(message, PromptPart):
            engine.gate.set(**BUSY)

    return Meddler(net[name], load)


async def test_a_prompt_that_would_wait_too_long_everywhere_is_refused_with_when_to_come_again(
    autojump_clock,
):
    engines = [GroupEngine(), GroupEngine()]
    for engine in engines:
        engine.gate.set(queued_tokens=80_000)
    async with group_network(*engines) as net:
        with pytest.raises(Exception, match="to begin; ask again later") as caught:
            await net.ask(a_prompt())
        assert caught.value.code == "busy"
        assert [engine.started for engine in engines] == [[], []]
