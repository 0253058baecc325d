"""How long nodes that cheat stay trusted, what coming back costs, and how often honest ones are banned.

`make bench-reputation`, or `python -m benchmarks.reputation [--quick]`. Seeded traces of epochs of an hour, in each of
which 60 answers are asked of a node; both rules (`benchmarks.reputation_rules`) see the same ones. A run ends when the
node is excluded, or after 300 epochs. Ours acts at an epoch's end only, though proofs travel sooner. Shares have 95 %
intervals by Wilson, means by the normal law.
"""

import argparse
import math
import random  # noqa: TID251 - the same traces in every run, no secrets
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

from benchmarks.report import Target, print_report
from benchmarks.reputation_rules import (
    AS_MEASURED,
    FAVOURABLE,
    FEW_FLIPS,
    FLIPS,
    INT8,
    NO_ID,
    PRUNED,
    Attack,
    Credit,
    Ours,
    PlanetServe,
)
from verify.committee.genesis import quorum_of
from verify.evidence import Audit, Delivery, Service
from verify.lower_bound import UNIT
from verify.reputation import Reputation, Tally
from verify.scores import Scores, median_scores

EPOCHS = 300
ANSWERS = 60
VERIFIERS, LIARS = 10, 3
NODE = "node"
RULES: dict[str, Attack | Credit] = {
    each.name: each for each in (INT8, FLIPS, FEW_FLIPS, FAVOURABLE, AS_MEASURED, PRUNED)
}
Figures = dict[str, float | list[float]]


def honest(_epoch: int) -> float:
    return 0.0


def on_off(epoch: int) -> float:
    return float(epoch % 6 == 5)


def decline(epoch: int) -> float:
    return epoch / EPOCHS


def patient(epoch: int, start: int, share: float = 1.0) -> float:
    """Honest until then."""
    return share if epoch >= start else 0.0


CONDUCTS: dict[str, Callable[[int], float]] = {
    "honest": honest,
    "on-off, 1 epoch in 6": on_off,
    "slow decline": decline,
    "whitewash at once": partial(patient, start=0),
    "whitewash after 2 h": partial(patient, start=2),
    "whitewash after 12 h": partial(patient, start=12),
    "whitewash after 48 h": partial(patient, start=48),
    "whitewash after 48 h, 1 answer in 10": partial(patient, start=48, share=0.1),
}
"""The share of cheated answers by epoch since an identity began."""


@dataclass(frozen=True, slots=True)
class Run:
    """One identity: what it answered before it was excluded, and whether it was."""

    cheated: int
    honest: int
    excluded: bool
    epochs: int
    throttled: float
    audits: int


def play(conduct: str, rule: str, seed: int) -> Run:
    """One identity's life."""
    trace = random.Random(f"{conduct} {seed}")  # noqa: S311
    draw = random.Random(f"{conduct} {rule} {seed}")  # noqa: S311
    of = RULES[rule]
    node = Ours(of, draw) if isinstance(of, Attack) else PlanetServe(of, draw)
    cheated = total = throttled = epoch = 0
    while epoch < EPOCHS and not node.excluded:
        share = CONDUCTS[conduct](epoch)
        answers = [trace.random() < share for _ in range(ANSWERS)]
        throttled += node.throttled
        served = node.live(answers)
        cheated += sum(answers[:served])
        total += served
        epoch += 1
    return Run(cheated, total - cheated, node.excluded, epoch, throttled / epoch, node.audits)


def summary(runs: Sequence[Run]) -> Figures:
    """Over the seeds."""
    cheated = [float(run.cheated) for run in runs]
    served = sum(run.cheated + run.honest for run in runs)
    return {
        "excluded": share([run.excluded for run in runs]),
        "cheated": mean(cheated),
        "cheated_p95": sorted(cheated)[len(cheated) * 95 // 100],
        "honest": mean([float(run.honest) for run in runs]),
        "epochs": mean([float(run.epochs) for run in runs]),
        "throttled": mean([run.throttled for run in runs]),
        "cheated_of_all": round(sum(cheated) / served, 5),
        "audits_of_all": round(sum(run.audits for run in runs) / served, 5),
    }


def share(hits: Sequence[bool]) -> list[float]:
    """The share, and its interval by Wilson."""
    n, p, z = len(hits), sum(hits) / len(hits), 1.96
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    ends = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return [round(p, 5), *(round(min(1.0, max(0.0, end)), 5) for end in ends)]


def mean(values: Sequence[float]) -> list[float]:
    """The mean, and its interval by the normal law."""
    found, half = statistics.fmean(values), 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    return [round(value, 4) for value in (found, found - half, found + half)]


def observed(draw: random.Random, lost: float) -> Service:
    """One prompt at an honest node: so many lost, 3 % refused, 3 % late by 4 s on average, the rest in time."""
    luck = draw.random()
    if luck < lost:
        return Service(0, NO_ID, Delivery.LOST)
    if luck < lost + 0.03:
        return Service(0, NO_ID, Delivery.REFUSED)
    late_ms = round(draw.expovariate(1 / 4000)) if luck < lost + 0.06 else 0
    return Service(0, NO_ID, Delivery.DELIVERED, 1000, 2500 + late_ms)


def serve(lost: float, seed: int) -> tuple[float, float]:
    """An honest node's service score and reputation, after 100 epochs of observations."""
    draw = random.Random(seed)  # noqa: S311
    node = Reputation(integrity=SEASONED)
    for _ in range(100 * ANSWERS // 10):
        node = node.after(observed(draw, lost))
    return node.service.score / UNIT, node.score / UNIT


def seasoned(audits: int) -> Tally:
    node = Reputation()
    for _ in range(audits):
        node = node.after(Audit(0, NO_ID, "passed"))
    return node.integrity


SEASONED = seasoned(500)


def hear_liars(told: int, seed: int) -> tuple[float, float]:
    """Ten verifiers who saw a node serve each for themselves, three of whom tell this: how far off is the result?

    The liars' reports and the four honest ones that help them most make the quorum. Returns how far the median and the
    mean of these are from the median of all honest reports, in service; integrity is the same for all.
    """
    draw = random.Random(seed)  # noqa: S311
    said = []
    for _ in range(VERIFIERS - LIARS):
        node = Reputation(integrity=SEASONED)
        for _ in range(600):
            node = node.after(observed(draw, 0.01))
        said.append(Scores.of(node))
    said.sort(key=lambda scores: scores.service, reverse=told > 0)
    taken = said[: quorum_of(VERIFIERS) - LIARS] + [Scores(told, told)] * LIARS
    true = statistics.median(scores.service for scores in said)
    found = median_scores([{NODE: scores} for scores in taken], VERIFIERS)[NODE].service
    return abs(found - true) / UNIT, abs(statistics.fmean(each.service for each in taken) - true) / UNIT


def judge(results: dict[str, Figures]) -> list[Target]:
    """The bars."""

    def of(conduct: str, rule: str | Attack | Credit, what: str, which: int = 0) -> float:
        found = results[f"{conduct} | {rule if isinstance(rule, str) else rule.name}"][what]
        return found[which] if isinstance(found, list) else found

    targets = [
        Target("honest, ours: wrongful bans, upper end", of("honest", INT8, "excluded", 2), 0.005, "lower"),
        Target("honest, ours: share of epochs under the cap", of("honest", INT8, "throttled"), 0.05, "lower"),
        Target("honest, ours: audits, of answers", of("honest", INT8, "audits_of_all"), 0.05, "lower"),
    ]
    for conduct in ("on-off, 1 epoch in 6", "slow decline"):
        theirs = of(conduct, FAVOURABLE, "cheated")
        for attack in (INT8, FLIPS, FEW_FLIPS):
            ratio = round(of(conduct, attack, "cheated") / theirs, 4)
            targets.append(
                Target(f"{conduct}, {attack.name}: cheated over PlanetServe's", ratio, 0.1, "lower")
            )
    washes = [conduct for conduct in CONDUCTS if conduct.startswith("whitewash")]
    ratios = {each: of(each, INT8, "cheated") / of(each, FAVOURABLE, "cheated") for each in washes}
    worst = max(ratios, key=ratios.__getitem__)
    what = f"{worst}, {INT8.name}, the worst: cheated of an admission over PlanetServe's"
    targets.append(Target(what, round(ratios[worst], 4), 1.0, "lower"))
    best = max(of(conduct, INT8, "cheated_of_all") for conduct in washes if conduct != "whitewash at once")
    targets.append(Target("whitewash after patience, int8: cheated of all answers", best, 0.5, "lower"))
    low, high = results["liars"]["median, framed"], results["liars"]["median, praised"]
    off = max(low[0], high[0])  # type: ignore[index]
    return [*targets, Target("3 of 10 verifiers lie: service off by, mean", off, 0.05, "lower")]


def main() -> None:
    """Play everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="50 runs, for CI")
    parser.add_argument("--runs", type=int, default=1000, help="of each conduct under each rule")
    options = parser.parse_args()
    seeds = range(50 if options.quick else options.runs)
    results: dict[str, Figures] = {}
    with ProcessPoolExecutor() as pool:
        print(f"{'':66} excluded  cheated (p95)  honest  epochs  under cap  cheated of all  audits of all")
        for conduct in CONDUCTS:
            for rule in RULES:
                found = summary(list(pool.map(partial(play, conduct, rule), seeds, chunksize=10)))
                results[f"{conduct} | {rule}"] = found
                print(
                    f"{conduct + ' | ' + rule:66} {found['excluded'][0]:8.3f} {found['cheated'][0]:8.1f} "
                    f"({found['cheated_p95']:.0f}) {found['honest'][0]:8.0f} {found['epochs'][0]:7.1f} "
                    f"{found['throttled'][0]:9.3f} {found['cheated_of_all']:14.3f} {found['audits_of_all']:14.3f}",
                    flush=True,
                )
        for lost in (0.0, 0.01, 0.02, 0.05, 0.1):
            service, reputation = zip(*pool.map(partial(serve, lost), seeds, chunksize=10), strict=True)
            results[f"service, {lost:.0%} lost"] = {"service": mean(service), "reputation": mean(reputation)}
            print(f"service, {lost:.0%} lost: {results[f'service, {lost:.0%} lost']}", flush=True)
        results["liars"] = {}
        for name, told in (("framed", 0), ("praised", UNIT)):
            median_off, mean_off = zip(*pool.map(partial(hear_liars, told), seeds, chunksize=10), strict=True)
            results["liars"] |= {f"median, {name}": mean(median_off), f"mean, {name}": mean(mean_off)}
    print(f"3 of 10 verifiers lie, service is off by: {results['liars']}")
    print_report("reputation", {"runs": len(seeds), **results}, judge(results))


if __name__ == "__main__":
    main()
