"""What a daemon's loop feels of its engine: how late its timers are while 8 answers stream for half a minute.

This process is the daemon: `node.daemon` as `clove up` runs it, in a home of its own, with the model role. Its engine
is its worker process with a thread for every core, on the same cores. The readers of the streams are another process,
since in life they are on other machines; they share these cores, too. Beside the daemon's tasks one more runs in its
loop, which sleeps 5 ms at a time and notes how late it wakes; for comparison it does so before there is any load.

    python -m benchmarks.engine_load [--seconds 30] [--streams 8] [--quick]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import trio

from benchmarks.report import Target, print_report
from node.config import Config, load_config
from node.daemon import run
from node.home import Home
from node.logs import configure_logs
from node.loop_delay import watch_loop

ROOT = Path(__file__).parents[1]
MODEL = "smollm2-135m"
LOOK_S = 0.005
BAR_MS = 20.0
CALM_S = 5.0


def read_streams(url: str, streams: int, seconds: float) -> int:
    """Read so many answers at once, one after another, until the time is over; how many tokens came."""
    end = time.perf_counter() + seconds

    def read(number: int) -> int:
        count = 0
        while time.perf_counter() < end:
            body = {
                "model": MODEL,
                "messages": [{"role": "user", "content": f"Tell me a long story, number {number}."}],
                "stream": True,
                "max_tokens": 512,
                "seed": number + count,
            }
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as reply:
                reply.raise_for_status()
                for line in reply.iter_lines():
                    count += line.startswith("data: {")
                    if time.perf_counter() > end:
                        break
        return count

    with ThreadPoolExecutor(streams) as pool:
        return sum(pool.map(read, range(streams)))


def settings() -> Config:
    """A node that only serves, on loopback."""
    return load_config(
        None,
        {
            "roles.model": True,
            "roles.relay": False,
            "roles.client": False,
            "network.listen": "/ip4/127.0.0.1/tcp/0",
            "api.port": 0,
            "engine.models": MODEL,
            "logging.level": "warning",
        },
    )


async def await_ready(url: str) -> None:
    """Until the models are loaded."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110 - over HTTP one asks again
            await trio.sleep(0.2)


async def note_delays(seconds: float) -> list[float]:
    """How late this loop's timers are meanwhile."""
    delays: list[float] = []
    with trio.move_on_after(seconds):
        await watch_loop(delays.append, LOOK_S)
    return delays


async def measure(home: Home, streams: int, seconds: float) -> dict[str, float]:
    """Delays of a daemon without load and under it, and what it generated meanwhile."""
    async with trio.open_nursery() as nursery:
        await nursery.start(run, settings(), home)
        info = home.daemon()
        if info is None:
            raise RuntimeError("the daemon has not published itself")
        await await_ready(info.api_url)
        calm = await note_delays(CALM_S)
        command = [sys.executable, "-m", "benchmarks.engine_load", "--read", info.api_url]
        command += ["--streams", str(streams), "--seconds", str(seconds)]
        readers = await nursery.start(
            partial(trio.run_process, command, stdout=subprocess.DEVNULL, cwd=ROOT, check=True)
        )
        await trio.sleep(min(3.0, seconds / 4))  # until all streams run
        before, start = await generated(info.api_url), trio.current_time()
        busy = await note_delays(seconds * 0.75)
        tokens, took = await generated(info.api_url) - before, trio.current_time() - start
        await readers.wait()
        nursery.cancel_scope.cancel()
    return describe("calm", calm) | describe("busy", busy) | {"tokens_per_s": round(tokens / took, 1)}


async def generated(url: str) -> float:
    """Tokens generated so far, by the daemon's own count."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        page = (await client.get("/metrics")).text
    return next(
        float(row.split()[1]) for row in page.splitlines() if row.startswith("clove_generated_tokens_total ")
    )


def describe(name: str, delays: list[float]) -> dict[str, float]:
    """Median, p99 and worst, in milliseconds, and from how many."""
    found = {
        "median_ms": statistics.median(delays) * 1000,
        "p99_ms": statistics.quantiles(delays, n=100)[98] * 1000,
        "worst_ms": max(delays) * 1000,
    }
    return {f"{name}_{key}": round(value, 2) for key, value in found.items()} | {f"{name}_looks": len(delays)}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="a few seconds only")
    parser.add_argument("--read", metavar="URL", help="be the readers of a daemon's streams")
    options = parser.parse_args()
    seconds = 8 if options.quick else options.seconds
    if options.read:
        print(json.dumps({"chunks": read_streams(options.read, options.streams, seconds)}))
        return
    os.environ.setdefault("CLOVE_MODELS", str(ROOT / ".models"))
    configure_logs(settings().logging)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        with home.lock():
            results = trio.run(measure, home, options.streams, seconds)
    for name, value in results.items():
        print(f"{name:16} {value}")
    results |= {"streams": options.streams, "load_before": round(load_before, 2)}
    target = Target("p99 of the loop's delay under load, ms", results["busy_p99_ms"], BAR_MS, "lower")
    print_report("engine_load", results, [target])


if __name__ == "__main__":
    main()
