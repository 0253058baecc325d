"""What memory there is, what models need of it, and when a worker has too much."""

import os
from dataclasses import replace

import pytest

from node.engine.errors import ModelDamagedError, ModelError, NoMemoryError
from node.engine.memory import ProcessMemory, available_memory, process_memory
from node.engine.memory_plan import FEWEST_BLOCKS, ModelNeeds, check_room, needs_of, share_cache
from node.engine.memory_watch import MemoryWatch
from node.engine.models import ModelStore
from node.engine.pull import Wanted, pull
from node.engine.sources import LocalSource
from tests.support.tiny_model import HIDDEN, INNER, KV, LAYERS, WORDS, write_adapter, write_model

MIB, GIB = 1 << 20, 1 << 30


@pytest.fixture
def system(tmp_path):
    """A machine with 8 GiB available; its folders of /proc and of control groups."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    cgroups.mkdir()
    (proc / "meminfo").write_text(
        f"MemTotal: 999 kB\nMemAvailable:    {8 * GIB // 1024} kB\nHugePages_Total: 0\n"
    )
    return proc, cgroups


def limit(group, names, most, used, reclaimable=0):
    group.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (most, used), strict=True):
        (group / name).write_text(f"{value}\n")
    (group / "memory.stat").write_text(
        f"anon 5\ninactive_file {reclaimable}\ntotal_inactive_file {reclaimable}\n"
    )


V2 = ("memory.max", "memory.current")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def test_without_control_groups_it_is_what_the_machine_says(system):
    assert available_memory(*system) == 8 * GIB


def test_the_tightest_limit_above_us_holds(system):
    proc, cgroups = system
    (proc / "self" / "cgroup").write_text("0::/a/b\n")
    limit(cgroups / "a" / "b", V2, "max", 5)
    limit(cgroups / "a", V2, 3 * GIB, 2 * GIB, reclaimable=GIB // 2)
    assert available_memory(proc, cgroups) == GIB + GIB // 2
    limit(cgroups / "a" / "b", V2, 2 * GIB, 2 * GIB + 1)
    assert available_memory(proc, cgroups) == 0


def test_the_older_kind_of_control_group_counts_too(system):
    proc, cgroups = system
    (proc / "self" / "cgroup").write_text("8:pids:/x\n4:cpu,memory:/x\n0::/\n")
    limit(cgroups / "memory" / "x", V1, 2 * GIB, GIB)
    assert available_memory(proc, cgroups) == GIB


def test_in_a_container_the_mounted_group_is_ours(system):
    proc, cgroups = system
    (proc / "self" / "cgroup").write_text("0::/../../host/path\n")
    limit(cgroups, V2, GIB, MIB)
    assert available_memory(proc, cgroups) == GIB - MIB


@pytest.mark.parametrize("text", ["", "MemAvailable:", "MemAvailable: lots", "\x00\xff"])
def test_a_system_that_does_not_say_is_not_asked(system, text):
    proc, cgroups = system
    (proc / "meminfo").write_text(text)
    assert available_memory(proc, cgroups) is None


def test_this_process_has_memory_and_one_that_is_not_there_has_none():
    mine = process_memory(os.getpid())
    assert mine.own > MIB < mine.mapped
    assert process_memory(2**22 + 1) is None


# --- what models need -----------------------------------------------------------------------------------

NEEDS = ModelNeeds("one", "/models/one", shared=500 * MIB, own=0, block=MIB)


def test_weights_mapped_from_one_file_count_once_and_changed_ones_again():
    adapter = replace(NEEDS, alias="two", own=100 * MIB)
    check_room([NEEDS, adapter], GIB, (500 + 100 + 1024 + 256) * MIB)
    with pytest.raises(NoMemoryError, match=r"one, two: 1880 MiB of memory needed .*1879 MiB free"):
        check_room([NEEDS, adapter], GIB, (500 + 100 + 1024 + 256) * MIB - 1)


def test_the_refusal_names_the_cache_that_would_fit_and_with_it_the_models_do():
    with pytest.raises(
        NoMemoryError, match=r"1780 MiB.*1000 MiB free; with engine\.cache_mb = 244 it would fit"
    ):
        check_room([NEEDS], GIB, 1000 * MIB)
    check_room([NEEDS], 244 * MIB, 1000 * MIB)


def test_weights_that_do_not_fit_alone_are_said_to_be_too_large():
    with pytest.raises(NoMemoryError, match="fewer or smaller models"):
        check_room([NEEDS], GIB, (500 + 256 + FEWEST_BLOCKS) * MIB - 1)


def test_where_nobody_knows_what_is_free_nothing_is_refused():
    check_room([NEEDS], 1 << 50, None)


def test_models_get_equally_many_blocks_whatever_they_weigh():
    wide = replace(NEEDS, alias="wide", block=3 * MIB)
    assert share_cache([NEEDS, wide], 100 * MIB) == 25
    with pytest.raises(ModelError, match=r"one, wide: 31 MiB .* set engine\.cache_mb to 33 or more"):
        share_cache([NEEDS, wide], 4 * FEWEST_BLOCKS * MIB - 1)


def test_needs_are_read_off_the_files(tmp_path):
    store = ModelStore(tmp_path / "models")
    base = pull(store, LocalSource(write_model(tmp_path / "tiny")))
    adapter = pull(store, Wanted(source=LocalSource(write_adapter(tmp_path / "mine")), base="tiny"))
    per_layer = 2 * HIDDEN * HIDDEN + 2 * KV * HIDDEN + 3 * INNER * HIDDEN + 2 * HIDDEN
    numbers = LAYERS * per_layer + len(WORDS) * HIDDEN + HIDDEN
    whole = needs_of(base.folder, base.manifest, "F32", 10)
    assert whole == ModelNeeds("tiny", base.folder, shared=4 * numbers, own=0, block=10)
    halved = needs_of(base.folder, base.manifest, "BF16", 10)
    assert (halved.shared, halved.own) == (0, 2 * numbers)
    changed = LAYERS * (HIDDEN * HIDDEN + KV * HIDDEN)
    on_top = needs_of(adapter.folder, adapter.manifest, "F32", 10)
    assert on_top == replace(whole, alias="mine", own=4 * changed)


def test_weights_that_are_cut_short_are_named(tmp_path):
    store = ModelStore(tmp_path / "models")
    base = pull(store, LocalSource(write_model(tmp_path / "tiny")))
    os.truncate(base.folder / "model.safetensors", 100)
    with pytest.raises(ModelDamagedError, match=r"model\.safetensors can't be read"):
        needs_of(base.folder, base.manifest, "F32", 10)


# --- watching -------------------------------------------------------------------------------------------


def grown(own):
    return ProcessMemory(own, 7)


def test_a_worker_may_have_what_it_had_when_ready_its_cache_and_the_slack():
    watch = MemoryWatch(cache_bytes=20 * MIB, slack_bytes=5 * MIB)
    assert watch.note(grown(90 * MIB), is_ready=False) is None
    assert watch.note(grown(100 * MIB), is_ready=True) is None
    assert watch.note(grown(125 * MIB), is_ready=True) is None
    problem = watch.note(grown(125 * MIB + 1), is_ready=True)
    assert "grew to 125 MiB, over the 125 MiB" in problem
    assert watch.seen == grown(125 * MIB + 1)


def test_a_worker_that_can_not_be_read_is_left_alone():
    watch = MemoryWatch(cache_bytes=1, slack_bytes=1)
    assert watch.note(None, is_ready=True) is None
    assert watch.seen is None
