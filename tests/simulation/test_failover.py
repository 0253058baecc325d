"""A model node fails in the middle of its answer, and another goes on: no token is lost, none comes twice."""

import pytest
import trio
import trio.lowlevel

from node.engine.errors import EngineCrashedError
from node.serving.answer_writer import AnswerWriter
from overlay.errors import AnswerError
from overlay.protocol import answer_sender
from overlay.wire.answer import (
    AnswerAccepted,
    AnswerFinished,
    CheckpointIssued,
    ReceiptIssued,
    TokensGenerated,
)
from overlay.wire.checkpoint import OutputHash, decode_checkpoint
from tests.support.network import a_prompt, answer_to, network
from tests.support.scripted_engine import ScriptedEngine
from verify.receipt import decode_receipt


def failing_at(number, fail):
    engine = ScriptedEngine()

    async def at_token(at):
        if at == number:
            await fail()

    engine.at_token = at_token
    return engine


async def crash():
    raise EngineCrashedError("it was killed")


def assert_whole(told, prompt, given):
    assert told.text == answer_to(prompt)
    assert told.tokens == told.finished.completion_tokens == prompt.sampler.max_tokens
    receipt = decode_receipt(told.receipt).check()
    assert receipt.given == given
    assert receipt.output_ids == tuple(range(prompt.sampler.max_tokens))


@pytest.mark.parametrize("cut_at", [0, 1, 40, 59])
async def test_an_answer_cut_after_some_of_its_tokens_is_whole_all_the_same(autojump_clock, cut_at):
    engines = [failing_at(cut_at, crash), failing_at(cut_at, crash), ScriptedEngine()]
    async with network(engines=engines) as net:
        prompt = a_prompt(tokens=60)
        told = await net.ask(prompt)
        assert_whole(told, prompt, given=cut_at if len(told.attempts) > 1 and cut_at else 0)


async def test_a_model_node_that_falls_silent_after_some_tokens_is_given_up_after_ten_seconds(autojump_clock):
    engines = [failing_at(20, trio.sleep_forever), ScriptedEngine()]
    async with network(engines=engines) as net:
        await only_the_first_at_first(net)
        prompt = a_prompt(tokens=60)
        started = trio.current_time()
        told = await net.ask(prompt)
        assert_whole(told, prompt, given=20)
        assert engines[1].given == [20]
        assert trio.current_time() - started < 60 * 0.03 + 10 + 3
        assert engines[0].generating == 0  # it was told that nobody listens


async def test_a_malformed_event_in_the_middle_of_an_answer_costs_no_token(autojump_clock, monkeypatch):
    engines = [ScriptedEngine(), ScriptedEngine()]
    async with network(engines=engines) as net:
        await only_the_first_at_first(net)
        good, events = answer_sender.frame_event, []

        def malformed_once(event):
            events.extend([event] if isinstance(event, TokensGenerated) else [])
            return b"\0\0\0\2\xff\xff" if len(events) == 29 else good(event)

        monkeypatch.setattr(answer_sender, "frame_event", malformed_once)
        prompt = a_prompt(tokens=60)
        told = await net.ask(prompt)
        assert_whole(told, prompt, given=28)
        assert [attempt.error and attempt.error.code for attempt in told.attempts] == [
            "answer_malformed",
            None,
        ]


async def only_the_first_at_first(net):
    """Open circuits to m0: it is asked first, since nobody has to wait for it."""
    await net.circuits("m0")


@pytest.mark.parametrize("tokens", [1, 17, 50])
async def test_a_model_node_that_dies_is_noticed_at_once(autojump_clock, tokens):
    async with network(models=2) as net:
        await only_the_first_at_first(net)
        killed_at = []

        def kill(told):
            if told.tokens >= tokens and not killed_at:
                killed_at.append(trio.current_time())
                return net.kill(net["m0"].node_id)
            return None

        prompt = a_prompt(tokens=60)
        told = await net.ask(prompt, during=kill)
        assert_whole(told, prompt, given=decode_receipt(told.receipt).check().given)
        assert told.attempts[0].error.code == "model_node_lost"
        assert trio.current_time() - killed_at[0] < (60 - tokens) * 0.03 + 3.0


async def test_two_nodes_that_die_one_after_the_other_cost_no_token(autojump_clock):
    async with network(models=3) as net:

        def kill(told):
            answering = net.now_answering
            if told.tokens in (15, 35) and answering is not None:
                return net.kill(answering)
            return None

        prompt = a_prompt(tokens=60)
        told = await net.ask(prompt, during=kill)
        assert_whole(told, prompt, given=decode_receipt(told.receipt).check().given)
        assert len(told.attempts) == 3


async def test_an_answer_that_nobody_can_go_on_with_ends_with_the_first_error(autojump_clock):
    async with network(engines=[failing_at(20, crash)]) as net:
        with pytest.raises(AnswerError) as caught:
            await net.ask(a_prompt(tokens=60))
        assert caught.value.code == "engine_down"


async def test_nodes_that_fail_without_a_token_are_not_asked_for_ever(autojump_clock):
    engines = [failing_at(0, crash) for _ in range(6)]
    async with network(engines=engines) as net:
        with pytest.raises(AnswerError) as caught:
            await net.ask(a_prompt(tokens=60))
        assert caught.value.code == "engine_down"
        assert sum(len(engine.started) for engine in engines) <= 4 * 3  # attempts, and tries of each


async def test_a_node_that_fails_before_its_receipt_costs_the_receipt_of_another(autojump_clock, monkeypatch):
    engines = [ScriptedEngine(), ScriptedEngine()]
    async with network(engines=engines) as net:
        await only_the_first_at_first(net)
        sign, calls = AnswerWriter._sign, []

        def dies_the_first_time(self, *details):
            calls.append(details)
            if len(calls) == 1:
                raise EngineCrashedError("it was killed")
            return sign(self, *details)

        monkeypatch.setattr(AnswerWriter, "_sign", dies_the_first_time)
        prompt = a_prompt(tokens=20)
        async with net.client.complete(prompt) as completion:
            events = [event async for event in completion]
        assert sum(isinstance(event, AnswerFinished) for event in events) == 1
        assert sum(isinstance(event, AnswerAccepted) for event in events) == 1
        assert "".join(event.text for event in events if isinstance(event, TokensGenerated)) == answer_to(
            prompt
        )
        (issued,) = [event for event in events if isinstance(event, ReceiptIssued)]
        assert decode_receipt(issued.receipt).check().given == 20


async def asked_in_parts(net, prompt, during):
    """The events of an answer, and what is kept of its earlier parts. during: awaited after each token."""
    events = []
    async with net.client.complete(prompt) as completion:
        async for event in completion:
            events.append(event)
            tokens = sum(isinstance(each, TokensGenerated) for each in events)
            if isinstance(event, TokensGenerated):
                await during(tokens)
    assert "".join(event.text for event in events if isinstance(event, TokensGenerated)) == answer_to(prompt)
    return events, completion


async def test_a_node_that_is_killed_has_signed_all_but_its_last_tokens(autojump_clock):
    async with network(models=2) as net:
        await only_the_first_at_first(net)

        async def kill(tokens):
            if tokens == 40:
                await net.kill(net["m0"].node_id)

        _, completion = await asked_in_parts(net, a_prompt(tokens=60), kill)
        (part,) = completion.parts
        assert part.until == completion.given >= 40
        assert (part.entry, part.signed.signer) == (net["m0"].node_id,) * 2
        assert part.until - 10 <= part.signed.count <= part.until  # eight tokens take a quarter of a second
        found = decode_checkpoint(part.signed.checkpoint).check()
        assert found.output_hash == OutputHash(range(part.signed.count)).digest()
        assert part.blinding == completion.attempts[0].request.message.blinding
        assert completion.attempts[0].request.message.blinding != completion.current.request.message.blinding


async def test_a_node_that_signs_what_it_did_not_send_is_given_up(autojump_clock, monkeypatch):
    engines = [ScriptedEngine(), ScriptedEngine()]
    async with network(engines=engines) as net:
        await only_the_first_at_first(net)
        good, signed = AnswerWriter._sign_so_far, []

        def falsely_once(self, task, trace, output):
            signed.append(output)
            return good(self, task, trace, OutputHash([7] * output.count) if len(signed) == 3 else output)

        async def no_more(_tokens):
            await trio.lowlevel.checkpoint()

        monkeypatch.setattr(AnswerWriter, "_sign_so_far", falsely_once)
        events, completion = await asked_in_parts(net, a_prompt(tokens=60), no_more)
        assert [attempt.error and attempt.error.code for attempt in completion.attempts] == [
            "answer_malformed",
            None,
        ]
        (part,) = completion.parts
        assert part.signed.count < part.until  # by the one before
        assert sum(isinstance(event, CheckpointIssued) for event in events) >= 4
        await trio.sleep(1.0)
        assert engines[0].generating == 0  # it was told that nobody listens
