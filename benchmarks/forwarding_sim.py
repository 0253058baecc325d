"""How soon a model group answers, by how its prompts are handed out, though every router's view is old.

`make bench-forwarding ARGS="--trace FILE"`, or `python -m benchmarks.forwarding_sim --trace FILE`. FILE is a trace in
Mooncake's format (github.com/kvcache-ai/Mooncake, FAST25-release/traces/conversation_trace.jsonl); without one,
prompts with a Zipf law over shared beginnings are made from a fixed seed. `--fit LOG` takes a node's own step times
(lines of {"answers", "prompt_tokens", "attended", "seconds"}) in place of those assumed for an 8B model on one GPU.

Virtual time. The routers under test run on `overlay.routing`, the code of the product; so do the others' views, each
with its published rule. Nodes are modelled: a step computes one token of each running answer and a chunk of the prompt
at the head of the queue, and takes the seconds of a step-time model. Their caches are LRU over the trace's blocks.
"""

import argparse
import gc
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from benchmarks.forwarding.group import Request
from benchmarks.forwarding.play import Failure, Run
from benchmarks.forwarding.plot import draw
from benchmarks.forwarding.routers import ASKING, PUBLISHED, ROUTERS, VARIANTS
from benchmarks.forwarding.step_costs import ASSUMED, StepCosts, fit_steps
from benchmarks.forwarding.workloads import in_bursts, make_zipf, read_trace
from benchmarks.report import Target, print_report

GRID = ((1, 0.0), (1, 1.0), (1, 5.0), (8, 0.0), (8, 1.0), (8, 5.0))
OLDEST, FRESH = (8, 5.0), (1, 0.0)
SPEEDS = {"unlike": [1.0] * 4 + [0.5] * 2 + [0.25] * 2}
ALIKE = [1.0] * 8
FEW = (
    "round-robin",
    "power of two",
    "dynamo",
    "llm-d",
    "lmetric",
    "lmetric, asking",
    "predicted wait",
    "ours",
)
"""The routers that further workloads are played through."""
ZIPF_RATE = 10.0
FAILURES = ((1, 0.2, 0.4), (5, 0.5, 0.7))
"""Which node is gone from when until when, as parts of the whole time."""

Results = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Setting:
    """One router in one place."""

    workload: str
    entries: int
    gossip_s: float
    router: str

    @property
    def name(self) -> str:
        """As the results have it."""
        return f"{self.workload}, {self.entries} x {self.gossip_s:g} s, {self.router}"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    trace: Path | None
    requests: int
    seeds: int
    costs: StepCosts


def settings(options: Options) -> list[Setting]:
    """All that is played: the grid, then what has only old views."""
    found = [Setting("main", entries, gossip_s, router) for entries, gossip_s in GRID for router in ROUTERS]
    found += [Setting("unlike", *OLDEST, router) for router in ROUTERS]
    found += [Setting(workload, *OLDEST, router) for workload in ("main", "unlike") for router in VARIANTS]
    found.append(Setting("unlike", *FRESH, "predicted wait"))
    further = ["bursts", "failures", *(["tools"] if options.trace else [])]
    found += [Setting(workload, *OLDEST, router) for workload in further for router in FEW]
    return found


@lru_cache(maxsize=8)
def requests_of(options: Options, workload: str, seed: int) -> list[Request]:
    """Every router gets the same ones."""
    if workload == "tools" or not options.trace:
        made = make_zipf(options.requests, ZIPF_RATE, seed)
    else:
        made = read_trace(options.trace, options.requests, seed)
    return in_bursts(made) if workload == "bursts" else made


def play(options: Options, setting: Setting, seed: int) -> dict[str, float]:
    """One seed of one setting."""
    gc.disable()  # a run leaves little garbage in cycles, and its large tables are slow to search for it
    requests = requests_of(options, setting.workload, seed)
    ends = requests[-1].at
    gone = FAILURES if setting.workload == "failures" else ()
    run = Run(
        (ROUTERS | VARIANTS)[setting.router],
        setting.entries,
        setting.gossip_s,
        SPEEDS.get(setting.workload, ALIKE),
        seed,
        options.costs,
        [Failure(node, start * ends, end * ends) for node, start, end in gone],
    ).play(requests)
    deciles, centiles = statistics.quantiles(run.first, n=10), statistics.quantiles(run.first, n=100)
    return {
        "mean_s": statistics.fmean(run.first),
        "p50_s": statistics.median(run.first),
        "p90_s": deciles[8],
        "p99_s": centiles[98],
        "whole_s": statistics.fmean(run.whole),
        "cached": 1 - run.computed / sum(request.tokens for request in requests),
        "asked": run.asked / len(requests),
        "handed_on": run.handed_on / len(requests),
    }


def summary(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the seeds, and the range of the means and of the 99th percentiles."""
    found = {key: round(statistics.fmean(run[key] for run in runs), 3) for key in runs[0]}
    for key in ("mean_s", "p99_s"):
        found[f"{key}_least"] = round(min(run[key] for run in runs), 3)
        found[f"{key}_most"] = round(max(run[key] for run in runs), 3)
    return found


def judge(results: Results, played: Sequence[Setting]) -> list[Target]:
    """The bars, against what is there."""

    def figure(router: str, what: str = "mean_s", workload: str = "main", where=OLDEST) -> float:
        return results[Setting(workload, *where, router).name][what]

    def bar(what: str, value: float, over: float, most: float) -> Target:
        return Target(what, round(value / over, 3), most, "lower")

    mean, unlike = figure("ours"), figure("ours", workload="unlike")
    best = min(PUBLISHED, key=figure)
    targets = [
        bar(f"mean over the best published one's ({best})", mean, figure(best), 0.5),
        bar("mean over LMetric's with the same probes", mean, figure("lmetric, asking"), 1.0),
        bar("mean over power of two's, by live queues", mean, figure("power of two"), 1.0),
        bar("mean over one router's that sees all", mean, figure("predicted wait", where=FRESH), 1.2),
        bar(
            "unlike nodes: mean over one router's that sees all",
            unlike,
            figure("predicted wait", workload="unlike", where=FRESH),
            1.2,
        ),
    ]
    places = [(s.workload, (s.entries, s.gossip_s)) for s in played if s.router == "ours"]
    for workload, where in places:
        there = {s.router for s in played if (s.workload, (s.entries, s.gossip_s)) == (workload, where)}
        best = min(there & set(PUBLISHED), key=lambda router: figure(router, "p99_s", workload, where))
        over = figure(best, "p99_s", workload, where)
        what = f"{workload}, {where[0]} x {where[1]:g} s: p99 over the best published one's ({best})"
        targets.append(bar(what, figure("ours", "p99_s", workload, where), over, 1.0))
    return targets


def plot(results: Results) -> str:
    """With eight entry nodes: everybody at the oldest view, and by its age."""

    def of(router: str, gossip_s: float) -> dict[str, float]:
        found = results[Setting("main", 8, gossip_s, router).name]
        return {"mean_s": found["mean_s"], "least_s": found["mean_s_least"], "most_s": found["mean_s_most"]}

    bars = {router: of(router, 5.0) for router in ROUTERS}
    lines = {router: [of(router, gossip_s)["mean_s"] for gossip_s in (0.0, 1.0, 5.0)] for router in FEW}
    return draw(bars, lines, ASKING)


def main() -> None:
    """Play everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, help="a trace in Mooncake's format")
    parser.add_argument("--fit", type=Path, help="a log of a node's steps, for the step-time model")
    parser.add_argument("--plot", type=Path, help="where to write the results as SVG")
    parser.add_argument("--requests", type=int, default=2400, help="for each seed")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    costs = fit_steps(args.fit) if args.fit else ASSUMED
    print(f"a step's costs: {asdict(costs)}", flush=True)
    options = Options(args.trace, args.requests, args.seeds, costs)
    played = settings(options)
    results: Results = {}
    with ProcessPoolExecutor() as pool:
        waiting = [[pool.submit(play, options, each, seed) for seed in range(args.seeds)] for each in played]
        for setting, seeds in zip(played, waiting, strict=True):
            found = results[setting.name] = summary([each.result() for each in seeds])
            print(f"{setting.name:38} {found}", flush=True)
    if args.plot:
        args.plot.write_text(plot(results), "utf-8")
    print_report("forwarding", results, judge(results, played))


if __name__ == "__main__":
    main()
