"""How the engine is run: what the daemon's configuration says about it, and the bounds."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """threads 0: every core that the process may use. max_queue: requests beyond max_batch that may wait.

    context_tokens and cache_bytes, which all models share, cut what a model's context could be; slack_bytes: what the
    worker may take over what it needs; cache_key keys the hashes of what
    is in the cache (empty: the worker draws one); stuck_after_s and start_timeout_s say how long a silent worker lives.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    max_batch: int = 8
    max_queue: int = 32
    context_tokens: int = 8192
    cache_bytes: int = 1 << 30
    slack_bytes: int = 1 << 30
    cache_key: bytes = b""
    stuck_after_s: float = 60.0
    start_timeout_s: float = 180.0
