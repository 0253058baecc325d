"""Rules by which prompts are handed out: what others have published, each from its own description, and ours.

Where a rule has parameters, they are its project's defaults. Loads are what the view has: what a node told last, and
what this entry node has sent there since.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.forwarding.group import BLOCK_TOKENS, CACHE_BLOCKS, Node, Request, View, uncached_tokens
from crypto.identity import NodeId
from overlay.routing.cost import Sent
from overlay.routing.forwarding import (
    PROBES,
    Candidate,
    Commit,
    Estimate,
    Probe,
    commit_to_answer,
    decide,
    estimate_waits,
    find_better,
)

PROBE_S = 0.05
"""The round trip that asking costs."""

HandOn = Callable[[View, Node, Request, float], Node | None]
"""What a node does when a prompt has come: by its own view, itself, and when. None: it keeps it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The node, the seconds that it took to choose it, and what the node does with the prompt."""

    node: Node
    took_s: float = 0.0
    hand_on: HandOn | None = None


Router = Callable[[View, Request, float], Choice]


def _least(view: View, nodes: Sequence[Node], cost: Callable[[Node], float]) -> Choice:
    costs = [cost(node) for node in nodes]
    best = min(costs)
    return Choice(view.draw.choice([node for node, each in zip(nodes, costs, strict=True) if each <= best]))


def _took_s(asked: int, answering: Sequence[Node]) -> float:
    """Who does not answer is waited for twice as long."""
    return PROBE_S if len(answering) == asked else 2 * PROBE_S


def round_robin(view: View, _request: Request, _now: float) -> Choice:
    """One after another."""
    view.turn += 1
    return Choice(view.nodes[view.turn % len(view.nodes)])


def least_request(view: View, _request: Request, _now: float) -> Choice:
    """The fewest prompts waiting or running."""
    return _least(view, view.nodes, view.busy)


def power_of_two(view: View, _request: Request, now: float) -> Choice:
    """Live queues of two at random (Mitzenmacher, 2001), a probe charged."""
    asked = view.draw.sample(view.nodes, 2)
    answering = view.ask(asked, now)
    if not answering:
        return Choice(asked[0], _took_s(2, answering))
    best = min(answering, key=lambda node: len(node.queue) + len(node.running))
    return Choice(best, _took_s(2, answering))


def sglang(view: View, request: Request, now: float) -> Choice:
    """SGLang's cache-aware policy: the fewest requests where they are out of balance, else the best match over .3.

    github.com/sgl-project/sglang, sgl-router/src/policies/cache_aware.rs; `balance_abs_threshold` 64,
    `balance_rel_threshold` 1.5, `cache_threshold` .3. A worse match goes to the least busy one, as in newer versions.
    """
    loads = [view.busy(node) for node in view.nodes]
    if max(loads) - min(loads) > 64 and max(loads) > 1.5 * min(loads):
        return _least(view, view.nodes, view.busy)
    held = view.held(request, now)
    if held and max(held.values()) / len(request.chain) > 0.3:
        return _least(view, view.nodes, lambda node: -held.get(node.node_id, 0))
    return _least(view, view.nodes, view.busy)


def dynamo(view: View, request: Request, now: float) -> Choice:
    """NVIDIA Dynamo's KV router: prompt blocks to compute (weight 1) plus blocks of active answers, the least wins.

    docs.nvidia.com/dynamo, "Routing Concepts": `router-kv-overlap-score-credit` 1, `router-prefill-load-scale` 1,
    `router-temperature` 0. Active prompt work counts until the first token, the prompt's own blocks then.
    """
    held = view.held(request, now)

    def cost(node: Node) -> float:
        prefill = view.pending(node) + uncached_tokens(request, held, node)
        return prefill / BLOCK_TOKENS + view.told[node.node_id].blocks

    return _least(view, view.nodes, cost)


def llm_d(view: View, request: Request, now: float) -> Choice:
    """llm-d's scorers: prefix, the cache's use, the queue.

    github.com/llm-d/llm-d-inference-scheduler and the Gateway API inference extension's defaults: `prefix-cache-scorer`
    3, `kv-cache-utilization-scorer` 2, `queue-scorer` 2 (waiting requests, scaled to the range that there is).
    """
    held = view.held(request, now)
    queues = [view.waiting(node) for node in view.nodes]
    least, most = min(queues), max(queues)

    def score(node: Node) -> float:
        prefix = held.get(node.node_id, 0) / len(request.chain)
        free = 1 - min(1.0, view.told[node.node_id].blocks / CACHE_BLOCKS)
        queue = (most - view.waiting(node)) / (most - least) if most > least else 1.0
        return 3 * prefix + 2 * free + 2 * queue

    return _least(view, view.nodes, lambda node: -score(node))


def aibrix(view: View, request: Request, now: float) -> Choice:
    """AIBrix's prefix-cache policy: over a spread of 8 least requests, else the best match up to mean + 1 sigma.

    github.com/vllm-project/aibrix, pkg/plugins/gateway/algorithms (README and prefix_cache.go).
    """
    loads = [view.busy(node) for node in view.nodes]
    if max(loads) - min(loads) > 8:
        return _least(view, view.nodes, view.busy)
    held, bound = view.held(request, now), statistics.fmean(loads) + statistics.pstdev(loads)
    calm = [node for node, load in zip(view.nodes, loads, strict=True) if load <= bound]
    best = max(held.get(node.node_id, 0) for node in calm)
    return _least(view, [node for node in calm if held.get(node.node_id, 0) == best], view.busy)


def planetserve(view: View, request: Request, now: float) -> Choice:
    """PlanetServe: who holds the most, unless its latency factor is over the 80th percentile; else the lowest factor.

    Fang et al., NSDI '26 (arXiv 2504.20101), and github.com/fffeifang/PlanetServe, eval/hrt+lb. Its tree is cut
    at 100 tokens and gives the first of the holders; here it is whole, and the lowest factor of the longest match wins.
    """
    held = view.held(request, now)
    factors = sorted(view.told[node.node_id].factor_s for node in view.nodes)
    cutoff = factors[max(math.ceil(0.8 * len(factors)) - 1, 0)]
    calm = [node for node in view.nodes if view.told[node.node_id].factor_s <= cutoff]
    best = max(held.get(node.node_id, 0) for node in calm)
    among = [node for node in calm if held.get(node.node_id, 0) == best]
    return _least(view, among, lambda node: view.told[node.node_id].factor_s)


def lmetric_cost(view: View, request: Request, held: Mapping[NodeId, int], node: Node) -> float:
    """Prompt tokens to compute, times the batch."""
    return (view.pending(node) + uncached_tokens(request, held, node)) * (view.busy(node) + 1)


def lmetric(view: View, request: Request, now: float) -> Choice:
    """LMetric: uncached prompt tokens times batch size, the least wins (arXiv 2603.15202; it has no parameters)."""
    held = view.held(request, now)
    return _least(view, view.nodes, partial(lmetric_cost, view, request, held))


def lmetric_probing(view: View, request: Request, now: float) -> Choice:
    """LMetric with as many probes as ours, and their live queues and prefixes."""
    held = view.held(request, now)
    ranked = sorted(view.nodes, key=partial(lmetric_cost, view, request, held))
    best, others = ranked[: PROBES - 1], ranked[PROBES - 1 :]
    asked = [*best, *view.draw.sample(others, min(1, len(others)))]
    answering = view.ask(asked, now)
    took_s = _took_s(len(asked), answering)
    if not answering:
        return Choice(asked[0], took_s)
    depths = {node.node_id: node.expected(request) for node in answering}
    return replace(_least(view, answering, partial(lmetric_cost, view, request, depths)), took_s=took_s)


def predicted_wait(view: View, request: Request, now: float) -> Choice:
    """Our cost, nobody asked."""
    return Choice(_named(view, _estimate(view, view.nodes, request, view.held(request, now), now)[0]))


def ours(view: View, request: Request, now: float) -> Choice:
    """What an entry node of clovenet does."""
    found = _estimate(view, view.nodes, request, view.held(request, now), now)
    decision = decide(found, view.draw.randbytes, max_wait_s=math.inf)
    if not isinstance(decision, Probe):
        assert isinstance(decision, Commit)  # nothing waits longer than for ever
        return Choice(_named(view, decision.estimate), 0.0, hand_on_by_own_view)
    asked = {each.member: _named(view, each) for each in decision.estimates}
    answering = view.ask(list(asked.values()), now)
    depths = {node.node_id: node.expected(request) for node in answering}
    anew = _estimate(view, answering, request, depths, now)
    bound = commit_to_answer(anew, decision, max_wait_s=math.inf)
    assert isinstance(bound, Commit)
    others = [(estimate, asked[estimate.member]) for estimate in bound.others]
    hand_on = partial(hand_on_by_answers, others)
    return Choice(asked[bound.estimate.member], _took_s(len(asked), answering), hand_on)


def ours_kept(view: View, request: Request, now: float) -> Choice:
    """The same, but who gets a prompt keeps it."""
    return replace(ours(view, request, now), hand_on=None)


def ours_by_own_view(view: View, request: Request, now: float) -> Choice:
    """The same, but whoever gets a prompt goes by its own view, as if no answers came with it."""
    return replace(ours(view, request, now), hand_on=hand_on_by_own_view)


def hand_on_by_answers(
    others: Sequence[tuple[Estimate, Node]], _view: View, node: Node, request: Request, _now: float
) -> Node | None:
    """To one of those who were asked, by what they answered then."""
    better = find_better(_live(node, request), [estimate for estimate, _ in others], hops_left=1)
    return next((other for estimate, other in others if estimate is better), None)


def hand_on_by_own_view(view: View, node: Node, request: Request, now: float) -> Node | None:
    """Where nobody was asked."""
    others = [other for other in view.nodes if other is not node]
    found = _estimate(view, others, request, view.held(request, now), now)
    better = find_better(_live(node, request), found, hops_left=1)
    return _named(view, better) if better else None


def _live(node: Node, request: Request) -> Estimate:
    here = Candidate(member=node.node_id, speed=node.speed(), load=node.load(), sent=Sent(), age_s=0.0)
    depth = {node.node_id: node.expected(request)}
    return estimate_waits([here], depth, request.tokens, block_tokens=BLOCK_TOKENS)[0]


def _estimate(
    view: View, nodes: Sequence[Node], request: Request, held: Mapping[NodeId, int], now: float
) -> list[Estimate]:
    return estimate_waits(view.candidates(nodes, now), held, request.tokens, block_tokens=BLOCK_TOKENS)


def _named(view: View, estimate: Estimate) -> Node:
    return next(node for node in view.nodes if node.node_id == estimate.member)


ROUTERS: dict[str, Router] = {
    "round-robin": round_robin,
    "least-request": least_request,
    "power of two": power_of_two,
    "sglang": sglang,
    "dynamo": dynamo,
    "llm-d": llm_d,
    "aibrix": aibrix,
    "planetserve": planetserve,
    "lmetric": lmetric,
    "lmetric, asking": lmetric_probing,
    "predicted wait": predicted_wait,
    "ours": ours,
}

VARIANTS: dict[str, Router] = {"ours, kept": ours_kept, "ours, by own view": ours_by_own_view}
"""What handing on is worth."""
HANDING_ON = (ours, ours_by_own_view)
PUBLISHED = (
    "round-robin",
    "least-request",
    "sglang",
    "dynamo",
    "llm-d",
    "aibrix",
    "planetserve",
    "lmetric",
)
"""Those that go by the same old view. Power of two asks, as ours does, and is held against ours apart."""
ASKING = ("power of two", "lmetric, asking", "ours")
