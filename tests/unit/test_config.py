"""Where a setting comes from, and what a person is told about a wrong one."""

from pathlib import Path

import pytest

from node.config import Config, load_config
from node.engine.settings import UpstreamModel
from node.errors import ConfigError, ExitCode
from node.upstream_settings import upstream_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    import os

    for name in list(os.environ):
        if name.startswith("CLOVE_"):
            monkeypatch.delenv(name)


def written(folder: Path, text: str) -> Path:
    file = folder / "config.toml"
    file.write_text(text)
    return file


def refusal(file: Path | None = None, flags: dict[str, object] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(file, flags)
    assert caught.value.exit_code == ExitCode.USAGE
    return str(caught.value)


def test_defaults_need_no_file(tmp_path):
    config = load_config(tmp_path / "absent.toml")
    assert (config.privacy.n, config.privacy.k, config.privacy.hops) == (4, 2, 3)
    assert config.network.listen == ("/ip4/0.0.0.0/tcp/4160",)
    assert (config.api.host, config.api.port) == ("127.0.0.1", 8160)


def test_flags_beat_environment_beats_file_beats_defaults(tmp_path, monkeypatch):
    file = written(tmp_path, "[privacy]\nn = 5\nk = 3\nhops = 2\n")
    monkeypatch.setenv("CLOVE_PRIVACY__N", "6")
    monkeypatch.setenv("CLOVE_PRIVACY__K", "4")
    privacy = load_config(file, {"privacy.n": 7, "privacy.k": None}).privacy
    assert (privacy.n, privacy.k, privacy.hops, privacy.lifetime_s) == (7, 4, 2, 600)


@pytest.mark.parametrize("text", ["a,b", "a, b", '["a", "b"]'])
def test_lists_in_the_environment_are_written_with_commas_or_brackets(text, monkeypatch):
    monkeypatch.setenv("CLOVE_ENGINE__MODELS", text)
    assert load_config().engine.models == ("a", "b")


def test_unknown_key_is_named_with_the_nearest_and_its_range(tmp_path):
    file = written(tmp_path, "[privacy]\nhop = 2\n")
    assert refusal(file) == f"{file}: unknown key privacy.hop; did you mean privacy.hops (1 to 3)?"


def test_unknown_section_is_named_with_the_nearest(tmp_path):
    assert "unknown key privcy; did you mean privacy?" in refusal(written(tmp_path, "[privcy]\nhops = 2\n"))


def test_unknown_environment_key_is_named(monkeypatch):
    monkeypatch.setenv("CLOVE_PRIVACY__HOP", "3")
    assert refusal().startswith("environment, CLOVE_PRIVACY__HOP: unknown key privacy.hop")


def test_unknown_environment_section_is_not_passed_over(monkeypatch):
    monkeypatch.setenv("CLOVE_PRIVCY__HOPS", "3")
    assert "did you mean privacy?" in refusal()


def test_home_and_models_variables_are_not_settings(monkeypatch):
    monkeypatch.setenv("CLOVE_HOME", "/somewhere")
    monkeypatch.setenv("CLOVE_MODELS", "/elsewhere")
    assert load_config() == Config()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"privacy.hops": 9}, "flag: privacy.hops = 9: allowed is 1 to 3"),
        ({"privacy.diversity": "none"}, "privacy.diversity = 'none': allowed is one of strict, local"),
        ({"api.port": 70000}, "api.port = 70000: allowed is 0 to 65535"),
        ({"privacy.n": 2, "privacy.k": 3}, "k = 3 must not exceed n = 2"),
        ({"network.listen": ["/ip4/1"]}, "not of the form /ip4/ADDRESS/tcp/PORT"),
        ({"network.bootstrap": ["/ip4/127.0.0.1/tcp/1"]}, "/p2p/PEER"),
        ({"roles.relay": False, "roles.client": False}, "at least one of relay, model, client"),
        ({"api.host": "0.0.0.0"}, "set api.key"),  # noqa: S104
    ],
)
def test_value_out_of_range_is_refused_with_what_is_allowed(flags, told):
    assert told in refusal(None, flags)


def test_every_fault_is_named_at_once(tmp_path):
    told = refusal(written(tmp_path, "[privacy]\nhops = 9\n[api]\nport = -1\n"))
    assert "privacy.hops" in told
    assert "api.port" in told


def test_a_refused_key_is_not_repeated_in_the_error(tmp_path):
    assert "hunter2" not in refusal(written(tmp_path, "[api]\nkey = 'hunter2'\n"))


def test_broken_toml_says_where(tmp_path):
    assert "is not TOML" in refusal(written(tmp_path, "[network\n"))


def test_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_config().privacy.n = 3


def test_names_of_roles_come_in_a_fixed_order():
    assert load_config(None, {"roles.model": True}).roles.names == ("relay", "model", "client")


# --- an upstream engine -------------------------------------------------------------------------------

UPSTREAM = {
    "engine.kind": "openai",
    "engine.upstream_url": "http://127.0.0.1:8000/v1",
    "engine.models": "llama-8b, qwen",
}


def test_names_of_an_upstream_engine_are_written_in_toml_and_in_the_environment(tmp_path, monkeypatch):
    wanted = {"llama-8b": "meta-llama/Llama-3.1-8B-Instruct"}
    table = '{ "llama-8b" = "meta-llama/Llama-3.1-8B-Instruct" }'
    file = written(tmp_path, f"[engine]\nupstream_models = {table}\n")
    assert load_config(file, UPSTREAM).engine.upstream_models == wanted
    monkeypatch.setenv("CLOVE_ENGINE__UPSTREAM_MODELS", "llama-8b=meta-llama/Llama-3.1-8B-Instruct")
    assert load_config(None, UPSTREAM).engine.upstream_models == wanted


def test_upstream_engine_is_told_what_the_configuration_says():
    flags = {
        "engine.upstream_models": "qwen=Qwen/Qwen3",
        "engine.max_batch": 3,
        "engine.upstream_key": "sk-1",
    }
    settings = upstream_settings(load_config(None, {**UPSTREAM, **flags}).engine)
    assert settings.models == (UpstreamModel("llama-8b", "llama-8b"), UpstreamModel("qwen", "Qwen/Qwen3"))
    assert (settings.key, settings.context_tokens, settings.max_batch) == ("sk-1", None, 3)
    assert "sk-1" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
        ("https://gpu.example/llm/v1/", "https://gpu.example/llm/v1"),
    ],
)
def test_base_url_without_a_path_gets_the_usual_one(url, base):
    engine = load_config(None, {**UPSTREAM, "engine.upstream_url": url}).engine
    assert upstream_settings(engine).url == base


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"engine.upstream_url": None}, "needs upstream_url"),
        ({"engine.upstream_url": "127.0.0.1:8000"}, "http://HOST:PORT/v1"),
        ({"engine.upstream_url": "ftp://host/v1"}, "http://HOST:PORT/v1"),
        ({"engine.upstream_url": "http://host:99999/v1"}, "http://HOST:PORT/v1"),
        ({"engine.upstream_url": "http://[::1/v1"}, "http://HOST:PORT/v1"),
        ({"engine.upstream_url": f"http://{'a' * 70}/v1"}, "http://HOST:PORT/v1"),
        ({"engine.upstream_url": "http://host/v1\nX: y"}, "http://HOST:PORT/v1"),
        ({"engine.upstream_url": "http://me:secret@host/v1"}, "upstream_key"),
        ({"engine.upstream_url": "http://host/v1?key=secret"}, "end with its path"),
        ({"engine.upstream_key": "two\nlines secret"}, "no key has"),
        ({"engine.upstream_models": "other=x"}, "which models does not list"),
        ({"engine.upstream_models": "llama-8b="}, "no name for 'llama-8b'"),
        ({"engine.upstream_models": "llama-8b"}, "not of the form ALIAS=NAME"),
        ({"engine.models": "a b"}, "is no alias"),
        ({"engine.models": "a, a"}, "different aliases"),
        ({"engine.kind": "worker"}, 'set kind = "openai"'),
        ({"engine.kind": "vllm"}, "one of worker, openai"),
        ({"engine.upstream_context_tokens": -1}, "0 to 16777216"),
    ],
)
def test_a_wrong_upstream_engine_is_refused_with_the_remedy(changes, told):
    refused = refusal(None, {**UPSTREAM, **changes})
    assert told in refused
    assert "secret" not in refused
