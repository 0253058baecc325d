"""Adapters in the store: models of their own on a base that stays, and strangers' folders read with suspicion."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from node.engine.adapter import MAX_RANK, check_modules, read_adapter_config
from node.engine.errors import (
    MissingBaseError,
    ModelNeededError,
    PullFailedError,
    UnsupportedModelError,
)
from node.engine.models import PARTIAL_PREFIX, ModelStore
from node.engine.pull import Wanted, pull
from node.engine.sources import HubSource, LocalSource
from tests.support.tiny_model import (
    LAYERS,
    WORDS,
    adapter_tensors,
    write_adapter,
    write_model,
    write_tokenizer,
)

A_TENSOR = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture
def store(tmp_path):
    store = ModelStore(tmp_path / "models")
    pull(store, LocalSource(write_model(tmp_path / "tiny")))
    return store


@pytest.fixture
def base(tmp_path):
    return write_model(tmp_path / "base")


def understand(folder, base):
    return check_modules(folder, read_adapter_config(folder), base)


def bring(store, folder, base="tiny", alias=None):
    return pull(store, Wanted(source=LocalSource(folder), base=base, alias=alias))


def test_an_adapter_is_a_model_of_its_own_and_holds_no_weights_but_its_own(store, tmp_path):
    adapter, base = bring(store, write_adapter(tmp_path / "mine")), store.find("tiny")
    assert store.find("mine") == store.find(adapter.model_id) == adapter
    assert adapter.manifest.base.model_id == base.model_id != adapter.model_id
    assert store.weights_of(adapter) == base.folder
    assert [file.name for file in adapter.manifest.files] == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
        "tokenizer.json",
    ]
    assert adapter.manifest.context_tokens == base.manifest.context_tokens


def test_its_id_follows_what_it_does_and_not_what_it_was_trained_with(store, tmp_path):
    first = bring(store, write_adapter(tmp_path / "a")).model_id
    told = {"base_model_name_or_path": "elsewhere", "peft_version": "9", "lora_dropout": 0.5}
    assert bring(store, write_adapter(tmp_path / "b", **told)).model_id == first
    assert bring(store, write_adapter(tmp_path / "c", lora_alpha=5)).model_id != first
    assert bring(store, write_adapter(tmp_path / "d", adapter_tensors(seed=3))).model_id != first
    pull(store, LocalSource(write_model(tmp_path / "other", seed=9)))
    assert bring(store, write_adapter(tmp_path / "e"), base="other").model_id != first


def test_what_is_stored_can_be_pulled_again_and_is_the_same_model(store, tmp_path):
    first = bring(store, write_adapter(tmp_path / "a", rank_pattern={"v_proj": 2}, use_rslora=True))
    again = bring(store, first.folder, alias="again")
    assert (again.alias, again.model_id) == ("again", first.model_id)
    assert again.manifest.files == first.manifest.files


def test_a_folder_that_changed_is_pulled_anew(store, tmp_path):
    folder = write_adapter(tmp_path / "mine")
    first = bring(store, folder)
    assert bring(store, folder) == first
    save_file(adapter_tensors(seed=7), folder / "adapter_model.safetensors")
    assert bring(store, folder).model_id != first.model_id


def test_an_adapter_with_a_tokenizer_brings_it(store, tmp_path):
    folder = write_adapter(tmp_path / "mine")
    plain = bring(store, folder).model_id
    write_tokenizer(folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    record = bring(store, folder)
    assert record.model_id != plain
    assert (record.folder / "chat_template.jinja").read_text() == "{{ messages[0].content }}"


def test_a_tokenizer_with_more_ids_than_the_base_is_refused(store, tmp_path):
    folder = write_adapter(tmp_path / "mine")
    write_tokenizer(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["more"] = len(WORDS)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UnsupportedModelError, match="an id 8, the model only 8 tokens"):
        bring(store, folder)


# --- its base -------------------------------------------------------------------------------------------


def test_without_a_base_that_is_stored_the_one_to_name_is_said(store, tmp_path):
    folder = write_adapter(tmp_path / "mine")
    with pytest.raises(PullFailedError, match=r"adapter for 'somebody/tiny'.*--base NAME \(stored: tiny\)"):
        bring(store, folder, base=None)
    with pytest.raises(PullFailedError, match=r"--base NAME \(stored: tiny\)"):
        bring(store, folder, base="nope")


def test_a_base_that_is_stored_from_where_the_adapter_says_needs_no_name(store, tmp_path):
    folder = write_adapter(tmp_path / "mine", base_model_name_or_path=str(tmp_path / "tiny"))
    assert bring(store, folder, base=None).manifest.base.alias == "tiny"


def test_a_whole_model_has_no_base(store, tmp_path):
    with pytest.raises(PullFailedError, match="no adapter; leave --base away"):
        bring(store, write_model(tmp_path / "whole"))


def test_an_adapter_is_no_base(store, tmp_path):
    bring(store, write_adapter(tmp_path / "one"))
    with pytest.raises(PullFailedError, match="one is an adapter itself"):
        bring(store, write_adapter(tmp_path / "two"), base="one")


def test_a_base_stays_while_an_adapter_needs_it(store, tmp_path):
    adapter = bring(store, write_adapter(tmp_path / "mine"))
    with pytest.raises(ModelNeededError, match="clove models rm mine"):
        store.remove("tiny")
    save_file({}, tmp_path / "tiny" / "model.safetensors")
    with pytest.raises(ModelNeededError, match="mine can't do without"):
        pull(store, LocalSource(tmp_path / "tiny"))
    store.remove(adapter.alias)
    store.remove("tiny")
    assert store.list() == ()


def test_a_copy_of_a_base_is_needed_by_nobody(store, tmp_path):
    adapter = bring(store, write_adapter(tmp_path / "mine"))
    pull(store, Wanted(source=LocalSource(tmp_path / "tiny"), alias="copy"))
    store.remove("tiny")
    assert store.weights_of(store.find(adapter.alias)) == store.folder / "copy"


def test_a_base_that_is_gone_is_named_with_the_command_that_brings_it(store, tmp_path):
    bring(store, write_adapter(tmp_path / "mine"))
    shutil.rmtree(store.folder / "tiny")
    with pytest.raises(MissingBaseError, match=r"mine is an adapter for tiny .*clove models pull tiny"):
        store.find("mine")


# --- names ----------------------------------------------------------------------------------------------


def test_a_name_that_another_model_has_is_not_taken_from_it(store, tmp_path):
    for other in (
        LocalSource(write_model(tmp_path / "elsewhere" / "tiny", seed=4)),
        HubSource("somebody/tiny"),
    ):
        with pytest.raises(PullFailedError, match="--alias NAME"):
            pull(store, other)
    assert (
        pull(store, Wanted(source=LocalSource(tmp_path / "elsewhere" / "tiny"), alias="Mine")).alias == "mine"
    )


# --- what strangers send --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only 'LORA'"),
        ({"peft_type": None}, "only 'LORA'"),
        ({"r": 0}, "r is 0; it must be 1 to 512"),
        ({"r": MAX_RANK + 1}, "it must be 1 to 512"),
        ({"r": True}, "it must be 1 to 512"),
        ({"r": "8"}, "it must be 1 to 512"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"use_dora": True}, "'use_dora' is not supported.*merge_and_unload"),
        ({"modules_to_save": ["lm_head"]}, "'modules_to_save' is not supported"),
        ({"layer_replication": [[0, 2]]}, "'layer_replication' is not supported"),
        ({"something_newer": {"x": 1}}, "'something_newer' is not supported"),
        ({"bias": "all"}, "'bias': 'all'"),
        ({"init_lora_weights": "pissa"}, "'init_lora_weights': 'pissa'"),
        ({"rank_pattern": {"(a+)+$": 2}}, "rank_pattern must map plain names"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern is 'x'"),
        ({"alpha_pattern": [1]}, "alpha_pattern must map"),
        (
            {"rank_pattern": {"v_proj": 7}},
            r"v_proj have the shapes A \[2, 32\], B \[16, 2\]; its base needs A \[7",
        ),
        ({"target_modules": ["q_proj", "nope"]}, "target module 'nope' has no tensors"),
        ({"target_modules": {"q_proj": 1}}, "target_modules"),
    ],
)
def test_a_configuration_that_is_not_plain_lora_is_refused_by_name(base, tmp_path, settings, why):
    with pytest.raises(UnsupportedModelError, match=why):
        understand(write_adapter(tmp_path / "bad", **settings), base)


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, "\xff", " " * (1 << 20) + "{}"])
def test_a_configuration_that_is_none_is_refused(base, tmp_path, content):
    folder = write_adapter(tmp_path / "bad")
    (folder / "adapter_config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UnsupportedModelError, match=r"adapter_config\.json"):
        understand(folder, base)


def renamed(old, new):
    return {name.replace(old, new): tensor for name, tensor in adapter_tensors().items()}


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({}, "no tensors"),
        (adapter_tensors(rank=3), r"needs A \[2, 32\], B \[32, 2\]"),
        (
            renamed("layers.1", f"layers.{LAYERS}"),
            f"layers.{LAYERS}.self_attn.q_proj, which its base doesn't have",
        ),
        (renamed("self_attn.q_proj", "input_layernorm"), "input_layernorm, which its base doesn't have"),
        (renamed("model.layers.0.self_attn.q_proj", "lm_head"), "'base_model.model.lm_head.*no LoRA matrix"),
        (renamed("lora_A", "lora_magnitude_vector"), "no LoRA matrix"),
        (
            {name: t for name, t in adapter_tensors().items() if "lora_B" not in name},
            r"shapes A \[2, 32\]; its",
        ),
        ({name: t.astype(np.int64) for name, t in adapter_tensors().items()}, "I64.*no LoRA matrix"),
    ],
)
def test_tensors_that_do_not_fit_the_base_are_refused_by_name(base, tmp_path, tensors, why):
    with pytest.raises(UnsupportedModelError, match=why):
        understand(write_adapter(tmp_path / "bad", tensors), base)


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_values_that_are_no_finite_numbers_are_refused_and_leave_nothing(store, tmp_path, value):
    tensors = adapter_tensors()
    tensors[A_TENSOR][1, 1] = np.float32(value)
    with pytest.raises(
        UnsupportedModelError, match=r"layers\.0\.self_attn\.q_proj\.lora_A.*no finite numbers"
    ):
        bring(store, write_adapter(tmp_path / "bad", tensors))
    assert not list(store.folder.glob(f"{PARTIAL_PREFIX}*"))


def test_a_pickle_is_never_read(base, tmp_path):
    folder = write_adapter(tmp_path / "bad")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(
        UnsupportedModelError, match=r"adapter_model\.bin may hold code.*save it as safetensors"
    ):
        understand(folder, base)


def test_a_file_that_is_cut_short_is_named(base, tmp_path):
    folder = write_adapter(tmp_path / "bad")
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(
        UnsupportedModelError, match=r"adapter_model\.safetensors is no whole safetensors file"
    ):
        understand(folder, base)
