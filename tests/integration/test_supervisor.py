"""The daemon's side of the engine, against a worker process that fails on demand."""

import os
import signal
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
import trio
import trio.testing

from node.engine.errors import (
    EngineBusyError,
    EngineCrashedError,
    ModelDamagedError,
    PromptTooLongError,
    UnknownModelError,
)
from node.engine.events import GenerationFinished, TokensDecoded
from node.engine.settings import EngineSettings
from node.engine.supervisor import Engine
from overlay.wire.prompt import Prompt, SamplerSpec

pytestmark = pytest.mark.integration

SETTINGS = EngineSettings(max_batch=2, max_queue=1, stuck_after_s=0.5, start_timeout_s=20)


def make_engine(how="ok", settings=SETTINGS):
    return Engine((), settings, command=(sys.executable, "-m", "tests.support.scripted_worker", how))


@asynccontextmanager
async def running(how="ok", settings=SETTINGS):
    engine = make_engine(how, settings)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(30):
            await nursery.start(engine.serve)
            yield engine
        nursery.cancel_scope.cancel()


def ask(text, **terms):
    return replace(
        Prompt(model="scripted", text=text, sampler=SamplerSpec(max_tokens=90), nonce=bytes(32)), **terms
    )


async def answer(engine, text):
    async with engine.generate(ask(text)) as events:
        return [event async for event in events]


async def test_an_answer_is_its_tokens_and_an_end():
    async with running() as engine:
        events = await answer(engine, "say 3")
    assert [event.text for event in events[1:-1]] == ["0 ", "1 ", "2 "]
    assert isinstance(events[-1], GenerationFinished)
    assert engine.active_requests == 0


async def test_answers_at_once_do_not_mix():
    async with running() as engine:
        got = {}

        async def one(count):
            got[count] = await answer(engine, f"say {count}")

        async with trio.open_nursery() as nursery:
            for count in (2, 3):
                nursery.start_soon(one, count)
        assert {count: len(events) for count, events in got.items()} == {2: 4, 3: 5}


async def test_leaving_early_cancels_at_the_worker():
    async with running() as engine:
        async with engine.generate(ask("forever")) as events:
            async for event in events:
                if isinstance(event, TokensDecoded) and event.ids == (5,):
                    break
        assert engine.active_requests == 0
        (_, token, _) = await answer(engine, "last")
        assert token.ids == (1,)


async def test_over_the_bound_is_refused_with_a_time_and_a_place_that_is_left_is_free():
    async with running() as engine, trio.open_nursery() as nursery:

        async def hold(*, task_status):
            async with engine.generate(ask("forever")):
                with trio.CancelScope() as scope:
                    task_status.started(scope)
                    await trio.sleep_forever()

        holding = [await nursery.start(hold) for _ in range(3)]
        with pytest.raises(EngineBusyError) as refused:
            await answer(engine, "say 1")
        assert refused.value.retry_after_s >= 1
        holding[0].cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert len(await answer(engine, "say 1")) == 3
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def busy_for(engine, seconds):
    """The worker has said that a first token takes so long."""
    async with engine.generate(ask(f"busy {seconds}")) as events:
        async for event in events:
            if isinstance(event, TokensDecoded):
                break
        yield


async def test_a_wait_over_the_bound_is_refused_at_once_with_the_time_until_it_is_within():
    async with running(settings=replace(SETTINGS, max_wait_s=30.0)) as engine, busy_for(engine, 300):
        with pytest.raises(EngineBusyError, match="first token") as refused:
            await answer(engine, "say 1")
        assert 260 < refused.value.retry_after_s <= 270
        assert engine.active_requests == 1
        assert engine.gate.refusals == {"queue": 0, "wait": 1}


async def test_an_idle_engine_does_not_refuse_by_what_it_said_when_it_was_busy():
    async with running(settings=replace(SETTINGS, max_wait_s=30.0)) as engine:
        async with busy_for(engine, 300):
            pass
        assert len(await answer(engine, "say 1")) == 3


async def test_a_new_worker_is_not_held_to_what_the_old_one_said():
    async def be_killed(engine):
        async with engine.generate(ask("busy 300")) as events:
            async for event in events:
                if isinstance(event, TokensDecoded) and event.ids == (3,):
                    os.kill(engine.worker_pid, signal.SIGKILL)

    async with running(settings=replace(SETTINGS, max_wait_s=30.0)) as engine:
        with pytest.raises(EngineCrashedError):
            await be_killed(engine)
        await engine.wait_ready()
        assert engine.gate.loads == ()
        assert len(await answer(engine, "say 1")) == 3


async def test_a_prompt_that_the_worker_refuses_for_its_wait_is_an_error_with_the_same_figures():
    async with running() as engine:
        with pytest.raises(EngineBusyError) as refused:
            await answer(engine, "late")
        assert (refused.value.retry_after_s, refused.value.wait_s) == (4.0, 34.0)
        assert engine.gate.refusals["wait"] == 1
        assert engine.active_requests == 0


async def test_an_unknown_model_is_refused():
    async with running() as engine:
        with pytest.raises(UnknownModelError, match="gpt-9"):
            async with engine.generate(ask("say 1", model="gpt-9")):
                pass


async def test_a_refusal_comes_with_its_figures():
    async with running() as engine:
        with pytest.raises(PromptTooLongError) as refused:
            await answer(engine, "refuse")
        assert (refused.value.prompt_tokens, refused.value.limit) == (200, 99)
        assert len(await answer(engine, "say 1")) == 3


async def test_a_replay_gives_figures_for_each_token():
    async with running() as engine:
        replay = await engine.replay(ask("say 3"), [7, 8, 9])
        assert replay.reference_ids == (7, 8, 9)
        assert engine.active_requests == 0


async def test_a_crash_fails_what_it_held_and_the_next_worker_answers():
    async with running() as engine:
        first = engine.worker_pid
        with pytest.raises(EngineCrashedError, match=r"ended with 3 \(the script says so\)"):
            await answer(engine, "crash")
        assert engine.active_requests == 0
        with pytest.raises(EngineCrashedError):
            await answer(engine, "say 1")
        await engine.wait_ready()
        assert engine.worker_pid != first
        assert len(await answer(engine, "say 1")) == 3
        assert engine.restarts == 1


async def test_a_worker_killed_mid_answer_fails_that_answer_and_a_replay():
    async with running() as engine:
        failures = []

        async def fail(work):
            try:
                await work()
            except EngineCrashedError as error:
                failures.append(error)

        async def stream():
            async with engine.generate(ask("forever")) as events:
                async for event in events:
                    if isinstance(event, TokensDecoded) and event.ids == (3,):
                        os.kill(engine.worker_pid, signal.SIGKILL)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, stream)
            nursery.start_soon(fail, lambda: answer(engine, "hang"))
        assert len(failures) == 2


async def test_a_stuck_worker_is_killed_and_replaced():
    async with running() as engine:
        with pytest.raises(EngineCrashedError, match="no sign of life"):
            await answer(engine, "hang")
        await engine.wait_ready()
        assert len(await answer(engine, "say 1")) == 3


async def test_a_stuck_worker_is_found_though_nobody_waits_for_long():
    async with running() as engine:
        first = engine.worker_pid
        with trio.move_on_after(0.1):
            await answer(engine, "hang")
        while engine.is_ready:
            with trio.move_on_after(0.1), suppress(EngineCrashedError):
                await answer(engine, "say 1")
        await engine.wait_ready()
        assert engine.worker_pid != first


async def test_a_worker_that_grows_without_end_is_killed_with_its_figures_and_replaced():
    settings = replace(SETTINGS, cache_bytes=16 << 20, slack_bytes=64 << 20)
    async with running(settings=settings) as engine:
        first = engine.worker_pid
        assert len(await answer(engine, "grow 32")) == 3
        await memory_of(engine, 32 << 20)
        assert engine.worker_pid == first

        async def grow_until_it_goes():
            await answer(engine, "grow 200")
            await answer(engine, "hang")

        with pytest.raises(EngineCrashedError, match=r"memory grew to \d+ MiB.*memory_slack_mb is 64"):
            await grow_until_it_goes()
        await engine.wait_ready()
        assert engine.worker_pid != first
        assert len(await answer(engine, "grow 32")) == 3


async def memory_of(engine, least):
    """Wait until the worker is seen to have so many bytes of its own."""
    while (seen := engine.worker_memory) is None or seen.own < least:  # noqa: ASYNC110 - the watch tells nobody
        await trio.sleep(0.01)
    assert seen.mapped > 0


async def test_an_idle_worker_is_left_alone():
    async with running(settings=replace(SETTINGS, stuck_after_s=0.1)) as engine:
        first = engine.worker_pid
        with trio.move_on_after(0.05):
            await answer(engine, "forever")
        await trio.sleep(0.5)
        assert len(await answer(engine, "say 1")) == 3
        assert engine.worker_pid == first


async def test_a_model_that_cannot_be_loaded_is_the_starter_s_error():
    with pytest.raises(ModelDamagedError, match="clove models pull scripted"):
        await make_engine("refuse").serve()


@pytest.mark.parametrize(
    ("how", "timeout_s", "message"),
    [("die", 20, "no model today"), ("garbage", 20, "garbage"), ("hang", 1, "no sign of life for 1 s")],
)
async def test_a_worker_that_does_not_start_says_why(how, timeout_s, message):
    with trio.fail_after(30), pytest.raises(EngineCrashedError, match=message):
        await make_engine(how, replace(SETTINGS, start_timeout_s=timeout_s)).serve()


async def test_a_restart_that_fails_is_tried_again(tmp_path):
    marker = tmp_path / "may-start"
    marker.touch()
    async with running(f"once={marker}") as engine:
        with pytest.raises(EngineCrashedError):
            await answer(engine, "crash")
        while engine.restarts < 2:  # noqa: ASYNC110 - nothing is told about a start that failed
            await trio.sleep(0.01)
        with pytest.raises(EngineCrashedError, match="no model today"):
            await answer(engine, "say 1")
        marker.touch()
        await engine.wait_ready()
        assert len(await answer(engine, "say 1")) == 3


async def test_the_worker_ends_with_the_engine():
    async with running() as engine:
        pid = engine.worker_pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_worker_that_the_system_will_not_start_now_is_started_later():
    async with running() as engine:
        command, engine._command = engine._command, ("/nowhere/python",)
        os.kill(engine.worker_pid, signal.SIGKILL)
        while "could not be started" not in engine._down_because:  # noqa: ASYNC110 - a process tells nobody
            await trio.sleep(0.05)
        with pytest.raises(EngineCrashedError, match="could not be started"):
            await answer(engine, "say 3")
        engine._command = command
        await engine.wait_ready()
        assert len(await answer(engine, "say 3")) == 5


async def test_a_worker_that_can_not_be_started_at_all_is_said():
    with pytest.raises(EngineCrashedError, match="could not be started"):
        await Engine((), SETTINGS, command=("/nowhere/python",)).serve()
