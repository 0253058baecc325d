"""A request's tokens are its nonce's: whatever company it has, whatever is cached, whatever is thrown out meanwhile."""

import os
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from node.engine.block_manager import BLOCK_TOKENS
from node.engine.events import GenerationFinished, PromptPrefilled, Replay, TokensDecoded
from node.engine.model_engine import ModelEngine
from node.engine.model_runner import TransformersDecoder
from node.engine.models import ModelStore
from node.engine.pull import pull
from node.engine.quantise import quantise_rows
from node.engine.settings import EngineSettings
from node.engine.sources import parse_source
from overlay.wire.prompt import Prompt, SamplerSpec

pytestmark = [pytest.mark.integration, pytest.mark.slow]

NONCE = bytes(range(32))
PAGE = "In the year that the lighthouse was built, the harbour had nine boats and one crane. "
TOPICS = ("cats", "rain", "iron", "bread", "the sea", "the moon", "tea", "clocks")
PROMPTS = [f"{PAGE * (1 + 3 * index)}Now a page about {topic}:" for index, topic in enumerate(TOPICS)]
GREEDY_PROMPTS, GREEDY_TOKENS = 20, 128
PENALISED = {
    "min_tokens": 9,
    "repetition_penalty": 1.2,
    "presence_penalty": 0.4,
    "frequency_penalty": -0.3,
    "logit_bias": ((28, 3.5), (339, -100.0)),
    "logprobs": 3,
}
"""Every other prompt asks for all of these, so that rows with and without them share each step."""


@pytest.fixture(scope="module", params=["int8", pytest.param("fp32", marks=pytest.mark.soak)])
def weights(request):
    return request.param


@pytest.fixture(
    scope="module", params=["smollm2-135m", pytest.param("gemma3-270m", marks=pytest.mark.models)]
)
def folder(request):
    store = ModelStore(Path(os.environ.get("CLOVE_MODELS") or Path(__file__).parents[2] / ".models"))
    return pull(store, parse_source(request.param)).folder


@pytest.fixture(scope="module", autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


def start(folder, **settings):
    engine = ModelEngine(folder, EngineSettings(cache_key=bytes(16), **settings), "cpu", time.perf_counter)
    engine._tokenizer.end_ids = frozenset()  # every answer is as long as it may be
    return engine


@pytest.fixture(scope="module")
def engine(folder, weights):
    return start(folder, weights=weights)


def prompt_of(request, text, tokens=24):
    terms = PENALISED if request % 2 else {}
    return Prompt(model="any", text=text, sampler=SamplerSpec(max_tokens=tokens, **terms), nonce=NONCE)


def submit(engine, request, text, scope=None, tokens=24):
    engine.submit(request, prompt_of(request, text, tokens), cache_scope=scope)


def drain(engine):
    """Ids and cached tokens of each request."""
    ids, cached, ended = {}, {}, []
    while not engine.is_idle:
        for request, event in engine.step():
            match event:
                case PromptPrefilled():
                    cached[request] = event.cached_tokens
                case TokensDecoded():
                    ids.setdefault(request, []).extend(event.ids)
                case GenerationFinished():
                    ended.append(request)
    assert sorted(ended) == sorted(ids)
    return [ids[request] for request in sorted(ids)], [cached[request] for request in sorted(cached)]


@pytest.fixture(scope="module")
def alone(engine):
    """The tokens of each prompt when it is the only one."""
    found = []
    for request, text in enumerate(PROMPTS):
        submit(engine, request, text)
        found += drain(engine)[0]
    return found


def test_in_a_batch_of_eight(engine, alone):
    for request, text in enumerate(PROMPTS):
        submit(engine, request, text)
    together, cached = drain(engine)
    assert together == alone
    assert cached == [0] * 8


def test_after_a_hit_on_a_prefix(engine, alone):
    for request, text in enumerate(PROMPTS):
        submit(engine, request, text, b"first")
    fresh, _ = drain(engine)
    for request, text in enumerate(PROMPTS):
        submit(engine, request, text, b"first")
    again, cached = drain(engine)
    assert fresh == again == alone
    assert all(hit >= BLOCK_TOKENS for hit in cached)


def test_penalties_and_biases_change_the_answer(engine, alone):
    for request, text in enumerate(PROMPTS):
        submit(engine, 2 * request, text)
    plain, _ = drain(engine)
    assert [one == other for one, other in zip(plain, alone, strict=True)] == [True, False] * 4


def test_a_replay_of_each_takes_the_very_same_tokens(engine, alone):
    for request, text in enumerate(PROMPTS):
        engine.submit(request, prompt_of(request, text), tuple(alone[request]))
    replays = {}
    while not engine.is_idle:
        replays |= {request: event for request, event in engine.step() if isinstance(event, Replay)}
    for request, ids in enumerate(alone):
        assert set(replays[request].margins) == {0.0}
        assert list(replays[request].reference_ids) == ids


def test_layers_as_transformers_runs_them_give_the_same_tokens(folder, engine, alone, weights):
    """What other devices than CPUs run, here on the CPU: chunks, shared beginnings and single rows without a kernel."""
    if weights == "int8":
        pytest.skip("its layers are ours alone")
    other = start(folder, weights=weights)
    other._runner._decoder = TransformersDecoder(other._runner._decoder._model, torch.device("cpu"))
    for request, text in enumerate(PROMPTS):
        submit(other, request, text, b"first")
    fresh, _ = drain(other)
    for request, text in enumerate(PROMPTS):
        submit(other, request, text, b"first")
    again, cached = drain(other)
    assert fresh == again == alone
    assert all(hit >= BLOCK_TOKENS for hit in cached)


def test_while_all_share_one_long_prefix(engine):
    shared = PAGE * 12
    for request, topic in enumerate(TOPICS):
        submit(engine, request, shared + topic)
    apart, _ = drain(engine)
    for request, topic in enumerate(TOPICS):
        submit(engine, request, shared + topic, b"second")
    together, cached = drain(engine)
    assert together == apart
    assert cached[0] == 0
    assert min(cached[1:]) >= 12 * BLOCK_TOKENS


def test_after_being_thrown_out_for_want_of_blocks(folder, engine, weights):
    texts, tokens = PROMPTS[:2], 80
    for request, text in enumerate(texts):
        submit(engine, request, text, tokens=tokens)
    undisturbed, _ = drain(engine)
    blocks = (
        max(len(engine._tokenizer.encode(_as_prompt(text))) + tokens for text in texts) // BLOCK_TOKENS + 1
    )
    cache_bytes = blocks * BLOCK_TOKENS * engine._runner.cache_bytes_per_token
    small = start(folder, cache_bytes=cache_bytes, weights=weights)
    for scope in (None, b"third"):
        before = small._scheduler.preemptions
        for request, text in enumerate(texts):
            submit(small, request, text, scope, tokens=tokens)
        found, _ = drain(small)
        assert small._scheduler.preemptions > before
        assert found == undisturbed
        assert small._blocks.available == blocks


def test_a_replay_that_is_thrown_out_begins_anew(engine, alone):
    engine.submit(0, _as_prompt(PROMPTS[2]))
    engine.step()  # so that the replay is read in small parts beside it
    engine.submit(1, prompt_of(1, PROMPTS[1]), tuple(alone[1]))
    found = []
    while 1 not in engine._scores:
        found += engine.step()
    engine._scheduler._preempt(engine._scheduler._running[-1])
    while not any(isinstance(event, Replay) for _, event in found):
        found += engine.step()
    engine.cancel(0)
    (replay,) = [event for _, event in found if isinstance(event, Replay)]
    assert max(replay.margins) < 1e-3
    assert len(replay.margins) == len(alone[1])


def _as_prompt(text):
    return Prompt(model="any", text=text, sampler=SamplerSpec(), nonce=NONCE)


def reference_model(folder, weights):
    """Transformers' own model; for int8 with the values that the integers and their scales stand for."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if weights == "int8":
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                integers, scales = quantise_rows(module.weight.detach().numpy())
                # A parameter of its own: the embedding, which may be the same one, stays as it was.
                module.weight = torch.nn.Parameter(torch.from_numpy(integers * scales[:, None]))
    return model


def test_greedy_answers_are_those_of_transformers(folder, engine, weights):
    """Every token is the most likely one by transformers' own forward pass: what its greedy generate gives."""
    questions = [f"{topic} and {other}: {PAGE}" for topic in TOPICS for other in TOPICS[:3]][:GREEDY_PROMPTS]
    greedy = SamplerSpec(max_tokens=GREEDY_TOKENS, temperature=0.0)
    for request, text in enumerate(questions):
        engine.submit(request, Prompt(model="any", text=text, sampler=greedy, nonce=NONCE))
    answers, _ = drain(engine)
    reference = reference_model(folder, weights)
    for text, ids in zip(questions, answers, strict=True):
        prompt = engine._tokenizer.encode(_as_prompt(text))
        logits = reference(torch.tensor([[*prompt, *ids[:-1]]])).logits[0, len(prompt) - 1 :]
        assert logits.argmax(dim=-1).tolist() == ids
