"""The real engine with the real model: answers, batches, replays, cancels, damage."""

import os
import shutil
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from crypto.seeded import prompt_hash
from node.engine.block_manager import scope_of
from node.engine.errors import EngineBusyError, ModelDamagedError, PromptRefusedError, PromptTooLongError
from node.engine.events import GenerationFinished, PromptPrefilled, TokensDecoded
from node.engine.models import ModelStore
from node.engine.prompt_meter import PromptMeter
from node.engine.pull import pull
from node.engine.settings import EngineSettings
from node.engine.sources import parse_source
from node.engine.supervisor import Engine
from overlay.wire.prompt import ChatMessage, Prompt, SamplerSpec
from verify.fingerprint import distance

pytestmark = [pytest.mark.integration, pytest.mark.slow]

NONCE = bytes(range(32))
KEY = bytes(range(16))
PUBLIC = scope_of("public", b"")
WORDS = ("cats", "rain", "iron", "bread")
LONG_TIME_S = 240


@pytest.fixture(scope="module")
def model():
    folder = os.environ.get("CLOVE_MODELS") or Path(__file__).parents[2] / ".models"
    return pull(ModelStore(Path(folder)), parse_source("smollm2-135m"))


@asynccontextmanager
async def running(model, **settings):
    engine = Engine([model.folder], EngineSettings(**settings))
    async with trio.open_nursery() as nursery:
        with trio.fail_after(LONG_TIME_S):
            await nursery.start(engine.serve)
            yield engine
        nursery.cancel_scope.cancel()


def ask(question, nonce=NONCE, **terms):
    return Prompt(
        model="smollm2-135m",
        messages=(ChatMessage("user", question),),
        sampler=SamplerSpec(**{"max_tokens": 16, **terms}),
        nonce=nonce,
    )


async def answer(engine, prompt, given=()):
    """Prefill, ids, text, end of one answer, from behind the tokens given."""
    ids, text, first, last = [], "", None, None
    async with engine.generate(prompt, given_ids=given) as events:
        async for event in events:
            match event:
                case PromptPrefilled():
                    first = event
                case TokensDecoded():
                    assert len(event.ids) == len(event.logprobs) == len(event.fingerprints)
                    ids += event.ids
                    text += event.text
                case GenerationFinished():
                    last = event
    return first, tuple(ids), text, last


async def test_answers_are_the_nonces_and_do_not_depend_on_the_company(model):
    async with running(model) as engine:
        (card,) = engine.cards
        assert (card.alias, card.model_id) == ("smollm2-135m", model.model_id)
        alone = [await answer(engine, ask(f"Tell me about {word}.")) for word in WORDS]
        together = [None] * len(WORDS)

        async def one(index, word):
            together[index] = await answer(engine, ask(f"Tell me about {word}."))

        async with trio.open_nursery() as nursery:
            for index, word in enumerate(WORDS):
                nursery.start_soon(one, index, word)
        assert [ids for _, ids, _, _ in together] == [ids for _, ids, _, _ in alone]
        _, other, _, _ = await answer(engine, ask(f"Tell me about {WORDS[0]}.", nonce=bytes(32)))
        assert other != alone[0][1]

        prefilled, ids, text, finished = alone[0]
        assert prefilled.prompt_hash == prompt_hash(prefilled.prompt_ids)
        assert prefilled.prompt_tokens == len(prefilled.prompt_ids) == finished.prompt_tokens
        assert finished.reason == "length"
        assert finished.completion_tokens == len(ids) == 16
        assert len(text) > 16


async def test_a_replay_bears_out_an_honest_answer_and_no_other(model):
    prompt = ask("Why is the sky blue?", max_tokens=24)
    async with running(model) as engine:
        marks = []
        async with engine.generate(prompt) as events:
            decoded = [event async for event in events if isinstance(event, TokensDecoded)]
        marks = [mark for event in decoded for mark in event.fingerprints]
        ids = tuple(token for event in decoded for token in event.ids)
        logprobs = [logprob for event in decoded for logprob in event.logprobs]

        honest = await engine.replay(prompt, ids)
        assert max(honest.margins) < 1e-3
        assert honest.reference_ids == ids
        assert honest.text == "".join(event.text for event in decoded)
        assert honest.ending == "length"
        assert max(abs(a - b) for a, b in zip(honest.logprobs, logprobs, strict=True)) < 0.02
        assert max(map(distance, marks, honest.fingerprints)) < 0.02

        for lie in (
            replace(prompt, nonce=bytes(32)),
            replace(prompt, sampler=replace(prompt.sampler, temperature=0.3)),
            ask("Why is the sky green?", max_tokens=24),
        ):
            wrong = await engine.replay(lie, ids)
            assert sum(margin > 0.01 for margin in wrong.margins) >= 3
        changed = (*ids[:10], (ids[10] + 1) % 49152, *ids[11:])
        assert (await engine.replay(prompt, changed)).margins[10] > 0.01
        assert (await engine.replay(prompt, ids[:-1])).ending == "early"
        assert (await engine.replay(prompt, (*ids, 5))).ending == "overrun"
        with pytest.raises(PromptRefusedError, match="empty"):
            await engine.replay(prompt, ())
        with pytest.raises(PromptRefusedError, match="doesn't have"):
            await engine.replay(prompt, (49152,))


async def test_greedy_answers_are_those_of_transformers(model):
    import torch
    from transformers import AutoModelForCausalLM

    prompt = ask("What is the capital of France? Explain in detail.", temperature=0.0, max_tokens=48)
    async with running(model, weights="fp32") as engine:
        prefilled, ids, _, _ = await answer(engine, prompt)
    reference = AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float32)
    inputs = torch.tensor([prefilled.prompt_ids])
    expected = reference.generate(
        inputs, attention_mask=torch.ones_like(inputs), do_sample=False, max_new_tokens=48
    )
    assert tuple(expected[0, inputs.shape[1] :].tolist()) == ids


async def test_answers_end_at_a_stop_string_at_an_end_token_or_at_their_length(model):
    counting = ask("Count from 1 to 20.", temperature=0.0, max_tokens=60)
    async with running(model) as engine:
        _, _, whole, _ = await answer(engine, counting)
        stopping = replace(counting, sampler=replace(counting.sampler, stop=("5", "never")))
        _, ids, text, finished = await answer(engine, stopping)
        assert finished.reason == "stop"
        assert text == whole.split("5")[0]
        replay = await engine.replay(stopping, ids)
        assert (replay.ending, replay.text) == ("stop", text)

        short = ask("Say yes.", temperature=0.0, max_tokens=200)
        _, ids, text, finished = await answer(engine, short)
        assert finished.reason == "stop"
        assert ids[-1] == 2  # <|im_end|>
        assert "<|im_end|>" not in text
        assert (await engine.replay(short, ids)).ending == "eos"


async def test_an_answer_has_the_tokens_asked_for_at_least(model):
    short = ask("What is the capital of France?", temperature=0.0, max_tokens=30)
    async with running(model) as engine:
        _, ids, text, _ = await answer(engine, short)
        assert len(ids) < 16
        patient = replace(short, sampler=replace(short.sampler, min_tokens=16, stop=(text[:3],)))
        _, ids, text, _ = await answer(engine, patient)
        assert len(ids) > 16
        assert 2 not in ids[:16]  # <|im_end|>
        assert text.startswith(patient.sampler.stop)  # said before a stop string could end it
        replay = await engine.replay(patient, ids)
        assert (set(replay.margins), replay.text) == ({0.0}, text)
        assert replay.ending in {"eos", "stop", "length"}
        assert max((await engine.replay(short, ids)).margins) > 0.1
        early = await engine.replay(patient, (*ids[:3], 2))
        assert early.ending == "early"
        assert early.margins[3] > 1e30


async def test_log_probabilities_are_told_where_asked_and_are_the_receipts(model):
    prompt = ask("Why is the sky blue?", max_tokens=12, logprobs=4)
    async with running(model) as engine, engine.generate(prompt) as events:
        decoded = [event async for event in events if isinstance(event, TokensDecoded)]
    assert len(decoded) == 12
    for event in decoded:
        (told,) = event.told
        assert told.taken.logprob == event.logprobs[0]
        assert len(told.likeliest) == 4
        assert [each.logprob for each in told.likeliest] == sorted(
            (each.logprob for each in told.likeliest), reverse=True
        )
        assert told.taken.logprob <= told.likeliest[0].logprob
    spelt = b"".join(event.told[0].taken.token for event in decoded)
    assert spelt.decode("utf-8", "replace").startswith(
        "".join(event.text for event in decoded).rstrip("\ufffd")
    )


async def test_leaving_an_answer_makes_room_at_once(model):
    async with running(model, max_batch=1, max_queue=0) as engine:
        for _ in range(3):
            async with engine.generate(ask("Tell me a long story.", max_tokens=2000)) as events:
                async for event in events:
                    if isinstance(event, TokensDecoded):
                        break
        _, ids, _, _ = await answer(engine, ask("Hello.", max_tokens=3))
        assert len(ids) == 3


async def test_prompts_that_do_not_fit_say_so_and_hurt_nobody(model):
    async with running(model, context_tokens=128) as engine:
        with pytest.raises(PromptTooLongError) as refused:
            await answer(engine, ask("word " * 500))
        assert refused.value.prompt_tokens > 500
        assert refused.value.limit == 127
        with pytest.raises(PromptRefusedError, match="empty"):
            await answer(engine, replace(ask(""), messages=(), text=""))
        with pytest.raises(PromptRefusedError, match="names token 49152; this model's tokens are 0 to 49151"):
            await answer(engine, ask("Hello.", logit_bias=((49152, 1.0),)))
        prefilled, ids, _, finished = await answer(engine, ask("Tell me a story.", max_tokens=5000))
        assert finished.completion_tokens == len(ids)
        if finished.reason == "length":
            assert prefilled.prompt_tokens + len(ids) == 128


async def test_a_long_prompt_read_in_chunks_replays_like_any_other(model):
    prompt = ask("The quick brown fox jumps over the lazy dog. " * 80, max_tokens=8)
    async with running(model) as engine:
        prefilled, ids, _, _ = await answer(engine, prompt)
        assert prefilled.prompt_tokens > 600
        assert max((await engine.replay(prompt, ids)).margins) < 1e-3


@pytest.mark.parametrize(
    ("file", "size", "problem"),
    [
        ("config.json", None, "is missing"),
        ("model.safetensors", 8, "has 8 bytes"),
        ("model.safetensors", 538_090_408, "can't be read"),
    ],
)
async def test_a_damaged_model_is_named_at_the_start(model, tmp_path, file, size, problem):
    folder = tmp_path / model.alias
    shutil.copytree(model.folder, folder, copy_function=os.link)
    (folder / file).unlink()
    if size is not None:
        (folder / file).touch()
        os.truncate(folder / file, size)
    message = rf"model smollm2-135m: {file} {problem}.*clove models pull smollm2-135m"
    with trio.fail_after(LONG_TIME_S), pytest.raises(ModelDamagedError, match=message):
        await Engine([folder]).serve()


@pytest.mark.parametrize(
    "terms",
    [
        {"max_tokens": 40},
        {"max_tokens": 40, "temperature": 0.0, "repetition_penalty": 1.2, "frequency_penalty": 0.5},
        {"max_tokens": 60, "stop": ("the",), "min_tokens": 20},
    ],
)
async def test_an_answer_that_another_node_began_goes_on_with_the_same_tokens_and_text(model, terms):
    prompt = ask("Why is the sky blue?", **terms)
    async with running(model) as engine:
        _, ids, text, finished = await answer(engine, prompt)
        texts = await texts_by_token(engine, prompt)
        assert "".join(texts) == text
        for given in (1, 2, len(ids) // 2, len(ids) - 1, len(ids)):
            prefilled, rest, rest_text, end = await answer(engine, prompt, tuple(ids[:given]))
            assert rest == ids[given:]
            assert "".join(texts[:given]) + rest_text == text
            assert (end.reason, end.completion_tokens) == (finished.reason, len(ids))
            assert prefilled.prompt_tokens == end.prompt_tokens == finished.prompt_tokens
            assert end.cached_tokens <= end.prompt_tokens


async def texts_by_token(engine, prompt):
    async with engine.generate(prompt) as events:
        return [event.text async for event in events if isinstance(event, TokensDecoded)]


@pytest.mark.parametrize("given", [(49152,), (2, 5)])  # no token of the model; one after its end
async def test_an_answer_that_can_not_be_gone_on_with_is_refused(model, given):
    async with running(model) as engine:
        with pytest.raises(PromptRefusedError, match="has ended already, or is not of this model"):
            await answer(engine, ask("Why is the sky blue?"), given)
        await answer(engine, ask("Why is the sky blue?"))


async def test_public_blocks_are_told_and_those_of_sessions_are_not(model):
    question = ask("Tell me, in one sentence, what a lighthouse keeper does in the evening.", max_tokens=2)
    async with running(model) as engine:

        async def answer_for(cache):
            async with engine.generate(question, cache=cache, session=b"alice") as events:
                (prefilled, *_) = [event async for event in events]
            return prefilled.prompt_tokens

        with engine.cache.opened(engine.cards[0].model_id, KEY) as feed:
            assert (await feed.receive()).begins
            await answer_for("session")
            tokens = await answer_for("public")
            told = await feed.receive()
    assert (told.begins, told.evicted) == (False, ())
    assert len(told.stored) == tokens // 16


async def test_a_worker_s_names_are_those_that_the_daemon_finds_for_the_same_prompt(model):
    """They are different processes, and the worker's own key is none that the daemon knows."""
    meter = PromptMeter(model.folder)
    text = "Why is the sky blue? Antworte auf Deutsch, \u2603 bitte. " * 20
    chat = ask(text, max_tokens=20)
    plain = replace(ask("", max_tokens=1), messages=(), text=text)

    async def names_told(feed, chain):
        """Those of a chain, in the order in which they are told; others, of answers, are left out."""
        names = []
        while len(names) < len(chain):
            names += [name for name in (await feed.receive()).stored if name in chain]
        return tuple(names)

    async with running(model) as engine:
        with engine.cache.opened(engine.cards[0].model_id, KEY) as feed:
            assert (await feed.receive()).begins
            for prompt in (chat, plain):
                measured = await meter.measure(prompt, key=KEY, scope=PUBLIC)
                assert len(measured.chain) == (measured.tokens - 1) // 16
                for cached in (0, 16 * len(measured.chain)):
                    async with engine.generate(prompt, cache="public") as events:
                        (prefilled, *_) = [event async for event in events]
                    assert (prefilled.prompt_tokens, prefilled.cached_tokens) == (measured.tokens, cached)
                assert await names_told(feed, measured.chain) == measured.chain


async def test_a_node_that_is_busy_refuses_a_long_prompt_and_says_how_busy_it_is(model):
    def prompt(words, **terms):
        return ask(" ".join(f"{WORDS[number % 4]} {number}" for number in range(words)), **terms)

    async with running(model, max_wait_s=0.2) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(
            answer, engine, prompt(1000, max_tokens=100)
        )  # an idle node takes it, however long
        while not any(load.reading for load in engine.gate.loads):  # noqa: ASYNC110 - loads are looked at, not awaited
            await trio.sleep(0.01)
        with pytest.raises(EngineBusyError, match="first token") as refused:
            await answer(engine, prompt(900))
        assert refused.value.retry_after_s >= 1
        (load,) = engine.gate.loads
        assert load.queued_tokens > 0
        assert load.wait_s > 0
        assert 0 < load.prefill_token_s < 1
        assert sum(engine.gate.refusals.values()) == 1
        nursery.cancel_scope.cancel()
