"""The `clove` command as a person or a script sees it: run as a process, against a real API with a small daemon."""

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node.api.ports import KeptAnswer, Readiness
from node.engine.events import EngineLoad
from node.home import DaemonInfo, Home
from node.testbed_record import NetworkRecord, NodeEntry, write_record
from overlay.errors import NoRouteError
from overlay.wire.answer import AnswerAccepted, AnswerFailed, TokensGenerated
from overlay.wire.prompt import ModelId
from tests.support.api import ADMIN_TOKEN, served
from tests.support.service import ACCOUNT, NODE, FakeService

ROOT = Path(__file__).parents[2]


def clove(*words, home, stdin=None, **environment):
    """Run a command to its end."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CLOVE_")}
    return subprocess.run(
        [sys.executable, "-m", "node", *words],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        env={**inherited, "CLOVE_HOME": str(home), "PYTHONPATH": str(ROOT), **environment},
        timeout=60,
        check=False,
    )


@contextlib.asynccontextmanager
async def running(service, home):
    """A daemon of that home, as far as commands can tell."""
    home.create()
    home.admin_token_file.touch(0o600)
    home.admin_token_file.write_text(ADMIN_TOKEN)
    with home.lock():
        async with served(service) as url:
            home.publish(DaemonInfo(os.getpid(), NODE, url, (), 1.0))
            yield


async def asked(service, home, *words, stdin=None):
    service.kept.setdefault("a1", KeptAnswer("a1", 5.0, '{"format": "x"}', ACCOUNT))
    async with running(service, Home(home)):
        return await trio.to_thread.run_sync(lambda: clove(*words, home=home, stdin=stdin))


# --- before any daemon ------------------------------------------------------------------------------


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['clove', '--help']\n"
        "from node.cli import main\n"
        "try:\n  main()\nexcept SystemExit:\n  pass\n"
        "heavy = {'torch', 'libp2p', 'pydantic', 'numpy', 'trio', 'httpx', 'transformers', 'starlette'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stderr.strip() == "[]"
    assert "testbed" in ran.stdout


def test_no_argument_says_the_next_step(tmp_path):
    ran = clove(home=tmp_path)
    assert ran.returncode == 0
    assert "clove demo" in ran.stdout


@pytest.mark.parametrize(
    "words", [("bogus",), ("ask", "--temperature", "9", "x"), ("ask", ""), ("up", "--set", "x")]
)
def test_wrong_usage_ends_with_2(words, tmp_path):
    assert clove(*words, home=tmp_path).returncode == 2


@pytest.mark.parametrize(
    "words", [("status",), ("peers",), ("ask", "hi"), ("shutdown",), ("testbed", "status")]
)
def test_without_a_daemon_commands_end_with_3_and_say_what_to_do(words, tmp_path):
    ran = clove(*words, home=tmp_path)
    assert ran.returncode == 3
    assert "clove: no " in ran.stderr
    assert ran.stdout == ""


def test_init_makes_a_home_once(tmp_path):
    first = clove("init", "--json", home=tmp_path / "home")
    again = clove("init", "--json", home=tmp_path / "home")
    assert json.loads(first.stdout)["created"] is True
    assert json.loads(again.stdout) == json.loads(first.stdout) | {"created": False}
    assert (tmp_path / "home" / "config.toml").exists()


def test_template_of_the_configuration_is_valid_commented_or_not(tmp_path):
    from node.cli.init import _TEMPLATE
    from node.config import load_config

    file = tmp_path / "config.toml"
    file.write_text(_TEMPLATE)
    load_config(file)
    bare = [line.removeprefix("# ").partition("  #")[0] for line in _TEMPLATE.splitlines()]
    kept = [line for line in bare if line.startswith("[") or " = " in line]
    file.write_text("\n".join(line for line in kept if "12D3KooW..." not in line))
    assert load_config(file) == load_config()


def test_bad_configuration_ends_up_with_2_and_names_the_key(tmp_path):
    (tmp_path / "config.toml").write_text("[privacy]\nhop = 1\n")
    ran = clove("doctor", home=tmp_path)
    assert ran.returncode == 1
    assert "did you mean privacy.hops (1 to 3)?" in ran.stdout


def test_doctor_finds_an_open_key_file(tmp_path):
    clove("init", home=tmp_path)
    (tmp_path / "identity.key").chmod(0o644)
    ran = clove("doctor", "--json", home=tmp_path)
    assert ran.returncode == 1
    (finding,) = [f for f in json.loads(ran.stdout) if f["level"] == "fail"]
    assert "chmod 600" in finding["remedy"]


def test_testbed_too_small_for_its_circuits_is_refused_with_the_size_needed(tmp_path):
    ran = clove("testbed", "up", "--nodes", "10", "--models", "2", home=tmp_path)
    assert ran.returncode == 2
    assert "need 12 nodes beside the client and the model node that is asked, 10 nodes leave 8" in ran.stderr
    assert "--nodes 14" in ran.stderr


def test_unknown_model_source_is_refused(tmp_path):
    ran = clove("models", "pull", "no such thing", home=tmp_path)
    assert ran.returncode == 1
    assert "smollm2-135m" in ran.stderr


def test_models_are_listed_with_what_can_be_pulled(tmp_path):
    listed = json.loads(clove("models", "list", "--json", home=tmp_path).stdout)
    assert {"smollm2-135m", "gemma3-270m"} <= {model["alias"] for model in listed}


# --- with one ---------------------------------------------------------------------------------------


async def test_ask_prints_the_answer_and_nothing_else(tmp_path):
    service = FakeService()
    ran = await asked(service, tmp_path, "ask", "Say hello", "--seed", "3", "--max-tokens", "9", "-t", "0")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "Hello!\n", "")
    sampler = service.prompts[0].sampler
    assert (sampler.max_tokens, sampler.temperature) == (9, 0)


async def test_ask_reads_a_pipe(tmp_path):
    service = FakeService()
    ran = await asked(service, tmp_path, "ask", stdin="What is this?\n")
    assert ran.stdout == "Hello!\n"
    assert service.prompts[0].messages[0].content == "What is this?"


async def test_ask_of_an_empty_pipe_is_wrong_usage(tmp_path):
    assert (await asked(FakeService(), tmp_path, "ask", stdin=" \n")).returncode == 2


async def test_ask_as_json_has_text_usage_and_account(tmp_path):
    ran = await asked(FakeService(), tmp_path, "ask", "hi", "--json")
    told = json.loads(ran.stdout)
    assert (told["text"], told["usage"]["completion_tokens"], told["account"]["n"]) == ("Hello!", 3, 4)


async def test_answer_without_a_receipt_is_whole_and_its_account_null(tmp_path):
    service = FakeService()
    async with running(service, Home(tmp_path)):
        ran = await trio.to_thread.run_sync(lambda: clove("ask", "hi", "--json", home=tmp_path))
    assert (ran.returncode, json.loads(ran.stdout)["account"]) == (0, None)


async def test_ask_saves_the_answer_for_verify(tmp_path):
    file = tmp_path / "answer.json"
    await asked(FakeService(), tmp_path, "ask", "hi", "--save", str(file))
    assert json.loads(file.read_text())["record"] == {"format": "x"}


async def test_refusal_goes_to_stderr_with_1(tmp_path):
    service = FakeService(refusal=NoRouteError("12 relays are needed, 3 are known"))
    ran = await asked(service, tmp_path, "ask", "hi")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "12 relays are needed, 3 are known" in ran.stderr


async def test_answer_that_fails_midway_keeps_what_came_and_ends_with_1(tmp_path):
    service = FakeService(
        [AnswerAccepted(), TokensGenerated("Hel", 1), AnswerFailed("node_lost", "the node died")]
    )
    ran = await asked(service, tmp_path, "ask", "hi")
    assert (ran.returncode, ran.stdout) == (1, "Hel\n")
    assert "the node died" in ran.stderr


async def test_chat_keeps_the_conversation(tmp_path):
    service = FakeService()
    ran = await asked(service, tmp_path, "chat", "--system", "Be brief.", stdin="one\ntwo\n/exit\n")
    assert ran.stdout == "Hello!\nHello!\n"
    said = [(m.role, m.content) for m in service.prompts[1].messages]
    assert said == [("system", "Be brief."), ("user", "one"), ("assistant", "Hello!"), ("user", "two")]


async def test_status_is_readable_and_json(tmp_path):
    ran = await asked(FakeService(), tmp_path, "status")
    assert ran.returncode == 0
    assert "16 relays, 2 model nodes" in ran.stdout
    assert "75 s behind its neighbours'" in ran.stdout
    assert json.loads((await asked(FakeService(), tmp_path, "status", "--json")).stdout)["links"] == 3


async def test_status_of_a_daemon_that_cant_answer_ends_with_4(tmp_path):
    waiting = Readiness(ready=False, reasons=("the model is loading",))
    ran = await asked(FakeService(readiness=waiting), tmp_path, "status")
    assert ran.returncode == 4
    assert "the model is loading" in ran.stdout


async def test_status_says_in_one_line_how_busy_a_model_is(tmp_path):
    load = EngineLoad(
        model_id=ModelId("m-1"),
        alias="smollm2-135m",
        waiting=2,
        reading=1,
        decoding=3,
        queued_tokens=700,
        prefill_token_s=0.001,
        decode_step_s=0.074,
        attended_s=1e-8,
        mixed_tokens=16,
        mixed_step_s=0.1,
        decoding_s=3.0,
        free_slots=4,
        wait_s=1.24,
        answer_s=9.0,
    )
    ran = await asked(FakeService(engine=(load,)), tmp_path, "status")
    told = " ".join(ran.stdout.split())
    assert "smollm2-135m: 3 answering, 1 being read, 2 waiting; first token in about 1.2 s" in told
    assert "1000 prompt tokens/s, 74 ms a step" in told
    idle = replace(load, waiting=0, reading=0, decoding=0, wait_s=0.0)
    ran = await asked(FakeService(engine=(idle,)), tmp_path, "status")
    assert "0 waiting; idle;" in " ".join(ran.stdout.split())


async def test_peers_and_circuits_are_listed(tmp_path):
    assert json.loads((await asked(FakeService(), tmp_path, "peers", "--json")).stdout)[0]["linked"] is True
    (circuit,) = json.loads((await asked(FakeService(), tmp_path, "circuits", "--json")).stdout)
    assert len(circuit["relays"]) == 3
    assert (
        "111111111111 > 222222222222 > 333333333333"
        in (await asked(FakeService(), tmp_path, "circuits")).stdout
    )


async def test_verify_of_what_is_no_answer_is_a_clear_error(tmp_path):
    ran = await asked(FakeService(), tmp_path, "verify", "a1")
    assert ran.returncode == 1
    assert "no kept answer" in ran.stderr
    assert (await asked(FakeService(), tmp_path, "verify", "zz")).returncode == 1


async def test_shutdown_waits_for_the_end(tmp_path):
    service, home = FakeService(), Home(tmp_path)
    ran = []

    async def shut_down():
        ran.append(await trio.to_thread.run_sync(lambda: clove("shutdown", home=tmp_path)))

    async with trio.open_nursery() as nursery, running(service, home):
        nursery.start_soon(shut_down)
        await service.stopped.wait()
    assert ran[0].returncode == 0


async def test_a_testbeds_client_is_asked_where_the_home_has_no_daemon(tmp_path):
    client = Home(tmp_path / "client")
    entry = NodeEntry(
        name="client",
        role="client",
        pid=os.getpid(),
        home=str(client.path),
        node_id=NODE,
        address="",
        api_url="",
        command=(),
    )
    base = tmp_path / "base"
    write_record(Home(base), NetworkRecord("testbed-1", 1.0, (entry,)))
    async with running(FakeService(), client):
        ran = await trio.to_thread.run_sync(lambda: clove("ask", "hi", home=base))
    assert ran.stdout == "Hello!\n"
