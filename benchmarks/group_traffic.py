"""What it costs the members of a model group to know each other, and how old their views are.

`make bench-group-traffic`, or `python -m benchmarks.group_traffic [--quick]`. GroupMachines in virtual time, every
message 50 ms on its way. Each member gets prompts at random moments, some of whose blocks are public: a prefix drawn by
Zipf's law, kept by LRU. So a prompt stores a few blocks and evicts as many; prompts are not sent where their prefix is,
so more is stored than in a group that forwards well. Members have been at work for some minutes before they meet, each
for another time, so that their logs begin anew at different moments. A signature is checked once for all members.
"""

import argparse
import heapq
import random  # noqa: TID251 - the same prompts in every run, no secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from statistics import mean, quantiles

from benchmarks.report import Target, print_report
from crypto import checkable
from crypto.identity import IdentityKey, NodeId
from overlay.protocol.group import GroupMachine, GroupOutput, Misbehaved, SendGroupMessage
from overlay.routing.prefix_tree import PrefixTree
from overlay.wire.group import BlockHash, GroupId, Load, Speed
from overlay.wire.messages import encode_message

GROUP = GroupId(bytes(16))
DELAY_S = 0.05
PREFIXES = 1000
CACHE_BLOCKS = 1000
SLOTS = 16
ANSWER_S = 5.0
TOKENS_PER_S = 5000.0
WARM_UP_S = 30.0
PAST_S = 900.0


def make_prefixes(draw: random.Random) -> list[list[BlockHash]]:
    """Public prefixes of 4 to 16 blocks."""
    return [[draw.randbytes(8) for _ in range(draw.randint(4, 16))] for _ in range(PREFIXES)]


@dataclass(eq=False)
class Node:
    """A member: a cache of public blocks, a queue, running answers, and what it sent and got."""

    key: IdentityKey
    machine: GroupMachine
    cache: "OrderedDict[BlockHash, None]" = field(default_factory=OrderedDict)
    busy_until: float = 0.0
    answers: list[float] = field(default_factory=list)
    sent: int = 0
    received: int = 0
    written: dict[int, float] = field(default_factory=dict)
    reported: dict[int, float] = field(default_factory=dict)
    stored: int = 0

    def take_prompt(self, blocks: list[BlockHash], draw: random.Random, now: float) -> None:
        """Read it, store what was not there, evict what was used longest ago."""
        new = [block for block in blocks if block not in self.cache]
        for block in blocks:
            self.cache[block] = None
            self.cache.move_to_end(block)
        gone = [self.cache.popitem(last=False)[0] for _ in range(len(self.cache) - CACHE_BLOCKS)]
        self.stored += len(new)
        self.machine.tell_blocks(new, gone)
        tokens = 16 * len(new) + draw.randint(100, 1000)
        self.busy_until = max(now, self.busy_until) + tokens / TOKENS_PER_S
        self.answers.append(self.busy_until + draw.expovariate(1 / ANSWER_S))

    def tell_load(self, now: float) -> None:
        """What its engine would say."""
        self.answers = [end for end in self.answers if end > now]
        queued = int(max(0.0, self.busy_until - now) * TOKENS_PER_S)
        running = min(SLOTS, len(self.answers))
        step_s = 0.02 + 0.001 * running
        self.machine.tell_load(
            Speed(
                prefill_token_s=1 / TOKENS_PER_S,
                attended_s=1e-8,
                mixed_step_s=step_s + 256 / TOKENS_PER_S,
                mixed_tokens=256,
            ),
            Load(
                queued_tokens=queued,
                decoding=running,
                free_slots=SLOTS - running,
                answer_s=min(self.answers, default=now) - now,
                decoding_s=max(self.answers, default=now) - now,
            ),
        )


class Group:
    """So many members in virtual time, all linked as they wish, each with so many prompts a second."""

    def __init__(self, count: int, prompts_per_s: float) -> None:
        self.draw = random.Random(1)  # noqa: S311
        self.rate = prompts_per_s
        self.prefixes = make_prefixes(self.draw)
        self.weights = [1 / (rank + 1) for rank in range(PREFIXES)]
        keys = [IdentityKey.from_seed(self.draw.randbytes(32)) for _ in range(count)]
        self.nodes = {key.node_id: self._make_node(key) for key in keys}
        self.events: list[tuple[float, int, Callable[[float], None]]] = []
        self.order = 0
        self.behind: list[float] = []
        self.load_ages: list[float] = []
        for node in self.nodes.values():
            self._let_work(node)
            node.machine.set_members(list(self.nodes))
            self.at(self.draw.random(), self.waking(node))
            self.at(self.draw.expovariate(prompts_per_s), self.prompting(node))

    def _make_node(self, key: IdentityKey) -> Node:
        machine = GroupMachine(
            key.node_id, GROUP, sign=key.sign, incarnation=1, holders=PrefixTree(), now=-PAST_S
        )
        return Node(key, machine)

    def _let_work(self, node: Node) -> None:
        """Fill its cache, then let it change for some time."""
        start = -self.draw.uniform(PAST_S / 2, PAST_S)
        while len(node.cache) < CACHE_BLOCKS:
            self._prompt(node, start)
        while start < 0:
            start += self.draw.expovariate(self.rate)
            self._prompt(node, start)
            node.machine.handle_deadline(start)

    def _prompt(self, node: Node, now: float) -> None:
        (prefix,) = self.draw.choices(self.prefixes, self.weights)
        node.take_prompt(prefix, self.draw, now)

    def at(self, when: float, action: Callable[[float], None]) -> None:
        """Do this then."""
        self.order += 1
        heapq.heappush(self.events, (when, self.order, action))

    def prompting(self, node: Node) -> Callable[[float], None]:
        """Prompts that come to a node."""

        def come(now: float) -> None:
            self._prompt(node, now)
            self.at(now + self.draw.expovariate(self.rate), come)

        return come

    def waking(self, node: Node) -> Callable[[float], None]:
        """A node's deadlines."""

        def wake(now: float) -> None:
            node.tell_load(now)
            self.perform(node, node.machine.handle_deadline(now), now)
            known, heard = node.machine.known_of(node.key.node_id), node.machine.load_of(node.key.node_id)
            if known is not None and heard is not None:
                node.written.setdefault(known.next_seq, now)
                node.reported.setdefault(heard.report.seq, now)
            self.at(max(now + 1e-3, node.machine.next_deadline()), wake)

        return wake

    def perform(self, node: Node, outputs: list[GroupOutput], now: float) -> None:
        """Send what is to be sent."""
        for output in outputs:
            if isinstance(output, Misbehaved):
                raise TypeError(f"an honest member is named for {output.reason}")
            if isinstance(output, SendGroupMessage):
                size = len(encode_message(output.message))
                node.sent += size
                self.at(now + DELAY_S, self.arriving(node.key.node_id, output, size))

    def arriving(self, sender: NodeId, output: SendGroupMessage, size: int) -> Callable[[float], None]:
        """A message at the end of its way."""

        def arrive(now: float) -> None:
            node = self.nodes[output.peer]
            node.received += size
            self.perform(node, node.machine.receive_message(sender, output.message, now), now)

        return arrive

    def look(self, now: float) -> None:
        """How old everybody's view of everybody is."""
        for node in self.nodes.values():
            for member, other in self.nodes.items():
                if member != node.key.node_id:
                    self.behind.append(self.behind_by(node, other, now))
                    heard = node.machine.load_of(member)
                    self.load_ages.append(now - (other.reported[heard.report.seq] if heard else 0.0))
        self.at(now + 1.7, self.look)

    def behind_by(self, node: Node, other: Node, now: float) -> float:
        """How long ago the first entry was written that a node does not know; 0 where it knows all."""
        known = node.machine.known_of(other.key.node_id)
        next_seq = known.next_seq if known is not None else 0
        unknown = [at for seq, at in other.written.items() if seq > next_seq]
        return now - min(unknown, default=now)

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        while self.events and self.events[0][0] < seconds:
            when, _, action = heapq.heappop(self.events)
            action(when)


def measure(count: int, prompts_per_s: float, seconds: float) -> dict[str, float]:
    """One group, after all know all."""
    group = Group(count, prompts_per_s)
    group.run(WARM_UP_S)
    for node in group.nodes.values():
        node.sent = node.received = node.stored = 0
    group.at(WARM_UP_S, group.look)
    group.run(WARM_UP_S + seconds)
    nodes = group.nodes.values()
    behind, ages = quantiles(group.behind, n=100), quantiles(group.load_ages, n=100)
    found = {
        "members": count,
        "prompts_per_s": prompts_per_s,
        "blocks_per_prompt": sum(node.stored for node in nodes) / seconds / count / prompts_per_s,
        "sent_mean": mean(node.sent for node in nodes) / seconds,
        "sent_max": max(node.sent for node in nodes) / seconds,
        "received_mean": mean(node.received for node in nodes) / seconds,
        "received_max": max(node.received for node in nodes) / seconds,
        "behind_median_s": behind[49],
        "behind_p99_s": behind[98],
        "load_age_median_s": ages[49],
        "load_age_p99_s": ages[98],
    }
    return {name: round(value, 2) for name, value in found.items()}


def main() -> None:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less time, the largest group only")
    quick = parser.parse_args().quick
    checkable.check_signature = cache(checkable.check_signature)
    cases = [(64, 1.0)] if quick else [(16, 1.0), (32, 1.0), (64, 0.25), (64, 1.0), (64, 4.0)]
    rows = [measure(count, rate, 20.0 if quick else 60.0) for count, rate in cases]
    print(
        "members  prompts/s  new blocks  sent B/s mean  max    received mean  max    behind s  p99   load s  p99"
    )
    for row in rows:
        print(
            f"{row['members']:>7}  {row['prompts_per_s']:>9}  {row['blocks_per_prompt']:>10.1f}"
            f"  {row['sent_mean']:>13,.0f}  {row['sent_max']:<6,.0f} {row['received_mean']:>13,.0f}"
            f"  {row['received_max']:<6,.0f} {row['behind_median_s']:>8.2f}  {row['behind_p99_s']:<5.2f}"
            f" {row['load_age_median_s']:>6.2f}  {row['load_age_p99_s']:<5.2f}"
        )
    full = next(row for row in rows if (row["members"], row["prompts_per_s"]) == (64, 1.0))
    targets = [
        Target("64 members, 1 prompt/s each: mean B/s sent by a node", full["sent_mean"], 20_000.0, "lower"),
        Target("the same: most B/s sent by a node", full["sent_max"], 20_000.0, "lower"),
        Target("the same: most B/s received by a node", full["received_max"], 20_000.0, "lower"),
        Target("the same: p99 of how far a view is behind, s", full["behind_p99_s"], 10.0, "lower"),
    ]
    print_report("group_traffic", {"rows": rows}, targets)


if __name__ == "__main__":
    main()
