"""A model node's service: what neighbours say of paths reaches the answer that goes over them, and no other."""

import trio

from overlay.protocol.answer_sender import AnswerSender
from tests.support.network import a_prompt, answer_to, network


async def test_a_refusal_costs_only_the_answer_that_it_is_about(autojump_clock, monkeypatch):
    refused = []
    monkeypatch.setattr(AnswerSender, "path_refused", lambda _sender, token, _now: refused.append(token))
    async with network() as net:
        models = net["m0"].models

        async def refuse(told):
            if told.tokens == 10:
                path = told.answering.request.message.paths[0]
                models.answer_refused(path.proxy, path.token)
                models.answer_refused(path.proxy, bytes(16))

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(lambda number=number: net.ask(a_prompt(f"{number}"), during=refuse))
        assert len(refused) == 3
        await trio.sleep(60.0)
        assert models._by_token == {}


async def test_a_path_that_was_put_in_is_known_by_its_token(autojump_clock):
    async with network() as net:
        circuits, models, prompt = await net.circuits(), net["m0"].models, a_prompt()

        async def replace_one(told):
            if told.tokens == 10:
                circuits[0].own.close()
            if told.tokens == 30:
                (answer,) = models._answers.values()
                assert told.answering.paths_replaced == 1
                assert set(answer.tokens) == {path.token for path in told.answering.request._paths}
                assert set(models._by_token) == set(answer.tokens)

        assert (await net.ask(prompt, during=replace_one)).text == answer_to(prompt)
