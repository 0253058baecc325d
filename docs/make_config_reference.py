"""Writes the table of settings into docs/operations.md from `node.config`, so that the two can't disagree.

    python docs/make_config_reference.py            rewrites the table
    python docs/make_config_reference.py --check    exits 1 where it would change something

What a key is for stands here, beside nothing else: `node.config` says type, range and default.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

PAGE = Path(__file__).parent / "operations.md"
BEGIN = "<!-- settings: written by docs/make_config_reference.py -->"
END = "<!-- end of settings -->"

PURPOSE = {
    "network.id": "which overlay this node joins: lower-case letters, digits, dots and dashes, 63 at most. "
    "Nodes of another overlay are refused",
    "network.bootstrap": "nodes to join by, as `/ip4/ADDRESS/tcp/PORT/p2p/PEER` (also ip6, dns, dns4, dns6)",
    "network.listen": "where other nodes reach this one, as `/ip4/ADDRESS/tcp/PORT`; port 0 takes a free one",
    "network.announce": "addresses to give to others instead of those listened on, for a node behind NAT",
    "network.profile": "`test`: faster timers, private addresses allowed, for networks on one machine",
    "network.allow_private": "dial private and loopback addresses that strangers announce; for a LAN of your own",
    "network.operator": "who runs this node; relays of one operator are not used together",
    "roles.relay": "carry sealed cells of others",
    "roles.model": "serve the models of `engine.models`",
    "roles.client": "ask, and serve the local API's completions",
    "privacy.n": "cloves of a prompt, one over each of n disjoint circuits",
    "privacy.k": "so many cloves are enough; at most n",
    "privacy.hops": "relays of a circuit",
    "privacy.diversity": "`strict`: one relay per network (/24, /48) and per operator over all paths. `local`: merely "
    "different relays, no anonymity claimed",
    "privacy.lifetime_s": "seconds until a circuit is replaced, give or take a tenth",
    "privacy.forward": "`group`: the model node asked may hand a prompt to another one of the same model that answers "
    "sooner; both read it. `none`: it answers itself, or refuses",
    "engine.kind": "what answers: `worker`, this node's own; `openai`, a server that you run already",
    "engine.models": "models to serve, by alias or model id; they must be stored, or served by the upstream engine",
    "engine.device": "where the model runs; `auto` is CUDA where there is one",
    "engine.weights": "how a CPU keeps the weights of a model's matrices: `int8` is half again to twice as fast as "
    "`fp32`; `auto` is int8. Each is a numerics class of its own. GPUs compute in bf16",
    "engine.threads": "CPU threads of the engine; 0: all cores",
    "engine.max_batch": "answers that each model generates at once; prompts that an upstream engine is given at once",
    "engine.cache_mb": "MiB for keys and values, shared out among the models so that each can hold as many tokens: of "
    "running answers, and of beginnings that are kept for later prompts",
    "engine.memory_slack_mb": "MiB that the worker may take over what it had when it was ready, its cache included; "
    "one that takes more is started again",
    "engine.step_log": "a file to which the seconds of every step are appended, 64 MiB at most; for "
    '`make bench-forwarding ARGS="--fit FILE"`; empty: none',
    "engine.group": "hand prompts to other nodes of the same model where they begin sooner, and answer theirs; for "
    "`worker` only",
    "engine.max_queue": "prompts that may wait beyond these; over it they are refused",
    "engine.upstream_url": "base URL of the upstream engine, as OpenAI's clients take it: `http://127.0.0.1:8000/v1`",
    "engine.upstream_key": "the key that it asks for, if it does",
    "engine.upstream_models": "its names of models, where they are not the aliases of `engine.models`. In TOML "
    '`{"llama-8b" = "meta-llama/Llama-3.1-8B-Instruct"}`, elsewhere `llama-8b=meta-llama/Llama-3.1-8B-Instruct`',
    "engine.upstream_context_tokens": "longest prompt plus answer; 0: the server says it, as vLLM, SGLang and "
    "llama.cpp do",
    "engine.max_wait_s": "seconds to a first token over which a prompt is refused rather than queued, unless nothing "
    "is ahead of it",
    "api.host": "where the local API listens; anything but loopback needs `api.key`",
    "api.port": "its port; 0 takes a free one",
    "api.key": "bearer key that requests must carry",
    "api.max_body_bytes": "longest request body",
    "limits.connections": "libp2p connections",
    "limits.circuits": "circuits through this node as a relay",
    "limits.circuits_per_neighbour": "of which one neighbour may have so many",
    "limits.concurrent_requests": "answers under way through the local API; over it requests get 429",
    "limits.answer_timeout_s": "seconds in which an answer must be whole",
    "limits.kept_answers": "answers kept for `clove verify`; the oldest goes",
    "limits.drain_s": "seconds that answers under way get when the daemon stops",
    "logging.level": "least level that is logged",
    "logging.format": "`auto`: text on a terminal, JSON lines elsewhere",
}


def main() -> None:
    """Write the table, or with --check see whether it is the one that would be written."""
    page = PAGE.read_text("utf-8")
    wanted = replaced(page)
    if "--check" in sys.argv[1:]:
        sys.exit(page != wanted)
    PAGE.write_text(wanted, "utf-8")


def replaced(page: str) -> str:
    """The page with the table as it should be."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}{END}{after}"


def table() -> str:
    """The settings as a Markdown table. Raises KeyError for one whose purpose nobody has written down."""
    from node.config_errors import allowed_values

    rows = ["| key | allowed | default | what it is for |", "| --- | --- | --- | --- |"]
    rows += [
        f"| `{key}` | {allowed_values(field)} | {_default(field)} | {PURPOSE[key]} |"
        for key, field in settings()
    ]
    return "\n".join(rows) + "\n"


def settings() -> Iterator[tuple[str, FieldInfo]]:
    """Every key with its field."""
    from node.config import Config

    for section, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            for key, inner in field.annotation.model_fields.items():
                yield f"{section}.{key}", inner


def _default(field: FieldInfo) -> str:
    value = field.default
    return "none" if value is None else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
