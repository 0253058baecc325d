"""Where a setting comes from, and what a person is told about a wrong one."""

from pathlib import Path

import pytest

from node.config import Config, load_config
from node.errors import ConfigError, ExitCode


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
