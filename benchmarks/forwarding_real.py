"""How soon real engines answer by how prompts are handed out: four model nodes on this machine, and the product's code.

    python -m benchmarks.forwarding_real [--queries FILE] [--rates 1.2 1.6 2.0] [--requests 80] [--arms ours ...]

Four engines, each a worker process with one thread and SmolLM2-135M. Above each, in this process, the product's
`Groups`: it measures prompts, tells and hears loads and caches by signed gossip, asks, hands over, hands on. Every node
is entry for each fourth prompt, so its view of the three others is old. The rules differ in nothing but who is chosen
(`benchmarks/forwarding/arms.py`). Links are queues with 20 ms to the other side.

*Engines must not measure each other.* Each is held to .4 of a core by a process that stops and continues it
(`benchmarks/forwarding/cpu_cap.py`; no control groups, no rights needed), so that two cores have .4 left for the rest.
Printed for every run: `share`, the CPU time that the engines took while they had work (about .40, else the machine was
too busy for this to mean much), and `busy`, the part of the time in which they had work.

*Prompts* have at most 512 tokens: a system message that lists a set of tools, drawn by Zipf's law (1.1) from SETS of
them, then part of a query; cache "public". `--queries` takes ToolBench's (lines of {"query", "tools"}), else they are
made up. Answers are 16 tokens, temperature 0. Every rule gets the same prompts at the same times, and empty caches: a
run has a salt of its own before each prompt, so nothing that is cached is of use to another run. An engine's cache
holds about a third of what all tool lists take. Arrivals are a Poisson process that does not wait for answers; times
count from when a prompt was due. The first WARM_UP of a run's prompts are not counted.

RATES are fixed: at the middle one, engines are to be busy 70 to 80 % of the time under round-robin on the machine that
they were chosen on; `calibrated` in the results says whether they were. `--rounds` plays all again with other prompts.
"""

import argparse
import os
import statistics
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from benchmarks.forwarding.arms import ARMS, OURS, ROUND_ROBIN, NamelessMeter
from benchmarks.forwarding.cpu_cap import cpu_s, held_to
from benchmarks.forwarding.nodes import Fleet, ModelNode
from benchmarks.forwarding.tool_prompts import Ask, Count, ToolSet, make_asks, make_sets, read_sets
from benchmarks.report import Target, print_report
from node.config import LoggingConfig
from node.engine.models import ModelStore
from node.engine.prompt_meter import PromptMeter
from node.engine.settings import EngineSettings
from node.engine.supervisor import Engine
from node.engine.tokenizer import PromptTokenizer
from node.logs import configure_logs
from overlay.wire.answer import AnswerEvent, AnswerFailed, AnswerFinished, TokensGenerated
from overlay.wire.prompt import ChatMessage, Prompt, SamplerSpec, Task

ROOT = Path(__file__).parents[1]
MODEL = "smollm2-135m"
NODES, SHARE = 4, 0.4
RATES = (1.1, 1.35, 1.6)
"""Prompts a second of all four."""
REQUESTS, WARM_UP = 70, 0.2
SETS = 40
CACHE_BYTES = 3072 * 46_080
"""Tokens, times what keys and values of one take in this model."""
ANSWER_TOKENS, MOST_PROMPT_TOKENS = 16, 512
SEED = 1
LOOK_S = 0.02
SAMPLER = SamplerSpec(temperature=0.0, max_tokens=ANSWER_TOKENS, min_tokens=ANSWER_TOKENS)
SETTINGS = EngineSettings(device="cpu", threads=1, max_batch=8, max_queue=10_000, cache_bytes=CACHE_BYTES)


@dataclass(slots=True)
class Answer:
    """What became of one prompt, in seconds from when it was due."""

    due: float
    first_s: float | None = None
    whole_s: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    failure: str | None = None

    async def note(self, event: AnswerEvent) -> None:
        """An event of the answer has come to who asked."""
        passed = trio.current_time() - self.due
        match event:
            case TokensGenerated():
                self.first_s = passed if self.first_s is None else self.first_s
            case AnswerFinished():
                self.whole_s = passed
                self.prompt_tokens, self.cached_tokens = event.prompt_tokens, event.cached_tokens
            case AnswerFailed():
                self.failure = event.code


@dataclass(slots=True)
class Busyness:
    """How much the engines had to do while counted, by looks at them; and the CPU time that they took."""

    looks: int = 0
    busy: list[int] = field(default_factory=lambda: [0] * NODES)
    cpu: list[float] = field(default_factory=lambda: [0.0] * NODES)
    seconds: float = 0.0

    async def watch(self, engines: Sequence[Engine], scope: trio.CancelScope) -> None:
        """Look until the scope is cancelled."""
        began, before = trio.current_time(), [_cpu_of(engine) for engine in engines]
        with scope:
            while True:
                await trio.sleep(LOOK_S)
                self.looks += 1
                for number, engine in enumerate(engines):
                    self.busy[number] += engine.active_requests > 0
        self.seconds = trio.current_time() - began
        self.cpu = [_cpu_of(engine) - spent for engine, spent in zip(engines, before, strict=True)]

    def summary(self) -> dict[str, object]:
        """busy: of each engine; share: of a core while they had work."""
        parts = [each / max(1, self.looks) for each in self.busy]
        share = sum(self.cpu) / max(1e-9, sum(parts) * self.seconds)
        return {
            "busy": round(statistics.fmean(parts), 3),
            "busy_each": [round(each, 2) for each in parts],
            "share": round(share, 3),
        }


def _cpu_of(engine: Engine) -> float:
    if engine.worker_pid is None:
        raise RuntimeError("an engine has died; see its log")
    return cpu_s(engine.worker_pid)


async def answer(node: ModelNode, ask: Ask, salt: str, found: Answer) -> None:
    """One prompt, through the node that it comes to."""
    messages = (ChatMessage("system", f"{salt} {ask.system}"), ChatMessage("user", ask.user))
    prompt = Prompt(model=MODEL, messages=messages, sampler=SAMPLER, nonce=bytes(32))
    await node.groups.forwarder.answer(Task(prompt=prompt, blinding=bytes(32), cache="public"), found.note)


async def play(nodes: Sequence[ModelNode], asks: Sequence[Ask], rate: float, salt: str) -> dict[str, object]:
    """Ask all at their times; the figures of those that count."""
    due, answers = trio.current_time(), []
    skipped = int(len(asks) * WARM_UP)
    engines = [node.engine for node in nodes]
    busyness = Busyness()
    own_cpu, own_start = time.process_time(), time.perf_counter()
    async with trio.open_nursery() as nursery:
        watching = trio.CancelScope()
        for number, ask in enumerate(asks):
            due += ask.gap / rate
            await trio.sleep_until(due)
            if number == skipped:
                nursery.start_soon(busyness.watch, engines, watching)
            answers.append(Answer(due))
            nursery.start_soon(answer, nodes[number % NODES], ask, salt, answers[-1])
        watching.cancel()  # what is left when no more come is less load than there was
    counters = sum(
        (node.groups.hands.counters for node in nodes), start=type(nodes[0].groups.hands.counters)()
    )
    return (
        describe(answers[skipped:])
        | busyness.summary()
        | {
            "asked": round(counters["questions_answered"] / len(asks), 2),
            "elsewhere": round(counters["handed_over"] / len(asks), 2),
            "own_share": round((time.process_time() - own_cpu) / (time.perf_counter() - own_start), 2),
        }
    )


def describe(answers: Sequence[Answer]) -> dict[str, object]:
    """Seconds to the first token and the last, and the part of prompt tokens that were cached."""
    done = [each for each in answers if each.first_s is not None and each.whole_s is not None]
    first = [each.first_s for each in done if each.first_s is not None]
    whole = [each.whole_s for each in done if each.whole_s is not None]
    cuts = statistics.quantiles(first, n=100)
    return {
        "mean_s": round(statistics.fmean(first), 3),
        "p50_s": round(cuts[49], 3),
        "p90_s": round(cuts[89], 3),
        "whole_s": round(statistics.fmean(whole), 3),
        "hits": round(sum(each.cached_tokens for each in done) / sum(each.prompt_tokens for each in done), 3),
        "counted": len(done),
        "failed": len(answers) - len(done),
        "longest_prompt": max(each.prompt_tokens for each in done),
    }


Results = dict[str, dict[str, object]]


async def measure(options: argparse.Namespace, folder: Path) -> Results:
    """All rounds of all rates of all arms. One's figures are called `RATE/s, ARM`, and are means over the rounds."""
    tokenizer = PromptTokenizer(folder)
    sets, count = load_sets(options.queries, tokenizer)
    meters = {True: PromptMeter(folder), False: NamelessMeter(folder)}
    for meter in meters.values():
        await meter.load()
    runs: dict[str, list[dict[str, object]]] = {}
    async with opened_engines(folder, options.share) as engines:
        fleet = Fleet(engines, os.urandom)
        await get_used(engines, sets)
        salt = 0
        for round_ in range(options.rounds):
            asks = make_asks(sets, options.requests, count, SEED + round_)
            for rate in options.rates:
                for name in options.arms:
                    arm, salt = ARMS[name], salt + 1
                    async with fleet.opened(meters[arm.knows_prefixes], arm.make) as nodes:
                        found = await play(nodes, asks, rate, f"Run {salt:04}.")
                    runs.setdefault(f"{rate:g}/s, {name}", []).append(found)
                    print(f"{rate:g}/s, {name:20} {found}", flush=True)
        if any(engine.restarts for engine in engines):
            raise RuntimeError("an engine has died meanwhile; see its log")
    return {name: average(found) for name, found in runs.items()}


def load_sets(queries: Path | None, tokenizer: PromptTokenizer) -> tuple[list[ToolSet], Count]:
    """The tool sets, and what counts tokens."""

    def count(text: str) -> int:
        return len(tokenizer.encode(Prompt(model=MODEL, text=text, sampler=SAMPLER, nonce=bytes(32))))

    sets = read_sets(queries, SETS, count) if queries else make_sets(SETS, count, SEED)
    lengths = [count(each.listing) for each in sets]
    print(
        f"{len(sets)} tool sets of {min(lengths)} to {max(lengths)} tokens, {sum(lengths)} in all", flush=True
    )
    return sets, count


@asynccontextmanager
async def opened_engines(folder: Path, share: float) -> AsyncGenerator[list[Engine], None]:
    """Engines that are held to their share."""
    engines = [Engine([folder], SETTINGS) for _ in range(NODES)]
    async with trio.open_nursery() as nursery:
        for engine in engines:
            await nursery.start(engine.serve)
        pids = [engine.worker_pid for engine in engines if engine.worker_pid is not None]
        async with held_to(share, pids):
            yield engines
        nursery.cancel_scope.cancel()


async def get_used(engines: Sequence[Engine], sets: Sequence[ToolSet]) -> None:
    """Let the engines learn how fast they are with what they have."""
    async with trio.open_nursery() as nursery:
        for engine in engines:
            nursery.start_soon(_use, engine, sets)


async def _use(engine: Engine, sets: Sequence[ToolSet]) -> None:
    for pair in range(3):
        async with trio.open_nursery() as nursery:
            for each in sets[2 * pair : 2 * pair + 2]:
                nursery.start_soon(_generate, engine, each.listing)


async def _generate(engine: Engine, text: str) -> None:
    prompt = Prompt(model=MODEL, text=text, sampler=SAMPLER, nonce=bytes(32))
    async with engine.generate(prompt, cache="none") as events:
        async for _ in events:
            pass


def average(found: Sequence[dict[str, object]]) -> dict[str, object]:
    """Means over the rounds, and all rounds' means of the first token's time where there are several."""
    keys = [key for key, value in found[0].items() if isinstance(value, int | float)]
    means: dict[str, object] = {key: round(statistics.fmean(each[key] for each in found), 3) for key in keys}
    return means | {"mean_s_each": [each["mean_s"] for each in found], "busy_each": found[0]["busy_each"]}


def judge(results: Results, rates: Sequence[float], arms: Sequence[str]) -> list[Target]:
    """The bars, as far as what they need was measured."""
    if OURS not in arms:
        return []

    def mean_s(rate: float, arm: str) -> float:
        return float(results[f"{rate:g}/s, {arm}"]["mean_s"])

    targets = []
    middle = sorted(rates)[len(rates) // 2]
    if ROUND_ROBIN in arms:
        over = round(mean_s(middle, OURS) / mean_s(middle, ROUND_ROBIN), 3)
        targets.append(
            Target(f"{middle:g}/s: mean time to the first token over round-robin's", over, 0.5, "lower")
        )
    others = [arm for arm in arms if arm != OURS]
    for rate in rates if others else ():
        best = min(others, key=lambda arm: mean_s(rate, arm))
        over = round(mean_s(rate, OURS) / mean_s(rate, best), 3)
        targets.append(Target(f"{rate:g}/s: mean over the best other arm's ({best})", over, 1.0, "lower"))
    return targets


def print_table(results: Results) -> None:
    """For people."""
    columns = ("mean_s", "p50_s", "p90_s", "whole_s", "hits", "busy", "share", "asked", "elsewhere", "failed")
    print("\n" + " " * 28 + "".join(f"{column:>10}" for column in columns))
    for name, found in results.items():
        print(f"{name:28}" + "".join(f"{found[column]:>10}" for column in columns))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=Path, help="ToolBench's queries; without, tools are made up")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="prompts a second")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="of each run, with those not counted")
    parser.add_argument("--share", type=float, default=SHARE, help="of a core, for each engine")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    configure_logs(LoggingConfig(level="warning"))
    store = ModelStore(Path(os.environ.get("CLOVE_MODELS") or ROOT / ".models"))
    load_before = os.getloadavg()[0]
    results = trio.run(measure, options, store.find(MODEL).folder)
    print_table(results)
    middle = f"{sorted(options.rates)[len(options.rates) // 2]:g}/s, {ROUND_ROBIN}"
    notes = {"load_before": round(load_before, 2), "requests": options.requests, "rounds": options.rounds}
    if middle in results:
        notes["calibrated"] = 0.7 <= results[middle]["busy"] <= 0.8
    print_report("forwarding_real", notes | results, judge(results, options.rates, options.arms))


if __name__ == "__main__":
    main()
