"""The daemon's configuration: flags > environment (`CLOVE_SECTION__KEY`) > config.toml > defaults.

All validation of what a person sets happens here; the rest of the daemon takes a `Config` and trusts it.
"""

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from node.config_errors import explain
from node.errors import ConfigError

ENV_PREFIX = "CLOVE_"
ENV_DELIMITER = "__"
DEFAULT_LISTEN = "/ip4/0.0.0.0/tcp/4160"
DEFAULT_MODEL = "smollm2-135m"
MAX_UPSTREAM_MODELS = 16
"""A descriptor has room for no more."""
_LISTEN = re.compile(r"^/(?:ip4|ip6|dns[46]?)/[^/]+/tcp/(\d{1,5})$")
_BOOTSTRAP = re.compile(r"^/(?:ip4|ip6|dns[46]?)/[^/]+/tcp/\d{1,5}/p2p/[1-9A-HJ-NP-Za-km-z]{20,80}$")
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,63}")

Profile = Literal["server", "test"]
RoleName = Literal["relay", "model", "client"]


def _split(value: object) -> object:
    """Let lists be written `a, b` where TOML's brackets aren't at hand: in the environment and in flags."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip().strip("\"'") for part in value.strip("[] ").split(",") if part.strip())


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


def _split_pairs(value: object) -> object:
    """Let a table be written `a=b, c=d` where TOML's isn't at hand."""
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError(f"{value!r} is not of the form ALIAS=NAME, ALIAS=NAME")
    return {alias.strip(): name.strip() for alias, _, name in pairs}


Pairs = Annotated[dict[str, str], NoDecode, BeforeValidator(_split_pairs)]


class Section(BaseModel):
    """One table of config.toml: frozen, and a key that it doesn't know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NetworkConfig(Section):
    """Which overlay this node joins and how it is reached."""

    id: str = Field(default="clovenet", pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")
    bootstrap: Names = ()
    listen: Names = (DEFAULT_LISTEN,)
    announce: Names = ()
    profile: Profile = "server"
    allow_private: bool = False
    operator: str = Field(default="", max_length=64)

    @model_validator(mode="after")
    def _check_addresses(self) -> Self:
        for address in self.listen + self.announce:
            match = _LISTEN.match(address)
            if match is None or int(match[1]) > 65535:
                raise ValueError(f"address {address!r} is not of the form /ip4/ADDRESS/tcp/PORT")
        for address in self.bootstrap:
            if _BOOTSTRAP.match(address) is None:
                raise ValueError(f"bootstrap {address!r} is not of the form /ip4/ADDRESS/tcp/PORT/p2p/PEER")
        return self


class RolesConfig(Section):
    """What this node does for the network, in any mix."""

    relay: bool = True
    model: bool = False
    client: bool = True

    @property
    def names(self) -> tuple[RoleName, ...]:
        """The roles that are on, in a fixed order."""
        every: tuple[RoleName, ...] = ("relay", "model", "client")
        return tuple(role for role in every if getattr(self, role))

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if not self.names:
            raise ValueError("at least one of relay, model, client must be on")
        return self


class PrivacyConfig(Section):
    """How prompts leave: cloves k of n, one over each of n disjoint circuits of so many hops.

    forward "group": the model node asked may hand a prompt to another one that answers sooner, who reads it, too.
    """

    n: int = Field(default=4, ge=1, le=8)
    k: int = Field(default=2, ge=1, le=8)
    hops: int = Field(default=3, ge=1, le=3)
    diversity: Literal["strict", "local"] = "strict"
    lifetime_s: int = Field(default=600, ge=30, le=3600)
    forward: Literal["none", "group"] = "group"

    @model_validator(mode="after")
    def _check_threshold(self) -> Self:
        if self.k > self.n:
            raise ValueError(f"k = {self.k} must not exceed n = {self.n}")
        return self


class EngineConfig(Section):
    """What answers at a node with the model role: a worker of ours, or a server that speaks OpenAI's API.

    threads 0: all cores. group: hand prompts to other nodes of the same model, and take theirs. upstream_models: the
    server's names of models, by alias. upstream_context_tokens 0: the server says it.
    """

    kind: Literal["worker", "openai"] = "worker"
    models: Names = (DEFAULT_MODEL,)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    weights: Literal["auto", "fp32", "int8"] = "auto"
    threads: int = Field(default=0, ge=0, le=512)
    max_batch: int = Field(default=8, ge=1, le=256)
    max_queue: int = Field(default=32, ge=0, le=4096)
    max_wait_s: float = Field(default=30.0, ge=0.1, le=3600)
    cache_mb: int = Field(default=1024, ge=16, le=1 << 20)
    memory_slack_mb: int = Field(default=1024, ge=64, le=1 << 20)
    group: bool = True
    step_log: str = Field(default="", max_length=4096)
    upstream_url: str = Field(default="", max_length=2048)
    upstream_key: str | None = Field(default=None, min_length=1, max_length=4096, repr=False)
    upstream_models: Pairs = {}
    upstream_context_tokens: int = Field(default=0, ge=0, le=1 << 24)

    @model_validator(mode="after")
    def _check_upstream(self) -> Self:
        if self.kind == "worker":
            given = [name for name in type(self).model_fields if name.startswith("upstream_")]
            for name in given:
                if getattr(self, name):
                    raise ValueError(f'{name} is set, but the engine is our own worker: set kind = "openai"')
            return self
        _check_base_url(self.upstream_url)
        if not re.fullmatch(r"[\x21-\x7e]*", self.upstream_key or ""):
            raise ValueError("upstream_key has characters that no key has")
        for alias in self.models:
            if not _ALIAS.fullmatch(alias):
                raise ValueError(f"model {alias!r} is no alias: letters, digits and ._:/+- only, 64 at most")
        if not 0 < len(set(self.models)) == len(self.models) <= MAX_UPSTREAM_MODELS:
            raise ValueError(f"models must be 1 to {MAX_UPSTREAM_MODELS} different aliases")
        for alias, name in self.upstream_models.items():
            if alias not in self.models:
                raise ValueError(f"upstream_models names {alias!r}, which models does not list")
            if not name:
                raise ValueError(f"upstream_models gives no name for {alias!r}")
        return self


def _check_base_url(url: str) -> None:
    """Raises ValueError, which says what to write."""
    if not url:
        raise ValueError(
            'kind = "openai" needs upstream_url, the base URL of a server: http://127.0.0.1:8000/v1'
        )
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        is_whole = parts.scheme in ("http", "https") and bool(host) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or not re.fullmatch(r"[\x21-\x7e]+", url):
        raise ValueError("upstream_url is not of the form http://HOST:PORT/v1 or https://HOST/v1")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "upstream_url must carry no user or password: put the server's key into upstream_key"
        )
    if parts.query or parts.fragment:
        raise ValueError("upstream_url must end with its path")


class ApiConfig(Section):
    """The local HTTP API. Port 0 takes a free one; a host other than loopback needs a key."""

    host: str = "127.0.0.1"
    port: int = Field(default=8160, ge=0, le=65535)
    key: str | None = Field(default=None, min_length=16, max_length=256, repr=False)
    max_body_bytes: int = Field(default=1 << 20, ge=1024, le=64 << 20)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the API."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @model_validator(mode="after")
    def _check_key(self) -> Self:
        if not self.is_loopback and self.key is None:
            raise ValueError(f"host {self.host!r} is not loopback: set api.key (16 characters or more)")
        return self


class LimitsConfig(Section):
    """Bounds on what this node gives and keeps."""

    connections: int = Field(default=500, ge=8, le=10_000)
    circuits: int = Field(default=4096, ge=16, le=100_000)
    circuits_per_neighbour: int = Field(default=256, ge=4, le=10_000)
    concurrent_requests: int = Field(default=32, ge=1, le=1024)
    answer_timeout_s: float = Field(default=300.0, ge=5, le=3600)
    kept_answers: int = Field(default=100, ge=1, le=100_000)
    drain_s: float = Field(default=10.0, ge=0, le=600)


class LoggingConfig(Section):
    """What is logged to stderr; `auto` is text on a terminal and JSON otherwise."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"


class Config(BaseSettings):
    """Everything a person can set. Build it with `load_config`."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENV_PREFIX, env_nested_delimiter=ENV_DELIMITER
    )

    network: NetworkConfig = NetworkConfig()
    roles: RolesConfig = RolesConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    engine: EngineConfig = EngineConfig()
    api: ApiConfig = ApiConfig()
    limits: LimitsConfig = LimitsConfig()
    logging: LoggingConfig = LoggingConfig()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed in: `load_config` reads every source itself, to name the one at fault."""
        return (init_settings,)


Table = dict[str, Any]
"""Nested plain values, as TOML gives them."""


def load_config(file: Path | None = None, flags: Mapping[str, object] | None = None) -> Config:
    """Read and check the configuration; flags are dotted keys (`privacy.n`) whose None values don't count.

    Raises:
        ConfigError: a key is unknown or its value is not allowed; every such key is named.
    """
    sources = {
        "flag": _nest(flags or {}),
        "environment": _read_environment(),
        str(file): _read_toml(file) if file is not None else {},
    }
    merged: Table = {}
    for table in reversed(list(sources.values())):
        merged = _merge(merged, table)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(explain(error, Config, sources)) from None


def _read_toml(file: Path) -> Table:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror}") from None


def _read_environment() -> Table:
    # pydantic-settings collects what it knows; an unknown section would be passed over in silence.
    try:
        table = EnvSettingsSource(Config)()
    except SettingsError as error:
        raise ConfigError(
            f"environment: {error}; write {ENV_PREFIX}SECTION{ENV_DELIMITER}KEY=value"
        ) from None
    for name in os.environ:
        section, delimiter, key = name.removeprefix(ENV_PREFIX).partition(ENV_DELIMITER)
        if name.startswith(ENV_PREFIX) and delimiter and section.lower() not in Config.model_fields:
            table[section.lower()] = {key.lower(): os.environ[name]}
    return table


def _nest(flags: Mapping[str, object]) -> Table:
    table: Table = {}
    for dotted, value in flags.items():
        if value is not None:
            section, _, key = dotted.partition(".")
            table.setdefault(section, {})[key] = value
    return table


def _merge(low: Table, high: Table) -> Table:
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
