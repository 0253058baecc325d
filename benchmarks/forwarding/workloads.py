"""Requests: of a trace, or made from a seed."""

import json
import random  # noqa: TID251 - the same workload in every run, no secrets
from dataclasses import replace
from itertools import islice
from pathlib import Path

from benchmarks.forwarding.group import BLOCK_TOKENS, Request

TRACE_STEP_S = 3.0
ZIPF = 1.1
TOOLS = 200
BURST, BURST_S, BURST_EVERY_S = 5.0, 10.0, 60.0


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
    return sorted((replace(each, at=each.at - start) for each in found), key=lambda request: request.at)


def make_zipf(count: int, rate: float, seed: int) -> list[Request]:
    """Prompts of one to eight shared blocks, whose beginnings follow Zipf's law (1.1), and one or two of their own."""
    draw = random.Random(seed)  # noqa: S311
    weights = [1 / (rank + 1) ** ZIPF for rank in range(TOOLS)]
    found, at, fresh = [], 0.0, 1 << 40
    for _ in range(count):
        at += draw.expovariate(rate)
        tool = draw.choices(range(TOOLS), weights)[0]
        shared = [tool * 100 + i for i in range(1 + tool % 8)]
        own = [fresh, fresh + 1][: draw.randint(1, 2)]
        fresh += 2
        chain = tuple(each.to_bytes(8, "big") for each in shared + own)
        found.append(Request(at, chain, len(chain) * BLOCK_TOKENS, draw.randint(50, 400)))
    return found


def in_bursts(requests: list[Request]) -> list[Request]:
    """The same requests, as many a minute, but five times as often in ten seconds of each as in the other fifty."""
    calm_s = BURST_EVERY_S - BURST_S
    slow = BURST_EVERY_S / (BURST * BURST_S + calm_s)
    burst_part = BURST * BURST_S * slow  # seconds of the old minute that come in the burst

    def moved(at: float) -> float:
        minute, second = divmod(at, BURST_EVERY_S)
        if second < burst_part:
            return minute * BURST_EVERY_S + second / (BURST * slow)
        return minute * BURST_EVERY_S + BURST_S + (second - burst_part) / slow

    return [replace(each, at=moved(each.at)) for each in requests]
