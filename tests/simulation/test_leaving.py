"""Nodes that leave in good order, and what is left behind when circuits and links end."""

from dataclasses import replace

import pytest
import trio

from overlay.errors import AnswerError
from overlay.protocol.circuit import CloseCause
from overlay.wire.limits import MAX_REPLIES_PER_CIRCUIT
from tests.support.network import POLICY, a_prompt, answer_to, network


async def test_a_model_node_that_leaves_finishes_its_answers_and_takes_no_more(autojump_clock):
    async with network() as net:
        first, second = a_prompt("First"), a_prompt("Second")
        models = net["m0"].models

        async def begin_to_leave(told):
            if told.tokens == 10:
                models.is_draining = True
                with pytest.raises(AnswerError) as caught:
                    await net.ask(second)
                assert caught.value.code == "draining"
                assert caught.value.retry_after_s is not None

        told = await net.ask(first, during=begin_to_leave)
        assert told.text == answer_to(first)
        await trio.sleep(1.0)
        assert models.running == 0


async def test_a_proxy_that_leaves_is_not_blamed_and_loses_no_token(autojump_clock):
    async with network() as net:
        circuit = (await net.circuits())[0]
        prompt = a_prompt()

        async def leave(told):
            if told.tokens == 10:
                net.named(circuit.path.proxy).switch.close_circuits()

        told = await net.ask(prompt, during=leave)
        assert told.text == answer_to(prompt)
        assert circuit.cause == CloseCause.PROXY_LEFT
        assert circuit.blamed == ()
        assert told.answering.paths_replaced == 1


async def test_a_client_that_leaves_ends_its_circuits(autojump_clock):
    async with network() as net:
        await net.circuits()
        net.client.pool.close()
        await trio.sleep(1.0)
        assert net["c"].switch.own_circuits == ()
        assert sum(node.relay.circuit_count for node in net.nodes.values() if node.relay) == 0


async def test_the_end_of_a_circuit_is_told_though_its_link_is_closing(autojump_clock):
    async with network() as net:
        circuit = (await net.circuits())[0]
        net["c"].links.get(circuit.path.guard).close("test")
        circuit.own.close()
        assert circuit.closed.is_set()
        assert len(await net.circuits()) == 4


async def test_an_unused_set_of_circuits_is_closed(autojump_clock):
    async with network(models=2) as net:
        await net.circuits("m0")
        await net.circuits("m1")
        await trio.sleep(200.0)
        assert [kept.destination for kept in net.client.pool.sets] == [net["m1"].node_id]
        assert len(net["c"].switch.own_circuits) == 4


async def test_circuits_are_renewed_at_the_end_of_their_lives(autojump_clock):
    async with network(relays=12, policy=replace(POLICY, lifetime_s=60)) as net:
        before = await net.circuits()
        await trio.sleep(70.0)
        after = await net.circuits()
        assert not set(before) & set(after)
        assert {circuit.cause for circuit in before} == {CloseCause.EXPIRED}
        assert net.client.pool.failed == 0
        prompt = a_prompt()
        assert (await net.ask(prompt)).text == answer_to(prompt)


async def test_reply_tokens_at_a_relay_are_bounded(autojump_clock):
    async with network(relays=12) as net:
        circuit = (await net.circuits())[0]
        for number in range(MAX_REPLIES_PER_CIRCUIT + 20):
            circuit.own.send_clove(net["m0"].node_id, number.to_bytes(8, "big"), bytes(200))
            await trio.sleep(0.05)
        relay = net.named(circuit.path.proxy).relay
        assert len(relay._replies) == MAX_REPLIES_PER_CIRCUIT
        circuit.own.close()
        await trio.sleep(0.05)
        assert not relay._replies
