"""A prompt goes out and its answer comes back, or a clear error does, and nothing of it stays behind."""

from dataclasses import replace

import pytest
import trio

from overlay.errors import AnswerError, NoRouteError
from tests.support.network import LATENCY_S, a_prompt, answer_to, network
from tests.support.scripted_engine import ScriptedEngine


async def test_a_prompt_is_answered(autojump_clock):
    async with network() as net:
        prompt = a_prompt()
        told = await net.ask(prompt)
        assert told.text == answer_to(prompt)
        assert told.finished is not None
        assert told.receipt is not None
        assert told.answering.paths_replaced == 0
        relays = [relay for path in told.answering.paths_used for relay in path]
        assert len(set(relays)) == 12


async def test_a_prompt_of_many_cells_is_answered(autojump_clock):
    async with network() as net:
        prompt = a_prompt("A long story. " * 7000)
        told = await net.ask(prompt)
        assert told.text == answer_to(prompt)


async def test_eight_prompts_at_once_are_answered(autojump_clock):
    async with network(models=2) as net:
        prompts = [a_prompt(f"Question {number}") for number in range(8)]
        answers = {}

        async def ask(prompt):
            answers[prompt.text] = (await net.ask(prompt)).text

        async with trio.open_nursery() as nursery:
            for prompt in prompts:
                nursery.start_soon(ask, prompt)
        assert answers == {prompt.text: answer_to(prompt) for prompt in prompts}


async def test_the_directory_reaches_every_node(autojump_clock):
    async with network(relays=14, models=2) as net:
        assert all(len(node.switch.directory.relays()) == 14 for node in net.nodes.values())
        assert all(len(node.switch.directory.serving("scripted")) == 2 for node in net.nodes.values())
        late = await net.add("late", relays=True)
        await net.until_known(timeout_s=10.0)
        assert net["c"].switch.directory.find(late.node_id) is not None


async def test_too_few_relays_are_counted_in_the_error(autojump_clock):
    async with network(relays=7) as net:
        with pytest.raises(NoRouteError, match=r"needs 12 relays .* knows 7"):
            await net.ask(a_prompt())


async def test_an_unknown_model_is_an_error_at_once(autojump_clock):
    async with network() as net:
        started = trio.current_time()
        with pytest.raises(AnswerError, match="models served now: scripted") as caught:
            await net.ask(replace(a_prompt(), model="gpt-9"))
        assert caught.value.code == "model_not_found"
        assert trio.current_time() == started


async def test_a_busy_engine_says_when_to_ask_again(autojump_clock):
    async with network(engines=[ScriptedEngine(slots=0)]) as net:
        with pytest.raises(AnswerError) as caught:
            await net.ask(a_prompt())
        assert caught.value.code == "busy"
        assert caught.value.retry_after_s == 2.0


async def test_a_node_that_serves_nothing_after_all_is_an_error_at_once(autojump_clock):
    async with network() as net:
        await net.circuits()
        net["m0"].switch.model = None
        started = trio.current_time()
        with pytest.raises(AnswerError) as caught:
            await net.ask(a_prompt())
        assert caught.value.code == "model_node_unreachable"
        assert trio.current_time() - started < 1.0


async def test_an_answer_that_is_cut_short_is_an_error(autojump_clock):
    async with network(engines=[ScriptedEngine(longest_token=100_000)]) as net:
        with pytest.raises(AnswerError) as caught:
            await net.ask(a_prompt())
        assert caught.value.code == "answer_cut_short"


async def test_leaving_an_answer_frees_the_engine_within_a_second(autojump_clock):
    async with network() as net:
        engine = net["m0"].engine
        async with net.client.complete(a_prompt(tokens=2000)) as answering:
            async for _ in answering:
                if engine.generating:
                    break
        await trio.sleep(1.0)
        assert engine.generating == 0
        assert engine.finished == 0
        assert net["m0"].models.running == 0


async def test_leaving_before_the_prompt_has_arrived_frees_the_engine_too(autojump_clock):
    async with network() as net:
        await net.circuits()
        with trio.move_on_after(1.6 * LATENCY_S):
            await net.ask(a_prompt(tokens=2000))
        await trio.sleep(1.0)
        assert net["m0"].engine.generating == 0
        assert net["m0"].models.running == 0


async def test_nothing_of_an_answer_stays_behind(autojump_clock):
    async with network() as net:
        for number in range(3):
            await net.ask(a_prompt(f"Question {number}"))
        await trio.sleep(30.0)  # the model node lingers for repairs
        for circuit in await net.circuits():
            assert not circuit.subscribers
        assert not net.circuit_set().watchers
        kinds = {type(machine).__name__ for machine in net["c"].switch.deadlines.machines}
        assert kinds == {"MembershipMachine", "CircuitMachine"}
        kinds = {type(machine).__name__ for machine in net["m0"].switch.deadlines.machines}
        assert kinds == {"MembershipMachine", "Intake"}
        assert not net["m0"].models._answers
