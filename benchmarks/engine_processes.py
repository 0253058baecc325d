"""What it costs to share a machine out: 1, 2 and 4 worker processes on the same cores, tokens a second of all.

Each worker gets its share of the cores (`engine.threads`, at least one) and four answers at once, as soon as one ends
the next. The numbers of workers take turns, round by round; medians are given, and ratios within a round.

    python -m benchmarks.engine_processes [--seconds 10] [--rounds 2] [--quick]
"""

import argparse
import os
import statistics
from pathlib import Path

import trio

from benchmarks.report import Target, print_report
from node.engine.events import TokensDecoded
from node.engine.models import ModelStore
from node.engine.settings import EngineSettings
from node.engine.supervisor import Engine
from overlay.wire.prompt import Prompt, SamplerSpec

ROOT = Path(__file__).parents[1]
MODEL = "smollm2-135m"
WORKERS = (1, 2, 4)
AT_ONCE, TOKENS = 4, 256
BAR = 0.8


class Counter:
    """Tokens of all workers. warm: those whose answers are all past their first token."""

    def __init__(self) -> None:
        self.tokens = 0
        self.begun: set[tuple[int, int]] = set()
        self.grew = trio.Event()

    async def keep_answering(self, engine: Engine, worker: int, place: int) -> None:
        """One answer after another, for ever."""
        for number in range(1 << 30):
            asked = Prompt(
                model=MODEL,
                text=f"A story about place {place} of house {worker}, told for the {number}th time:",
                sampler=SamplerSpec(max_tokens=TOKENS),
                nonce=bytes([worker, place, number % 256]) + bytes(29),
            )
            async with engine.generate(asked, cache="none") as events:
                async for event in events:
                    if isinstance(event, TokensDecoded):
                        self.tokens += len(event.ids)
                        self._note(worker, place)

    def _note(self, worker: int, place: int) -> None:
        if (worker, place) not in self.begun:
            self.begun.add((worker, place))
            self.grew.set()
            self.grew = trio.Event()


async def throughput(folder: Path, workers: int, seconds: float) -> float:
    """Tokens a second of so many workers together."""
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    settings = EngineSettings(threads=threads, max_batch=AT_ONCE, cache_bytes=256 << 20)
    counter = Counter()
    async with trio.open_nursery() as nursery:
        for worker in range(workers):
            engine = Engine([folder], settings)
            await nursery.start(engine.serve)
            for place in range(AT_ONCE):
                nursery.start_soon(counter.keep_answering, engine, worker, place)
        while len(counter.begun) < workers * AT_ONCE:
            await counter.grew.wait()
        before, start = counter.tokens, trio.current_time()
        await trio.sleep(seconds)
        found = (counter.tokens - before) / (trio.current_time() - start)
        nursery.cancel_scope.cancel()
    return found


async def measure(seconds: float, rounds: int) -> dict[int, list[float]]:
    """Tokens a second by number of workers, of each round."""
    store = ModelStore(Path(os.environ.get("CLOVE_MODELS") or ROOT / ".models"))
    folder = store.find(MODEL).folder
    found: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    for _ in range(rounds):
        for workers, figures in found.items():
            figures.append(await throughput(folder, workers, seconds))
            print(f"{workers} workers: {figures[-1]:.1f} tokens/s", flush=True)
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one short round, for a look")
    options = parser.parse_args()
    seconds, rounds = (5, 1) if options.quick else (options.seconds, options.rounds)
    load_before = os.getloadavg()[0]
    found = trio.run(measure, seconds, rounds)
    ratios = {
        workers: statistics.median(each / one for each, one in zip(figures, found[1], strict=True))
        for workers, figures in found.items()
    }
    results = {
        "load_before": round(load_before, 2),
        "answers_at_once_each": AT_ONCE,
        "tokens_per_s": {
            str(workers): round(statistics.median(figures), 1) for workers, figures in found.items()
        },
        "of_one": {str(workers): round(ratio, 3) for workers, ratio in ratios.items()},
    }
    print_report(
        "engine_processes",
        results,
        [Target("4 workers over 1, tokens/s", results["of_one"]["4"], BAR, "higher")],
    )


if __name__ == "__main__":
    main()
