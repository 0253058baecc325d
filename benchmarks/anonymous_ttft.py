"""What anonymity costs: the same prompt to the same model node, through circuits and directly, in one run.

Brings up a local network of 16 relays, 2 model nodes and a client. *Direct* is the model node's own HTTP API, which
hands the prompt to its engine; *anonymous* is the client's API, which sends it through four circuits of three
relays. Both answers carry a receipt. The two take turns, so that a busy machine slows both, and each waits until
the cover traffic of the one before is over; medians are compared.

    python -m benchmarks.anonymous_ttft [--rounds 9] [--tokens 48] [--quick]
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.report import Target, print_report
from node.engine.models import ModelStore
from node.home import Home
from node.testbed import bring_up, take_down
from node.testbed_plan import lay_out
from node.testbed_record import NetworkRecord, NodeEntry
from overlay.protocol.answer_sender import TAIL_S, TICK_S, bucket_s

MODEL = "smollm2-135m"
PROMPT = "Explain in a few sentences how a lighthouse works."
CONCURRENCY = (1, 4, 8)
OVERHEAD_BAR_MS = TICK_S / 2 * 1000 + 20


@dataclass(frozen=True, slots=True)
class Timing:
    """One answer, as its reader sees it. Seconds."""

    first_s: float
    whole_s: float
    tokens: int

    @property
    def per_token_s(self) -> float:
        """Between tokens, after the first."""
        return (self.whole_s - self.first_s) / max(1, self.tokens - 1)


def ask(url: str, tokens: int, seed: int) -> Timing:
    """Stream one answer of exactly so many tokens (the model is not let end it before)."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": PROMPT}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": tokens,
        "seed": seed,
    }
    start = time.perf_counter()
    first, count = None, 0
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=300, trust_env=False) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if first is None and any(c["delta"].get("content") for c in chunk["choices"]):
                first = time.perf_counter()
            if chunk.get("usage"):
                count = chunk["usage"]["completion_tokens"]
    end = time.perf_counter()
    if first is None or not count:
        raise RuntimeError("the answer had no tokens")
    return Timing(first - start, end - start, count)


def throughput(url: str, concurrency: int, tokens: int, seed: int) -> float:
    """Tokens a second of so many answers at once."""
    start = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        answers = list(pool.map(lambda offset: ask(url, tokens, seed + offset), range(concurrency)))
    return sum(answer.tokens for answer in answers) / (time.perf_counter() - start)


def await_quiet(answer_s: float) -> None:
    """Wait until the cover traffic that draws an answer out to a round duration is over.

    It would be charged to whoever is measured next, which is the direct one.
    """
    time.sleep(bucket_s(answer_s + TAIL_S) - answer_s)


def answering_node(record: NetworkRecord, client: NodeEntry) -> NodeEntry:
    """The model node that the client's circuits lead to, by an answer's account."""
    ask(client.api_url, 4, 0)
    token = Home(Path(client.home)).admin_token()
    headers = {"Authorization": f"Bearer {token}"}
    reply = httpx.get(f"{client.api_url}/api/v1/answers/last", headers=headers, trust_env=False)
    node_id = reply.raise_for_status().json()["account"]["node"]
    return next(node for node in record.nodes if node.node_id == node_id)


def measure(record: NetworkRecord, rounds: int, tokens: int) -> tuple[dict[str, object], list[Target]]:
    """Take turns, round by round."""
    client = record.client
    if client is None:
        raise RuntimeError("a network without a client")
    urls = {"direct": answering_node(record, client).api_url, "anonymous": client.api_url}
    for url in urls.values():
        ask(url, tokens, 0)
    single: dict[str, list[Timing]] = {name: [] for name in urls}
    for round_ in range(rounds):
        for name, url in urls.items():
            single[name].append(ask(url, tokens, round_))
            await_quiet(single[name][-1].whole_s)
    results: dict[str, object] = {}
    first, token = median_ms(single, lambda t: t.first_s), median_ms(single, lambda t: t.per_token_s)
    for name in urls:
        results[name] = {"first_token_ms": first[name], "per_token_ms": token[name]}
        print(f"{name:10} first token {first[name]:7.1f} ms   per token {token[name]:6.1f} ms")
    added = round(statistics.median(paired_differences_ms(single)), 1)
    results["added_first_token_ms"] = added
    targets = [Target("added time to first token, median, ms", added, OVERHEAD_BAR_MS, "lower")]
    for concurrency in CONCURRENCY:
        rates: dict[str, list[float]] = {name: [] for name in urls}
        for round_ in range(max(3, rounds // 3)):
            for name, url in urls.items():
                start = time.perf_counter()
                rates[name].append(throughput(url, concurrency, tokens, round_))
                await_quiet(time.perf_counter() - start)
        ratio = round(statistics.median(rates["anonymous"]) / statistics.median(rates["direct"]), 3)
        medians = {name: round(statistics.median(rate), 1) for name, rate in rates.items()}
        results[f"tokens_per_s_at_{concurrency}"] = {**medians, "ratio": ratio}
        direct, anonymous = medians["direct"], medians["anonymous"]
        print(f"{concurrency} at once: direct {direct} tokens/s, anonymous {anonymous}, ratio {ratio}")
        targets.append(
            Target(f"tokens/s, anonymous over direct, {concurrency} at once", ratio, 0.95, "higher")
        )
    return results, targets


def median_ms(single: dict[str, list[Timing]], figure: Callable[[Timing], float]) -> dict[str, float]:
    """Medians by name."""
    return {name: round(statistics.median(map(figure, runs)) * 1000, 1) for name, runs in single.items()}


def paired_differences_ms(single: dict[str, list[Timing]]) -> list[float]:
    """What each anonymous first token took longer than the direct one of its round."""
    pairs = zip(single["anonymous"], single["direct"], strict=True)
    return [(anonymous.first_s - direct.first_s) * 1000 for anonymous, direct in pairs]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--quick", action="store_true", help="few rounds, for a look")
    options = parser.parse_args()
    rounds, tokens = (3, 16) if options.quick else (options.rounds, options.tokens)
    os.environ.setdefault("CLOVE_MODELS", str(Path(__file__).parents[1] / ".models"))
    with tempfile.TemporaryDirectory() as folder:
        base = Home(Path(folder))
        ModelStore(base.models_dir).find(MODEL)
        record = bring_up(
            base, lay_out(base, nodes=19, models=2, model=MODEL), timeout_s=180, show=lambda _: None
        )
        try:
            results, targets = measure(record, rounds, tokens)
        finally:
            take_down(base)
    print_report("anonymous_ttft", {"rounds": rounds, "tokens": tokens, **results}, targets)


if __name__ == "__main__":
    main()
