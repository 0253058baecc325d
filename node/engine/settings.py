"""How the engine is run: what the daemon's configuration says about it, and the bounds."""

import math
from dataclasses import dataclass, field
from typing import Literal

WeightsChoice = Literal["auto", "fp32", "int8"]

NUMERICS = {"fp32": "torch-fp32", "int8": "int8-fp32", "bf16": "torch-bf16"}
"""Names of the arithmetic, as receipts and descriptors carry them, by how the weights are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """threads 0: every core that the process may use. max_queue: requests beyond max_batch that may wait.

    max_wait_s: a prompt whose first token is further off is refused, unless nothing is ahead of it.
    weights: how those of linear layers are kept on a CPU; auto is int8.
    context_tokens and cache_bytes, which all models share, cut what a model's context could be; slack_bytes: what the
    worker may take over what it needs; cache_key keys the hashes of what
    is in the cache (empty: the worker draws one); stuck_after_s and start_timeout_s say how long a silent worker lives.
    step_log: a file to which the seconds of every step are appended; empty: none.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    weights: WeightsChoice = "auto"
    threads: int = 0
    max_batch: int = 8
    max_queue: int = 32
    max_wait_s: float = math.inf
    context_tokens: int = 8192
    cache_bytes: int = 1 << 30
    slack_bytes: int = 1 << 30
    cache_key: bytes = b""
    stuck_after_s: float = 60.0
    start_timeout_s: float = 180.0
    step_log: str = ""


@dataclass(frozen=True, slots=True)
class UpstreamModel:
    """A model of an upstream engine: the alias that the network sees, and the name that the server knows."""

    alias: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSettings:
    """url: base of the server's API, with its /v1. context_tokens None: the server says it.

    max_batch: prompts that the server is given at once; max_queue: those that may wait for it here. It is looked at
    every look_s. first_text_timeout_s bounds its queue and the reading of the prompt, pause_timeout_s what follows.
    connect_timeout_s is less than look_timeout_s: a handshake cancelled from outside leaves httpx's socket open.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    models: tuple[UpstreamModel, ...]
    context_tokens: int | None = None
    max_batch: int = 8
    max_queue: int = 32
    connect_timeout_s: float = 3.0
    first_text_timeout_s: float = 120.0
    pause_timeout_s: float = 30.0
    look_s: float = 5.0
    look_timeout_s: float = 5.0
