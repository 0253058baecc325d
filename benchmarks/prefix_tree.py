"""What a decision over a group's prefix tree costs, beside the bare dict lookups that it can't do without.

`make bench-prefix-tree`, or `python -m benchmarks.prefix_tree [--quick]`. CPU time, the best of several rounds, so that
other work on the machine counts little. Chains share a tenth of their blocks, as prompts share instructions.
"""

import argparse
import random  # noqa: TID251 - the same prompts in every run, no secrets
import resource
from collections.abc import Callable

from benchmarks.report import Target, best_us, print_report
from crypto.identity import NodeId
from overlay.routing.cost import Sent, predict_wait
from overlay.routing.prefix_tree import PrefixTree
from overlay.wire.group import BlockHash, Load, Speed

MEMBERS = [NodeId(index.to_bytes(32, "big")) for index in range(64)]
PROMPT_BLOCKS = 10_000 // 16
SPEED = Speed(prefill_token_s=1e-3, attended_s=1e-7, mixed_step_s=0.054, mixed_tokens=24)
LOAD = Load(queued_tokens=300, decoding=4, free_slots=8, answer_s=1.0, decoding_s=3.0)


def chains(count: int, length: int, draw: random.Random) -> list[list[BlockHash]]:
    """Prompts of so many blocks, every ten of them alike in their first tenth."""
    found: list[list[BlockHash]] = []
    for index in range(count):
        shared = found[index - index % 10][: length // 10] if index % 10 else []
        found.append(shared + [draw.randbytes(8) for _ in range(length - len(shared))])
    return found


def resident_mb() -> float:
    """The most that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(blocks: int, rounds: int) -> dict[str, float]:
    """One tree of so many blocks."""
    draw = random.Random(1)  # noqa: S311
    prompts = chains(blocks * 11 // 10 // PROMPT_BLOCKS + 1, PROMPT_BLOCKS, draw)
    before = resident_mb()
    tree = PrefixTree(max_blocks=2 * blocks, max_member_blocks=blocks)
    for chain in prompts:
        for member in draw.sample(MEMBERS, 3):
            tree.store(member, chain)
    after = resident_mb()
    everybodys = prompts[0]
    for member in MEMBERS:
        tree.store(member, everybodys)
    few, bare = prompts[5], dict.fromkeys(everybodys, 1)

    def decide() -> object:
        held = tree.match(everybodys, 0.0)
        waits = {
            member: predict_wait(SPEED, LOAD, Sent(), tokens=10_000, cached=16 * held.get(member, 0)).total_s
            for member in MEMBERS
        }
        return min(waits, key=waits.__getitem__)

    actions: dict[str, Callable[[], object]] = {
        "match_held_by_three_us": lambda: tree.match(few, 0.0),
        "match_held_by_all_us": lambda: tree.match(everybodys, 0.0),
        "lookups_us": lambda: [bare.get(block, 0) for block in everybodys],
        "decision_us": decide,
        "store_us": lambda: PrefixTree().store(MEMBERS[0], everybodys),
    }
    found = best_us(actions, calls=1, rounds=rounds)
    return {"blocks": len(tree), "bytes_per_block": (after - before) * 2**20 / len(tree)} | found


def main() -> None:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smaller tree, fewer rounds")
    quick = parser.parse_args().quick
    small = measure(100_000, 50 if quick else 300)
    large = small if quick else measure(1_000_000, 300)
    for name, value in large.items():
        print(
            f"{name}: {small[name]:.2f} with {small['blocks']:.0f} blocks, {value:.2f} with {large['blocks']:.0f}"
        )
    targets = [
        Target(
            f"match of 10,000 tokens in {large['blocks']:,.0f} blocks, us",
            large["match_held_by_all_us"],
            1000.0,
            "lower",
        ),
        Target(
            f"decision over 64 members, {small['blocks']:,.0f} blocks, us",
            small["decision_us"],
            1000.0,
            "lower",
        ),
    ]
    print_report("prefix_tree", {"small": small, "large": large}, targets)


if __name__ == "__main__":
    main()
