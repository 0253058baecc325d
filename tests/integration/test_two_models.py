"""Two models in one worker, one of them an adapter on the other: who says what, and who waits for whom."""

import os
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from node.engine.errors import ModelError, UnknownModelError
from node.engine.events import GenerationFinished, PromptPrefilled, TokensDecoded
from node.engine.models import ModelStore
from node.engine.pull import Wanted, pull
from node.engine.settings import EngineSettings
from node.engine.sources import LocalSource, parse_source
from node.engine.supervisor import Engine
from overlay.wire.prompt import ChatMessage, Prompt, SamplerSpec

pytestmark = [pytest.mark.integration, pytest.mark.slow]

BASE, ADAPTER = "smollm2-135m", "my-adapter"
LONG_TIME_S = 240


@pytest.fixture(scope="module")
def real_adapter():
    """Imported late: peft and transformers take seconds."""
    from tests.support import real_adapter

    return real_adapter


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of its own, into which the stored base is linked."""
    shared = Path(os.environ.get("CLOVE_MODELS") or Path(__file__).parents[2] / ".models")
    base = pull(ModelStore(shared), parse_source(BASE))
    store = ModelStore(tmp_path_factory.mktemp("models"))
    (store.folder / BASE).mkdir()
    for file in base.folder.iterdir():
        (store.folder / BASE / file.name).symlink_to(file)
    return store


@pytest.fixture(scope="module")
def adapter_folder(store, real_adapter, tmp_path_factory):
    return real_adapter.make_adapter(store.find(BASE).folder, tmp_path_factory.mktemp("trained") / ADAPTER)


@pytest.fixture(scope="module")
def folders(store, adapter_folder):
    adapter = pull(store, Wanted(source=LocalSource(adapter_folder), base=BASE))
    return [store.find(BASE).folder, adapter.folder]


@asynccontextmanager
async def running(folders, **settings):
    engine = Engine(folders, EngineSettings(**settings))
    async with trio.open_nursery() as nursery:
        with trio.fail_after(LONG_TIME_S):
            await nursery.start(engine.serve)
            yield engine
        nursery.cancel_scope.cancel()


def ask(model, question="Why is the sky blue?", **terms):
    sampler = SamplerSpec(**{"max_tokens": 24, "temperature": 0.0, **terms})
    messages = (ChatMessage("user", question),)
    return Prompt(model=model, messages=messages, sampler=sampler, nonce=bytes(32))


async def answer(engine, prompt, on_token=lambda: None):
    """What was told first, and the ids."""
    first, ids = None, []
    async with engine.generate(prompt, session=b"one") as events:
        async for event in events:
            if isinstance(event, PromptPrefilled):
                first = event
            elif isinstance(event, TokensDecoded):
                ids += event.ids
                on_token()
    return first, tuple(ids)


async def test_an_adapter_says_what_peft_says_and_its_base_what_it_always_said(
    store, folders, adapter_folder, real_adapter
):
    async with running(folders, weights="fp32") as engine:
        assert {card.alias for card in engine.cards} == {BASE, ADAPTER}
        assert len({card.numerics_class for card in engine.cards}) == 1
        prefilled, adapted = await answer(engine, ask(ADAPTER))
        _, plain = await answer(engine, ask(BASE))
        again, _ = await answer(engine, ask(ADAPTER))
    async with running(folders[:1], weights="fp32") as engine:
        _, alone = await answer(engine, ask(BASE))
    expected = real_adapter.greedy_with_adapter(folders[0], adapter_folder, prefilled.prompt_ids, 24)
    assert expected == (adapted, adapted)
    assert plain == alone != adapted
    assert prefilled.cached_tokens == 0 < again.cached_tokens  # the base's cache is not the adapter's


async def test_a_replay_bears_out_an_adapter_s_answer_and_its_base_s_does_not(folders):
    async with running(folders) as engine:
        sampled = ask(ADAPTER, temperature=0.8)
        _, ids = await answer(engine, sampled)
        honest = await engine.replay(sampled, ids)
        assert honest.reference_ids == ids
        assert max(honest.margins) < 1e-3
        swapped = await engine.replay(ask(BASE, temperature=0.8), ids)
        assert sum(margin > 0.01 for margin in swapped.margins) >= 3


async def test_two_models_take_turns_and_neither_waits_for_the_other_s_end(folders):
    async with running(folders, max_batch=4) as engine:
        order = []

        async def one(name):
            await answer(engine, ask(name, "Tell me a long story."), on_token=lambda: order.append(name))

        async with trio.open_nursery() as nursery:
            for name in (BASE, ADAPTER):
                nursery.start_soon(one, name)
    middle = order[6:-6]
    assert middle.count(BASE) == pytest.approx(middle.count(ADAPTER), abs=3)
    runs = max(len(run) for run in "".join("b" if name == BASE else "a" for name in order[6:-6]).split("a"))
    assert runs <= 3


async def test_leaving_one_model_s_answer_leaves_the_other_s(folders):
    async with running(folders, max_batch=1, max_queue=1) as engine, trio.open_nursery() as nursery:
        got = []

        async def other():
            got.append(await answer(engine, ask(ADAPTER)))

        async with engine.generate(ask(BASE, max_tokens=2000)) as events:
            nursery.start_soon(other)
            seen = 0
            async for event in events:
                seen += isinstance(event, TokensDecoded)
                if seen == 4:
                    break
        _, ids = await answer(engine, ask(BASE, max_tokens=3))
        assert len(ids) == 3
        while not got:  # noqa: ASYNC110 - the nursery's end would not say that it came in time
            await trio.sleep(0.01)
        assert len(got[0][1]) == 24
        with pytest.raises(UnknownModelError, match=ADAPTER):
            await answer(engine, ask("a-third"))


async def test_two_models_share_the_node_s_cache(folders):
    shared = 16 << 20
    async with running(folders[:1], cache_bytes=shared) as engine:
        (alone,) = engine.cards
    async with running(folders, cache_bytes=shared) as engine:
        assert {card.context_tokens for card in engine.cards} == {alone.context_tokens // 32 * 16}
    with trio.fail_after(LONG_TIME_S), pytest.raises(ModelError, match=r"set engine\.cache_mb to 12 or more"):
        await Engine(folders, EngineSettings(cache_bytes=10 << 20)).serve()


async def test_an_answer_ends_whichever_model_gave_it(folders):
    async with running(folders) as engine:
        for name in (BASE, ADAPTER):
            async with engine.generate(ask(name, max_tokens=5)) as events:
                told = [event async for event in events]
            assert isinstance(told[-1], GenerationFinished)
            assert engine.active_requests == 0
