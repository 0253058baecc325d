"""Relays and model nodes are killed while an answer runs: no token is lost, or an error says so soon."""

import pytest
import trio

from overlay.errors import AnswerError
from tests.support.network import LATENCY_S, a_prompt, answer_to, network

GUARD, MIDDLE, PROXY = 0, 1, 2


def after(tokens, act):
    """Does something once, when so many tokens have come."""
    done = False

    def during(told):
        nonlocal done
        if told.tokens >= tokens and not done:
            done = True
            return act(told)
        return None

    return during


@pytest.mark.parametrize("place", [GUARD, MIDDLE, PROXY])
async def test_a_lost_relay_loses_no_token(autojump_clock, place):
    async with network() as net:
        prompt = a_prompt()
        kill = after(10, lambda told: net.kill(told.answering.paths_used[1][place]))
        told = await net.ask(prompt, during=kill)
        assert told.text == answer_to(prompt)
        assert told.receipt is not None
        assert told.answering.paths_replaced == 1


@pytest.mark.parametrize("count", [2, 3])
async def test_several_paths_lost_at_once_lose_no_token(autojump_clock, count):
    async with network() as net:
        prompt = a_prompt(tokens=100)
        kill = after(10, lambda told: net.kill(*(path[MIDDLE] for path in told.answering.paths_used[:count])))
        told = await net.ask(prompt, during=kill)
        assert told.text == answer_to(prompt)
        assert told.answering.paths_replaced >= count


async def test_all_paths_lost_at_once_are_repaired(autojump_clock):
    async with network(relays=20) as net:
        prompt = a_prompt(tokens=100)
        kill = after(10, lambda told: net.kill(*(path[PROXY] for path in told.answering.paths_used)))
        told = await net.ask(prompt, during=kill)
        assert told.text == answer_to(prompt)
        assert told.answering.paths_replaced >= 4


async def test_paths_lost_one_after_the_other_lose_no_token(autojump_clock):
    async with network(relays=24) as net:
        prompt = a_prompt(tokens=200)
        places = iter([GUARD, MIDDLE, PROXY, MIDDLE, PROXY, GUARD])
        killed = []

        async def kill_another(told):
            if told.tokens % 25 == 0 and (place := next(places, None)) is not None:
                circuit = net.circuit_set().circuits[len(killed) % 4]
                killed.append(circuit.path.node_ids[place])
                await net.kill(killed[-1])

        told = await net.ask(prompt, during=kill_another)
        assert len(killed) == 6
        assert told.text == answer_to(prompt)


ON_THE_WAY_S = 1.6 * LATENCY_S
"""The cloves have left the guards and have not come to the middles."""


async def test_relays_lost_before_the_cloves_have_arrived_do_no_harm(autojump_clock):
    async with network() as net:
        circuits = await net.circuits()
        prompt = a_prompt("A long story. " * 2000)
        net.nursery.start_soon(
            net.kill_after, ON_THE_WAY_S, circuits[0].path.node_ids[MIDDLE], circuits[2].path.proxy
        )
        assert (await net.ask(prompt)).text == answer_to(prompt)


async def test_all_proxies_lost_before_the_cloves_have_arrived_do_no_harm(autojump_clock):
    async with network(relays=24) as net:
        circuits = await net.circuits()
        prompt = a_prompt("A long story. " * 2000)
        proxies = [circuit.path.proxy for circuit in circuits]
        net.nursery.start_soon(net.kill_after, ON_THE_WAY_S, *proxies)
        told = await net.ask(prompt)
        assert told.text == answer_to(prompt)
        assert told.answering.paths_replaced >= 4


async def test_a_model_node_lost_mid_answer_is_an_error_soon(autojump_clock):
    async with network() as net:
        prompt = a_prompt(tokens=2000)
        killed_at = []

        async def kill(_told):
            killed_at.append(trio.current_time())
            await net["m0"].kill()

        with pytest.raises(AnswerError) as caught:
            await net.ask(prompt, during=after(10, kill))
        assert caught.value.code == "model_node_lost"
        assert trio.current_time() - killed_at[0] < 1.0


async def test_a_model_node_that_is_gone_is_an_error_at_once(autojump_clock):
    async with network() as net:
        await net.circuits()
        await net["m0"].kill()
        started = trio.current_time()
        with pytest.raises(AnswerError) as caught:
            await net.ask(a_prompt())
        assert caught.value.code == "model_node_unreachable"
        assert trio.current_time() - started < 1.0


async def test_a_prompt_goes_to_another_model_node_when_its_own_is_gone(autojump_clock):
    async with network(models=2) as net:
        await net.circuits("m0")
        await net["m0"].kill()
        prompt = a_prompt("Again")
        assert (await net.ask(prompt)).text == answer_to(prompt)


async def test_after_a_model_node_died_mid_answer_the_next_prompt_avoids_it(autojump_clock):
    async with network(models=2) as net:
        await net.circuits("m0")

        async def kill(_told):
            await net["m0"].kill()

        begun = await net.ask(a_prompt(tokens=200), during=after(10, kill))
        assert [attempt.node_id for attempt in begun.attempts] == [net["m0"].node_id, net["m1"].node_id]
        prompt = a_prompt("Again")
        told = await net.ask(prompt)
        assert (told.text, len(told.attempts)) == (answer_to(prompt), 1)


async def test_a_client_that_dies_frees_the_engine(autojump_clock):
    async with network() as net:
        engine = net["m0"].engine

        async def ask():
            with pytest.raises(AnswerError):
                await net.ask(a_prompt(tokens=5000))

        net.nursery.start_soon(ask)
        await trio.sleep(3.0)
        assert engine.generating == 1
        await net["c"].kill()
        await trio.sleep(12.0)
        assert engine.generating == 0
        assert engine.finished == 0


async def test_relays_remember_nothing_of_lost_circuits(autojump_clock):
    async with network() as net:
        await net.ask(a_prompt())
        await net["c"].kill()
        await trio.sleep(1.0)
        for node in net.nodes.values():
            if node.relay is not None:
                assert node.relay.circuit_count == 0
                assert not node.relay._replies
                assert not node.relay._awaiting_link
