"""How soon real engines answer by how prompts are handed out: four model nodes on this machine, and the product's code.

`make bench-forwarding-real ARGS="--queries FILE"`, or `python -m benchmarks.forwarding_real --queries FILE`. About
three quarters of an hour, on two cores that have nothing else to do.

Four engines, each a worker process with one thread and SmolLM2-135M. Above each, in this process, the product's
`Groups`: it measures prompts, tells and hears loads and caches by signed gossip, asks, hands over, hands on. Every node
is entry for each fourth prompt, so its view of the three others is old. The rules differ in nothing but who is chosen
(`benchmarks/forwarding/arms.py`). Links are queues with 20 ms to the other side.

*Engines must not measure each other.* Each is held to .4 of a core by a process that stops and continues it
(`benchmarks/forwarding/cpu_cap.py`; it needs no rights), so that two cores have .4 left for the rest.
Printed for every run: `share`, the CPU time that the engines took while they had work (about .40; clearly less says
that the machine was busy otherwise, and the figures mean little), and `busy`, the part of the time with work.

*Prompts*: a system message that lists a set of tools, drawn by Zipf's law (1.1) from SETS of them, then part of a
query, 512 tokens at most; cache "public". `--queries` takes ToolBench's (lines of {"query", "tools"}), else they are
made up. Answers are 16 tokens, temperature 0. Every rule gets the same
prompts at the same gaps, a Poisson process that does not wait for answers; times count from when a prompt was due.

*Caches* are empty for every rule: a salt of its own stands before each prompt, so that nothing that is cached is of
use to another rule. An engine's cache holds under half of what all tool lists take, all four together twice that. A
rule's caches fill during a warm-up that is not counted, with answers of one token, then go on from load to load. With a
short one most of what is measured is prompts that nobody has cached yet, whatever the rule.

*LOADS* are fixed, so that machines can be compared: parts of what the engines could do, if all prompts cost what they
do under round-robin. What a second's work is, the engines themselves have measured by then. At the middle load they are
to be busy 70 to 80 % of the time under round-robin; `calibrated` in the results says whether they were. A round has
few prompts, so it says little about small differences: in a simulation of just this, with the same numbers of prompts,
the mean of a rule at one load varies by a tenth from seed to seed, round-robin's by a third. `--rounds 3` plays
all three times, with other prompts each time, and gives the mean and every round's. `--share .2` is for a look on a
machine that has only one core left.
"""

import argparse
import os
import random  # noqa: TID251 - no secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from benchmarks.forwarding.arms import ARMS, OURS, ROUND_ROBIN, NamelessMeter
from benchmarks.forwarding.cpu_cap import held_to
from benchmarks.forwarding.figures import Answer, Busyness, average, describe
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
from overlay.wire.prompt import ChatMessage, Prompt, SamplerSpec, Task

ROOT = Path(__file__).parents[1]
MODEL = "smollm2-135m"
NODES, SHARE = 4, 0.4
LOADS = (0.55, 0.75, 0.9)
WORK_TOKENS = 330
"""What a prompt and its answer cost on average under round-robin, in tokens of a long chunk."""
REQUESTS = 75
"""Prompts of an arm at one load."""
WARM_UP, RAMP = 80, 5
"""Prompts that are not counted: before an arm's first load, while its caches fill; and at the start of each."""
SETS = 40
CACHE_BYTES = 6144 * 46_080
"""Tokens, times what keys and values of one take in this model."""
ANSWER_TOKENS, MOST_PROMPT_TOKENS = 16, 512
SEED = 1
FAIR = 0.9
"""With less of the share than this, a run says little."""
SAMPLER = SamplerSpec(temperature=0.0, max_tokens=ANSWER_TOKENS, min_tokens=ANSWER_TOKENS)
ONE_TOKEN = SamplerSpec(temperature=0.0, max_tokens=1)
SETTINGS = EngineSettings(device="cpu", threads=1, max_batch=8, max_queue=10_000, cache_bytes=CACHE_BYTES)


async def answer(node: ModelNode, ask: Ask, salt: str, found: Answer, sampler: SamplerSpec = SAMPLER) -> None:
    """One prompt, through the node that it comes to."""
    messages = (ChatMessage("system", f"{salt} {ask.system}"), ChatMessage("user", ask.user))
    prompt = Prompt(model=MODEL, messages=messages, sampler=sampler, nonce=bytes(32))
    await node.groups.forwarder.answer(Task(prompt=prompt, blinding=bytes(32), cache="public"), found.note)


async def warm_up(nodes: Sequence[ModelNode], asks: Sequence[Ask], rate: float, salt: str) -> None:
    """Let the rule fill the caches."""
    due = trio.current_time()
    async with trio.open_nursery() as nursery:
        for ask in asks:
            due += ask.gap / rate
            await trio.sleep_until(due)
            nursery.start_soon(answer, nodes[ask.number % NODES], ask, salt, Answer(due), ONE_TOKEN)


async def play(
    nodes: Sequence[ModelNode], asks: Sequence[Ask], rate: float, salt: str, skipped: int
) -> dict[str, object]:
    """Ask all at their times; the figures of those that count, which are all but the first ones."""
    due, answers = trio.current_time(), []
    before = _counted(nodes)
    busyness = Busyness([node.engine for node in nodes])
    own_cpu, own_start = time.process_time(), time.perf_counter()
    async with trio.open_nursery() as nursery:
        watching = trio.CancelScope()
        for number, ask in enumerate(asks):
            due += ask.gap / rate
            await trio.sleep_until(due)
            if number == skipped:
                nursery.start_soon(busyness.watch, watching)
            answers.append(Answer(due))
            nursery.start_soon(answer, nodes[ask.number % NODES], ask, salt, answers[-1])
        watching.cancel()  # what is left when no more come is less load than there was
    counters = _counted(nodes) - before
    return (
        describe(answers[skipped:])
        | busyness.summary()
        | {
            "asked": round(counters["questions_answered"] / len(asks), 2),
            "elsewhere": round(counters["handed_over"] / len(asks), 2),
            "own_share": round((time.process_time() - own_cpu) / (time.perf_counter() - own_start), 2),
        }
    )


def _counted(nodes: Iterable[ModelNode]) -> Counter[str]:
    return sum((node.groups.hands.counters for node in nodes), start=Counter())


Results = dict[str, dict[str, object]]


async def measure(options: argparse.Namespace, folder: Path) -> Results:
    """All rounds of all loads of all arms. One's figures are called `LOAD, ARM`, and are means over the rounds."""
    tokenizer = PromptTokenizer(folder)
    sets, count = load_sets(options.queries, tokenizer)
    meters = {True: PromptMeter(folder), False: NamelessMeter(folder)}
    for meter in meters.values():
        await meter.load()
    runs: dict[str, list[dict[str, object]]] = {}
    async with opened_engines(folder, options.share) as engines:
        fleet = Fleet(engines, random.Random(SEED).randbytes)  # noqa: S311
        await get_used(engines, sets)
        rates = {load: load * capacity(engines) for load in options.loads}
        print("prompts a second:", {load: round(rate, 2) for load, rate in rates.items()}, flush=True)
        for round_ in range(options.rounds):
            asks = make_asks(sets, WARM_UP + options.requests * len(rates), count, SEED + round_)
            for number, name in enumerate(options.arms):
                arm, salt = ARMS[name], f"Run {round_ * len(ARMS) + number:04}."
                async with fleet.opened(meters[arm.knows_prefixes], arm.make) as nodes:
                    async for load, found in play_loads(nodes, asks, rates, options.requests, salt):
                        runs.setdefault(f"{load:g}, {name}", []).append(found)
                        print(f"{load:g}, {name:20} {found}", flush=True)
        if any(engine.restarts for engine in engines):
            raise RuntimeError("an engine has died meanwhile; see its log")
    return {name: average(found) for name, found in runs.items()}


def capacity(engines: Sequence[Engine]) -> float:
    """Prompts a second that all engines could answer, by their own speed."""
    loads = [engine.gate.load_of(engine.cards[0].model_id) for engine in engines]
    return sum(1 / (load.prefill_token_s * WORK_TOKENS) for load in loads if load is not None)


async def play_loads(
    nodes: Sequence[ModelNode], asks: Sequence[Ask], rates: Mapping[float, float], requests: int, salt: str
) -> AsyncGenerator[tuple[float, dict[str, object]], None]:
    """The warm-up, then one load after another; before each all prompts are answered. rates: by load."""
    await warm_up(nodes, asks[:WARM_UP], max(rates.values()), salt)
    for number, (load, rate) in enumerate(rates.items()):
        start = WARM_UP + number * requests
        yield load, await play(nodes, asks[start : start + requests], rate, salt, RAMP)


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
        async with trio.open_nursery() as starting:
            for engine in engines:
                starting.start_soon(nursery.start, engine.serve)
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


def judge(results: Results, loads: Sequence[float], arms: Sequence[str]) -> list[Target]:
    """The bars, as far as what they need was measured."""
    if OURS not in arms:
        return []

    def mean_s(load: float, arm: str) -> float:
        return float(results[f"{load:g}, {arm}"]["mean_s"])

    failed = sum(float(found["failed"]) for found in results.values())
    targets = [Target("prompts that were not answered", failed, 0.0, "lower")]
    middle = loads[len(loads) // 2]
    if ROUND_ROBIN in arms:
        over = round(mean_s(middle, OURS) / mean_s(middle, ROUND_ROBIN), 3)
        targets.append(
            Target(f"load {middle:g}: mean time to the first token over round-robin's", over, 0.5, "lower")
        )
    others = [arm for arm in arms if arm != OURS]
    for load in loads if others else ():
        best = min(others, key=lambda arm: mean_s(load, arm))
        over = round(mean_s(load, OURS) / mean_s(load, best), 3)
        targets.append(Target(f"load {load:g}: mean over the best other arm's ({best})", over, 1.0, "lower"))
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
    parser.add_argument("--loads", type=float, nargs="+", default=LOADS, help="of what the engines can do")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="of each load")
    parser.add_argument("--share", type=float, default=SHARE, help="of a core, for each engine")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    if options.requests <= RAMP + 1:
        parser.error(f"--requests: more than {RAMP + 1}, since the first {RAMP} are not counted")
    options.loads = sorted(options.loads)
    configure_logs(LoggingConfig(level="warning"))
    store = ModelStore(Path(os.environ.get("CLOVE_MODELS") or ROOT / ".models"))
    load_before = os.getloadavg()[0]
    results = trio.run(measure, options, store.find(MODEL).folder)
    print_table(results)
    middle = f"{options.loads[len(options.loads) // 2]:g}, {ROUND_ROBIN}"
    notes = {"load_before": round(load_before, 2), "requests": options.requests, "rounds": options.rounds}
    notes["least_share"] = min(found["share"] for found in results.values())
    if notes["least_share"] < FAIR * options.share:
        print(
            f"\nThe engines did not get their {options.share} of a core: the machine does other things, too."
        )
    if middle in results:
        notes["calibrated"] = 0.7 <= results[middle]["busy"] <= 0.8
    print_report("forwarding_real", notes | results, judge(results, options.loads, options.arms))


if __name__ == "__main__":
    main()
