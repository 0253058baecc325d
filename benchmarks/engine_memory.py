"""Whether an engine worker's memory stays where it is: a thousand short requests, and what two workers share.

Requests go through the supervisor, eight at a time: prompts of different lengths, of sessions, for all and for nobody;
every tenth is given up after its first token, and now and then an answer is replayed. Resident memory is read after
each hundred; the slope is fitted after the warm-up, by when the small pool of keys and values has been used in full.
Then a second worker is started: weights are mapped from one file, so both together should hold them once (Pss, which
counts a shared page by its share). What a worker has of its own grows by the pool and working space, and no more.

    python -m benchmarks.engine_memory [--requests 1000] [--quick]
"""

import argparse
import os
import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path

import trio

from benchmarks.report import Target, print_report
from node.engine.events import CacheScope, PromptPrefilled, TokensDecoded
from node.engine.models import ModelStore
from node.engine.settings import EngineSettings
from node.engine.supervisor import Engine
from overlay.wire.prompt import Prompt, SamplerSpec

ROOT = Path(__file__).parents[1]
MODEL = "smollm2-135m"
WORDS = ("harbour", "winter", "engine", "letter", "garden", "copper", "window", "river", "candle", "bridge")
AT_ONCE, TOKENS, CACHE_MB = 8, 4, 64
EVERY, WARM = 100, 300
GIVEN_UP, REPLAYED = 10, 50
SLOPE_BAR_MB = 2.0


def memory_mb(pid: int, name: str) -> float:
    """A figure of the process's whole memory: Rss, Pss, Private_Dirty (what is its own and in no file)."""
    return _sum_mb(Path(f"/proc/{pid}/smaps_rollup").read_text(), name)


def weights_mb(pid: int, name: str) -> float:
    """The same of what it has mapped of weight files."""
    maps = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text())
    return sum(_sum_mb(each, name) for each in maps if ".safetensors" in each.partition("\n")[0])


def _sum_mb(text: str, name: str) -> float:
    return sum(int(row.split()[1]) for row in text.splitlines() if row.startswith(f"{name}:")) / 1024


def prompt(number: int) -> Prompt:
    """A prompt of 5 to 44 words; some begin alike."""
    words = [WORDS[(number // 7 + at * at) % 10] for at in range(5 + number * 13 % 40)]
    return Prompt(
        model=MODEL,
        text=" ".join(words),
        sampler=SamplerSpec(max_tokens=TOKENS),
        nonce=number.to_bytes(32, "big"),
    )


@dataclass(slots=True)
class Run:
    """The requests of one measurement, and the memory after each hundred."""

    engine: Engine
    requests: int
    begun: int = 0
    ended: int = 0
    rss_mb: dict[int, float] = field(default_factory=dict)

    async def work(self) -> None:
        """One request after another, until all have begun."""
        while self.begun < self.requests:
            self.begun += 1
            await self.ask(self.begun)
            self.ended += 1
            if self.ended % EVERY == 0:
                self.rss_mb[self.ended] = memory_mb(self.engine.worker_pid or 0, "Rss")
                print(f"after {self.ended:5}: {self.rss_mb[self.ended]:.1f} MB", flush=True)

    async def ask(self, number: int) -> None:
        """One request, to its end or not."""
        scopes: tuple[CacheScope, ...] = ("session", "public", "none")
        asked, ids = prompt(number), []
        async with self.engine.generate(
            asked, cache=scopes[number % 3], session=bytes([number % 5])
        ) as events:
            async for event in events:
                if isinstance(event, PromptPrefilled) and number % GIVEN_UP == 0:
                    return
                if isinstance(event, TokensDecoded):
                    ids += event.ids
        if number % REPLAYED == 1:
            await self.engine.replay(asked, ids)


async def measure(requests: int) -> dict[str, object]:
    """All figures."""
    store = ModelStore(Path(os.environ.get("CLOVE_MODELS") or ROOT / ".models"))
    folder = store.find(MODEL).folder
    settings = EngineSettings(max_batch=AT_ONCE, cache_bytes=CACHE_MB << 20)
    async with trio.open_nursery() as nursery:
        engine = Engine([folder], settings)
        await nursery.start(engine.serve)
        ready_mb = memory_mb(engine.worker_pid or 0, "Private_Dirty")
        run = Run(engine, requests)
        async with trio.open_nursery() as workers:
            for _ in range(AT_ONCE):
                workers.start_soon(run.work)
        alone = {name: memory_mb(engine.worker_pid or 0, name) for name in ("Rss", "Pss", "Private_Dirty")}
        other = Engine([folder], settings)
        await nursery.start(other.serve)
        await Run(other, 1).work()
        pids = [each.worker_pid or 0 for each in (engine, other)]
        weights = {
            name: sum(weights_mb(pid, name) for pid in pids) for name in ("Rss", "Pss", "Private_Dirty")
        }
        nursery.cancel_scope.cancel()
    file_mb = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / (1 << 20)
    warm = {count: mb for count, mb in run.rss_mb.items() if count >= min(WARM, requests // 3)}
    return {
        "private_when_ready_mb": round(ready_mb, 1),
        "rss_mb": {str(count): round(mb, 1) for count, mb in run.rss_mb.items()},
        "private_growth_mb": round(alone["Private_Dirty"] - ready_mb, 1),
        "slope_mb_per_100": round(
            statistics.linear_regression(list(warm), list(warm.values())).slope * 100, 3
        ),
        "alone_mb": {name: round(mb, 1) for name, mb in alone.items()},
        "weights_file_mb": round(file_mb, 1),
        "weights_of_two_mb": {name: round(mb, 1) for name, mb in weights.items()},
        "weights_of_two_over_file": round(weights["Pss"] / file_mb, 3),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="fewer requests, for a look")
    options = parser.parse_args()
    results = trio.run(measure, 300 if options.quick else options.requests)
    for name, value in results.items():
        print(f"{name:24} {value}")
    targets = [
        Target(
            "slope after warm-up, MB per 100 requests", results["slope_mb_per_100"], SLOPE_BAR_MB, "lower"
        ),
        Target("own memory grown since ready, MB", results["private_growth_mb"], 2 * CACHE_MB, "lower"),
        Target(
            "weights that two workers hold, over one file", results["weights_of_two_over_file"], 1.05, "lower"
        ),
        Target("copies of weights, MB", results["weights_of_two_mb"]["Private_Dirty"], 1.0, "lower"),
    ]
    print_report("engine_memory", {"cache_mb": CACHE_MB, **results}, targets)


if __name__ == "__main__":
    main()
