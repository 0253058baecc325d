"""How soon a model group answers, by how its prompts are handed out, though every router's view is old.

`make bench-forwarding-sim ARGS="--trace FILE"`, or `python -m benchmarks.forwarding_sim --trace FILE`. FILE is a trace
in Mooncake's format (github.com/kvcache-ai/Mooncake, FAST25-release/traces/conversation_trace.jsonl); without one,
prompts with a Zipf law over shared beginnings are made from a fixed seed.

Virtual time. The routers under test run on `overlay.routing`, the code of the product; so do the others' views, each
with its published rule. Nodes are modelled: a step computes one token of each running answer and a chunk of the prompt
at the head of the queue, and takes the seconds of a step-time model. Their caches are LRU over the trace's blocks.
"""

import argparse
import heapq
import json
import math
import random  # noqa: TID251 - the same workload in every run, no secrets
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from benchmarks.forwarding.group import BLOCK_TOKENS, Node, Request, View
from benchmarks.forwarding.routers import ROUTERS, Router
from benchmarks.report import Target, print_report
from crypto.identity import NodeId

TRACE_STEP_S = 3.0


@dataclass
class Run:
    """One workload through one router. Seconds to first tokens and to whole answers, and the share of cached tokens."""

    router: Router
    entries: int
    gossip_s: float
    speeds: Sequence[float]
    seed: int
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)

    def play(self, requests: Sequence[Request]) -> "Run":
        """Until all are answered."""
        self._nodes = [Node(NodeId(bytes([i + 1]) * 32), speed) for i, speed in enumerate(self.speeds)]
        self._views = [View(self._nodes, self.seed * 1000 + i) for i in range(self.entries)]
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._count = 0
        draw = random.Random(self.seed)  # noqa: S311
        for request in requests:
            view = self._views[draw.randrange(self.entries)]
            self._at(request.at, partial(self._arrive, view, request))
        self._left = len(requests)
        if self.gossip_s:
            for index, node in enumerate(self._nodes):  # each at a time of its own
                self._at(self.gossip_s * index / len(self._nodes), partial(self._tell, node))
        while self._left:
            now, _, action = heapq.heappop(self._events)
            action(now)
        return self

    def _at(self, when: float, action: Callable[[float], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, action))

    def _arrive(self, view: View, request: Request, now: float) -> None:
        if not self.gossip_s:
            for node in self._nodes:
                self._publish(node, now)
        node, took = self.router(view, request, now)
        deliver = partial(self._deliver, view, node, request, view.note_sent(node, request, now))
        if took:
            self._at(now + took, deliver)
        else:
            deliver(now)

    def _deliver(self, view: View, node: Node, request: Request, uncached: int, now: float) -> None:
        view.note_arrived(node, uncached)
        if (
            node.phase is not None and not node.queue
        ):  # answers are running: the prompt comes in at the next step
            start, seconds, steps = node.phase
            done = min(steps, math.ceil((now - start) / seconds - 1e-9))
            if done < steps:
                node.version += 1
                node.phase = (start, seconds, done)
                self._at(max(now, start + done * seconds), partial(self._end_phase, node, node.version))
        node.add(request, now)
        if node.phase is None:
            self._begin(node, now)

    def _begin(self, node: Node, now: float) -> None:
        end = node.begin_phase(now)
        node.version += 1
        if end is not None:
            self._at(end, partial(self._end_phase, node, node.version))

    def _end_phase(self, node: Node, version: int, now: float) -> None:
        if version != node.version or node.phase is None:
            return
        for job, is_first in node.end_phase(node.phase[2]):
            if is_first:
                self.first.append(now - job.request.at)
            else:
                self.whole.append(now - job.request.at)
                self._left -= 1
        self._begin(node, now)

    def _tell(self, node: Node, now: float) -> None:
        self._publish(node, now)
        self._at(now + self.gossip_s, partial(self._tell, node))

    def _publish(self, node: Node, now: float) -> None:
        stored, node.stored = node.stored, []
        evicted, node.evicted = node.evicted, []
        for view in self._views:
            view.told(node, now)
            view.tree.store(node.node_id, stored)
            view.tree.evict(node.node_id, evicted)


def read_trace(path: Path, count: int, seed: int) -> list[Request]:
    """Requests of a trace in Mooncake's format, each seed's from another place in it.

    It has one moment about every three seconds; the requests of each are spread over the time until the next.
    """
    draw = random.Random(seed)  # noqa: S311
    found = []
    with path.open() as lines:
        for line in islice(lines, seed * count, (seed + 1) * count):
            row = json.loads(line)
            chain = tuple(int(each).to_bytes(8, "big") for each in row["hash_ids"])
            at = row["timestamp"] / 1000 + draw.uniform(0.0, TRACE_STEP_S)
            found.append(Request(at, chain, row["input_length"], max(1, row["output_length"])))
    start = min(each.at for each in found)
    found = [Request(each.at - start, each.chain, each.tokens, each.output) for each in found]
    return sorted(found, key=lambda request: request.at)


def make_zipf(count: int, rate: float, seed: int) -> list[Request]:
    """Prompts of one to eight shared blocks, whose beginnings follow Zipf's law (1.1), and one or two of their own."""
    draw = random.Random(seed)  # noqa: S311
    weights = [1 / (rank + 1) ** 1.1 for rank in range(200)]
    found, at, fresh = [], 0.0, 1 << 40
    for _ in range(count):
        at += draw.expovariate(rate)
        tool = draw.choices(range(200), weights)[0]
        shared = [tool * 100 + i for i in range(1 + tool % 8)]
        own = [fresh, fresh + 1][: draw.randint(1, 2)]
        fresh += 2
        chain = tuple(each.to_bytes(8, "big") for each in shared + own)
        found.append(Request(at, chain, len(chain) * BLOCK_TOKENS, draw.randint(50, 400)))
    return found


def summary(runs: Sequence[Run]) -> dict[str, float]:
    """Means over the seeds, and the range of the means."""
    means = [statistics.fmean(run.first) for run in runs]
    p99s = [statistics.quantiles(run.first, n=100)[98] for run in runs]
    return {
        "mean_s": round(statistics.fmean(means), 3),
        "least_s": round(min(means), 3),
        "most_s": round(max(means), 3),
        "p50_s": round(statistics.fmean(statistics.median(run.first) for run in runs), 3),
        "p99_s": round(statistics.fmean(p99s), 2),
        "whole_s": round(statistics.fmean(statistics.fmean(run.whole) for run in runs), 2),
    }


SPEEDS = {"alike": [1.0] * 8, "mixed": [1.0] * 4 + [0.5] * 2 + [0.25] * 2}
GRID = ((1, 0.0), (1, 1.0), (1, 5.0), (8, 0.0), (8, 1.0), (8, 5.0))
PUBLISHED = ("round-robin", "least-request", "sglang", "dynamo", "llm-d", "aibrix", "lmetric")
"""Those that go by the same old view. Power of two asks, as ours does, and is held against ours apart."""

Results = dict[str, dict[str, float]]


def judge(results: Results, speeds: str) -> list[Target]:
    """The bars, at 8 entry nodes and 5 s, against what is there."""

    def figure(router: str, what: str, where: str = "8 x 5 s") -> float:
        return results[f"{speeds}, {where}, {router}"][what]

    mean = figure("ours", "mean_s")
    fresh = figure("predicted wait", "mean_s", "1 x 0 s")
    best = min(figure(router, "mean_s") for router in PUBLISHED)
    probing, asking = figure("lmetric, 3 probes", "mean_s"), figure("power of two", "mean_s")
    targets = [
        Target(f"{speeds}: mean over one router's that sees all", round(mean / fresh, 3), 1.2, "lower")
    ]
    if speeds == "alike":
        targets += [
            Target("mean over the best published one's", round(mean / best, 3), 0.5, "lower"),
            Target("mean over LMetric's with the same probes", round(mean / probing, 3), 1.0, "lower"),
            Target("mean over power of two's, by live queues", round(mean / asking, 3), 1.0, "lower"),
        ]
    for entries, gossip_s in GRID:
        where = f"{entries} x {gossip_s:g} s"
        least = min(figure(router, "p99_s", where) for router in PUBLISHED)
        ratio = round(figure("ours", "p99_s", where) / least, 3)
        targets.append(Target(f"{speeds}, {where}: p99 over the best published one's", ratio, 1.0, "lower"))
    return targets


@dataclass(frozen=True, slots=True)
class Setting:
    """One router in one place of the grid."""

    trace: Path | None
    requests: int
    seeds: int
    speeds: str
    entries: int
    gossip_s: float
    router: str

    @property
    def name(self) -> str:
        """As the tables have it."""
        return f"{self.speeds}, {self.entries} x {self.gossip_s:g} s, {self.router}"

    def play(self) -> dict[str, float]:
        """All its seeds; every router gets the same requests."""
        runs = []
        for seed in range(self.seeds):
            requests = (
                read_trace(self.trace, self.requests, seed)
                if self.trace
                else make_zipf(self.requests, 10.0, seed)
            )
            run = Run(ROUTERS[self.router], self.entries, self.gossip_s, SPEEDS[self.speeds], seed)
            runs.append(run.play(requests))
        return summary(runs)


def main() -> None:
    """Play the grids and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, help="a trace in Mooncake's format")
    parser.add_argument("--requests", type=int, default=2400)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    settings = [
        Setting(options.trace, options.requests, options.seeds, speeds, entries, gossip_s, router)
        for speeds in SPEEDS
        for entries, gossip_s in GRID
        for router in ROUTERS
    ]
    results: Results = {}
    with ProcessPoolExecutor() as pool:
        for setting, found in zip(settings, pool.map(Setting.play, settings), strict=True):
            results[setting.name] = found
            print(f"{setting.name:40} {found}", flush=True)
    targets = [target for speeds in SPEEDS for target in judge(results, speeds)]
    print_report("forwarding_sim", results, targets)


if __name__ == "__main__":
    main()
