"""What can be wrong with a model, with real files and through the commands that people use."""

import json
import os
import shutil
import struct
import subprocess
import sys

import gguf
import numpy as np
import pytest
import trio

from node.clock import monotonic
from node.engine.errors import NoMemoryError, UnsupportedModelError
from node.engine.launch import child_environment
from node.engine.memory import available_memory
from node.engine.models import ModelStore
from node.engine.pull import Wanted, pull
from node.engine.settings import EngineSettings
from node.engine.sources import LocalSource
from node.engine.supervisor import WORKER_COMMAND, Engine
from node.home import Home
from tests.support.command import clove
from tests.support.tiny_model import write_adapter, write_model

pytestmark = pytest.mark.integration
START_S = 120
SIDE = 256


def write_gguf(file, architecture="llama", kind=gguf.GGMLQuantizationType.Q8_0):
    """A file with one tensor of some quantisation, as llama.cpp would write it."""
    writer = gguf.GGUFWriter(str(file), architecture)
    writer.add_context_length(64)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    data = np.zeros((SIDE, SIDE // block * size), np.uint8)
    writer.add_tensor("blk.0.attn_q.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def refused(tmp_path, source, *words, **environment):
    """What `clove models pull` says of a source that it can't take: one sentence, exit code 1, nothing left."""
    models = tmp_path / "models"
    ran = clove(
        "models", "pull", str(source), *words, home=tmp_path / "home", CLOVE_MODELS=str(models), **environment
    )
    assert ran.returncode == 1, ran.stderr
    assert "Traceback" not in ran.stderr
    assert [entry.name for entry in models.iterdir()] in ([".lock"], [])
    return ran.stderr


def test_a_quantisation_that_can_not_be_undone_is_named_with_the_way_out(tmp_path):
    file = write_gguf(tmp_path / "odd.gguf", kind=gguf.GGMLQuantizationType.Q8_K)
    told = refused(tmp_path, file)
    assert "quantised as Q8_K, which can't be undone here" in told
    assert "as safetensors, or in another quantisation" in told


def test_a_quantisation_that_nobody_here_knows_is_said(tmp_path):
    file = write_gguf(tmp_path / "odd.gguf")
    content = bytearray(file.read_bytes())
    name = b"blk.0.attn_q.weight"
    kind_at = content.index(name) + len(name) + 4 + 2 * 8
    content[kind_at : kind_at + 4] = struct.pack("<I", 4321)
    file.write_bytes(content)
    assert "4321" in refused(tmp_path, file)


def test_an_architecture_of_gguf_that_is_not_run_is_named_with_those_that_are(tmp_path):
    told = refused(tmp_path, write_gguf(tmp_path / "odd.gguf", architecture="mamba"))
    assert "GGUF architecture 'mamba' is not supported; these are: llama, gemma3" in told


@pytest.mark.parametrize("kept", [0, 3, 20, 100, 2000, -1])
def test_a_gguf_file_that_is_cut_short_says_to_fetch_it_again(tmp_path, kept):
    file = write_gguf(tmp_path / "short.gguf")
    file.write_bytes(file.read_bytes()[:kept])
    assert "short.gguf is cut short, or no GGUF file" in refused(tmp_path, file)


def test_a_gguf_file_without_a_tokenizer_or_layers_is_refused(tmp_path):
    assert "this GGUF file can't be read" in refused(tmp_path, write_gguf(tmp_path / "bare.gguf"))


def test_safetensors_that_are_cut_short_say_to_be_fetched_again(tmp_path):
    folder = write_model(tmp_path / "tiny")
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 1)
    assert "model.safetensors is no whole safetensors file" in refused(tmp_path, folder)


def test_an_architecture_that_is_not_run_is_named_with_those_that_are(tmp_path):
    folder = write_model(tmp_path / "tiny", model_type="mamba")
    assert "architecture 'mamba' is not supported; these are: llama, gemma3_text" in refused(tmp_path, folder)


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, file):
    folder = write_model(tmp_path / "tiny")
    (folder / file).unlink()
    assert f"lacks {file.replace('model.s', '*.s')}" in refused(tmp_path, folder)


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json"])
def test_a_file_that_is_no_json_is_named(tmp_path, file):
    folder = write_model(tmp_path / "tiny")
    (folder / file).write_text("<html>404</html>")
    assert f"{file} can't be read" in refused(tmp_path, folder)


def test_a_folder_that_is_no_model_says_what_one_has(tmp_path):
    (tmp_path / "photos").mkdir()
    told = refused(tmp_path, tmp_path / "photos")
    assert "lacks config.json, tokenizer.json, *.safetensors" in told


def test_a_hub_that_can_not_be_reached_is_said_in_a_sentence(tmp_path):
    # A port on which nobody listens: the hub's own library fails as it does without a network.
    told = refused(
        tmp_path, "hf:owner/model", HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "hub")
    )
    assert "the hub gave no owner/model: the hub can't be reached from here" in told


def test_an_adapter_without_its_base_is_said_with_the_flag(tmp_path):
    told = refused(tmp_path, write_adapter(tmp_path / "mine"))
    assert "adapter for 'somebody/tiny'" in told
    assert "--base NAME" in told


# --- at load --------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    store = ModelStore(tmp_path / "models")
    pull(store, LocalSource(write_model(tmp_path / "tiny")))
    return store


async def load_error(folders, settings=None, command=WORKER_COMMAND):
    with trio.fail_after(START_S):
        await Engine(folders, settings, command=command).serve()


async def test_more_than_there_is_is_refused_before_it_is_taken(store):
    huge = EngineSettings(cache_bytes=1 << 50)
    with pytest.raises(
        NoMemoryError, match=r"of memory needed .*MiB free; with engine\.cache_mb = \d+ it would"
    ):
        await load_error([store.find("tiny").folder], huge)


@pytest.mark.skipif(
    (available_memory() or 0) < 8 << 30, reason="there the estimate refuses it, the other test"
)
async def test_memory_that_runs_out_on_the_way_is_the_same_clear_error(store):
    # The address space of the worker is bounded, of which the estimate knows nothing.
    limited = ("sh", "-c", 'ulimit -v 6000000; exec "$@"', "sh", *WORKER_COMMAND)
    with pytest.raises(NoMemoryError, match=r"memory ran out on the way .*lower engine\.cache_mb"):
        await load_error([store.find("tiny").folder], EngineSettings(cache_bytes=7 << 30), limited)


async def test_an_adapter_that_was_changed_after_it_was_checked_is_refused_at_load(store, tmp_path):
    folder = pull(store, Wanted(source=LocalSource(write_adapter(tmp_path / "mine")), base="tiny")).folder
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 2', '"r": 3'))
    with pytest.raises(UnsupportedModelError, match=r"needs A \[3, 32\]"):
        await load_error([folder])


def test_a_node_without_the_memory_runs_says_why_and_is_not_ready(store, tmp_path):
    home = Home(tmp_path / "home")
    environment = {
        **child_environment(),
        "CLOVE_HOME": str(home.path),
        "CLOVE_MODELS": str(store.folder),
        "CLOVE_ENGINE__CACHE_MB": str(1 << 20),
    }
    words = (
        "up",
        "--role",
        "model",
        "--model",
        "tiny",
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
        "--api-port",
        "0",
    )
    with subprocess.Popen(
        [sys.executable, "-m", "node", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as daemon:
        try:
            status = status_when(home, lambda told: "no model can be served" in told)
            assert "MiB of memory needed" in status.stdout
            assert status.returncode == 4
        finally:
            daemon.terminate()
            _, logs = daemon.communicate(timeout=START_S)
    errors = [json.loads(line) for line in logs.splitlines() if '"error"' in line]
    assert ["MiB free" in error["cause"] for error in errors] == [True]
    assert daemon.returncode == 0


def status_when(home, holds):
    """`clove status`, once it says so."""
    deadline = monotonic() + START_S
    while not holds((ran := clove("status", home=home.path)).stdout):
        assert monotonic() < deadline, ran
    return ran


def test_a_node_whose_adapter_lost_its_base_does_not_start(store, tmp_path):
    pull(store, Wanted(source=LocalSource(write_adapter(tmp_path / "mine")), base="tiny"))
    shutil.rmtree(store.folder / "tiny")
    ran = clove(
        "up", "--role", "model", "--model", "mine", home=tmp_path / "home", CLOVE_MODELS=str(store.folder)
    )
    assert ran.returncode == 1
    assert "adapter for tiny" in ran.stderr
    assert "clove models pull tiny" in ran.stderr


def test_commands_show_an_adapter_and_keep_its_base(store, tmp_path):
    def run(*words):
        return clove("models", *words, home=tmp_path / "home", CLOVE_MODELS=str(store.folder))

    folder = write_adapter(tmp_path / "mine")
    pulled = run("pull", str(folder), "--base", "tiny", "--alias", "other")
    assert "other is stored: m-" in pulled.stderr
    shown = json.loads(run("show", "other", "--json").stdout)
    assert shown["base"] == store.find("tiny").model_id
    kept = run("rm", "tiny")
    assert kept.returncode == 1
    assert "clove models rm other" in kept.stderr
    assert run("rm", "other").returncode == 0 == run("rm", "tiny").returncode
