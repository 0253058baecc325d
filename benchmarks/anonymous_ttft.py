"""What anonymity costs: the same prompt to the same model node, through circuits and directly, in one run.

Brings up a local network of 16 relays, 2 model nodes and a client. *Direct* is the model node's own HTTP API, which
hands the prompt to its engine; *anonymous* is the client's API, which sends it through four circuits of three
relays. Both answers carry a receipt. The two take turns, so that a busy machine slows both, and each waits until
the cover traffic of the one before is over; ratios are of the two in one round, and medians are given.

The engine has a CPU to itself in both cases, and all else shares the rest: relays are other people's machines, and
what sixteen of them take from an engine on the same two cores is not what anonymity costs. That is reported beside it,
as CPU seconds of the whole network for a thousand tokens.

    python -m benchmarks.anonymous_ttft [--rounds 9] [--tokens 96] [--quick]
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

from benchmarks.relay_process import cpu_s
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


def give_engine_a_cpu(record: NetworkRecord, node: NodeEntry) -> bool:
    """Pin the node's engine to one CPU and all else, this process too, to the others; False where there is but one."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        return False
    engines = set(children_of(node.pid))
    everyone = {os.getpid(), *(each.pid for each in record.nodes)}
    everyone |= {child for pid in everyone for child in children_of(pid)}
    for pid in everyone:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {cpus[-1]} if pid in engines else set(cpus[:-1]))
    return True


def children_of(pid: int) -> list[int]:
    """Processes that a process started."""
    listed = [(task / "children").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
    return [int(child) for children in listed for child in children]


def network_cpu_s(record: NetworkRecord) -> float:
    """CPU seconds that all daemons have used, without their engines."""
    return sum(cpu_s(each.pid) for each in record.nodes)


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
    node = answering_node(record, client)
    urls = {"direct": node.api_url, "anonymous": client.api_url}
    results: dict[str, object] = {"engine_has_a_cpu": give_engine_a_cpu(record, node)}
    for url in urls.values():
        ask(url, tokens, 0)
    single: dict[str, list[Timing]] = {name: [] for name in urls}
    for round_ in range(rounds):
        for name, url in urls.items():
            single[name].append(ask(url, tokens, round_))
            if name == "anonymous":
                await_quiet(single[name][-1].whole_s)
    first, token = median_ms(single, lambda t: t.first_s), median_ms(single, lambda t: t.per_token_s)
    for name in urls:
        results[name] = {"first_token_ms": first[name], "per_token_ms": token[name]}
        print(f"{name:10} first token {first[name]:7.1f} ms   per token {token[name]:6.1f} ms")
    added = round(statistics.median(paired_differences_ms(single)), 1)
    results["added_first_token_ms"] = added
    targets = [Target("added time to first token, median, ms", added, OVERHEAD_BAR_MS, "lower")]
    for concurrency in CONCURRENCY:
        figures = compare_throughput(record, urls, concurrency, tokens, max(3, rounds * 5 // 9))
        results[f"tokens_per_s_at_{concurrency}"] = figures
        print(f"{concurrency} at once: " + ", ".join(f"{name} {value}" for name, value in figures.items()))
        what = f"tokens/s, anonymous over direct, {concurrency} at once"
        targets.append(Target(what, figures["ratio"], 0.95, "higher"))
    return results, targets


def compare_throughput(
    record: NetworkRecord, urls: dict[str, str], concurrency: int, tokens: int, rounds: int
) -> dict[str, float]:
    """Tokens a second of both, the ratio, and the CPU seconds that the network takes for 1,000 anonymous tokens."""
    rates: dict[str, list[float]] = {name: [] for name in urls}
    spent = []
    for round_ in range(rounds):
        rates["direct"].append(throughput(urls["direct"], concurrency, tokens, round_))
        start, used = time.perf_counter(), network_cpu_s(record)
        rates["anonymous"].append(throughput(urls["anonymous"], concurrency, tokens, round_))
        took = time.perf_counter() - start
        spent.append(1000 * (network_cpu_s(record) - used) / (rates["anonymous"][-1] * took))
        await_quiet(took)
    pairs = zip(rates["anonymous"], rates["direct"], strict=True)
    return {
        **{name: round(statistics.median(rate), 1) for name, rate in rates.items()},
        "ratio": round(statistics.median(anonymous / direct for anonymous, direct in pairs), 3),
        "network_cpu_s_per_1000_tokens": round(statistics.median(spent), 1),
    }


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
    parser.add_argument("--tokens", type=int, default=96)
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
