"""Rules by which prompts are handed out: what others have published, each from its own description, and ours."""

import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.forwarding.group import BLOCK_TOKENS, SLOTS, Node, Request, View, uncached_tokens
from crypto.identity import NodeId
from overlay.routing.forwarding import Commit, Estimate, Probe, commit_to_answer, decide, estimate_waits

PROBE_S = 0.05
"""The round trip that asking costs."""

Chosen = tuple[Node, float]
"""The node, and the seconds that it took to choose it."""
Router = Callable[[View, Request, float], Chosen]


def _least(view: View, nodes: Sequence[Node], cost: Callable[[Node], float]) -> Node:
    best = min(cost(node) for node in nodes)
    return view.draw.choice([node for node in nodes if cost(node) <= best])


def round_robin(view: View, _request: Request, _now: float) -> Chosen:
    """One after another."""
    view.turn = (view.turn + 1) % len(view.nodes)
    return view.nodes[view.turn], 0.0


def least_request(view: View, _request: Request, _now: float) -> Chosen:
    """The fewest prompts waiting or running."""
    return _least(view, view.nodes, view.busy), 0.0


def power_of_two(view: View, _request: Request, _now: float) -> Chosen:
    """Live queues of two at random (Mitzenmacher, 2001), a probe charged."""
    two = view.draw.sample(list(view.nodes), 2)
    return min(two, key=lambda node: len(node.queue) + len(node.running)), PROBE_S


def sglang(view: View, request: Request, now: float) -> Chosen:
    """SGLang's cache-aware router (sgl-router, policies/cache_aware): balance first, else the best match over .3."""
    loads = [view.busy(node) for node in view.nodes]
    if max(loads) - min(loads) > 64 and max(loads) > 1.5 * min(loads):
        return _least(view, view.nodes, view.busy), 0.0
    held = view.held(request, now)
    if held and max(held.values()) / len(request.chain) > 0.3:
        return _least(view, view.nodes, lambda node: -held.get(node.node_id, 0)), 0.0
    return _least(view, view.nodes, view.busy), 0.0


def dynamo(view: View, request: Request, now: float) -> Chosen:
    """NVIDIA Dynamo's KV router: overlap weight 1, prefill blocks still to compute plus active decode blocks."""
    held = view.held(request, now)

    def cost(node: Node) -> float:
        prefill = (view.pending(node) + uncached_tokens(request, held, node)) / BLOCK_TOKENS
        load = view.loads[node.node_id][1]
        return prefill + load.decoding * request.tokens / BLOCK_TOKENS

    return _least(view, view.nodes, cost), 0.0


def llm_d(view: View, request: Request, now: float) -> Chosen:
    """llm-d's default scorers: twice the prefix, once the cache's use, once the queue."""
    held = view.held(request, now)
    most = max((view.busy(node) for node in view.nodes), default=0) or 1

    def score(node: Node) -> float:
        prefix = held.get(node.node_id, 0) / len(request.chain)
        used = view.loads[node.node_id][1].decoding / SLOTS
        return 2 * prefix + (1 - used) + (1 - view.busy(node) / most)

    return _least(view, view.nodes, lambda node: -score(node)), 0.0


def aibrix(view: View, request: Request, now: float) -> Chosen:
    """AIBrix's prefix-cache policy: over a spread of 8 least requests, else the best match up to mean + sigma."""
    loads = [view.busy(node) for node in view.nodes]
    if max(loads) - min(loads) > 8:
        return _least(view, view.nodes, view.busy), 0.0
    held, bound = view.held(request, now), statistics.fmean(loads) + statistics.pstdev(loads)
    calm = [node for node in view.nodes if view.busy(node) <= bound]
    best = max(held.get(node.node_id, 0) for node in calm)
    return _least(view, [node for node in calm if held.get(node.node_id, 0) == best], view.busy), 0.0


def lmetric_cost(view: View, request: Request, held: dict[NodeId, int], node: Node) -> float:
    """LMetric: uncached prefill times batch size, the least wins."""
    return (view.pending(node) + uncached_tokens(request, held, node)) * (view.busy(node) + 1)


def lmetric(view: View, request: Request, now: float) -> Chosen:
    """By the view alone."""
    held = view.held(request, now)
    return _least(view, view.nodes, partial(lmetric_cost, view, request, held)), 0.0


def lmetric_probing(view: View, request: Request, now: float) -> Chosen:
    """With the same three probes as ours."""
    held = view.held(request, now)
    cost = partial(lmetric_cost, view, request, held)
    ranked = sorted(view.nodes, key=cost)
    asked = ranked[:2] + ([view.draw.choice(ranked[2:])] if len(ranked) > 2 else [])

    def live(node: Node) -> float:
        queued = sum(job.unread for job in node.queue)
        uncached = max(1, request.tokens - node.expected(request) * BLOCK_TOKENS)
        return (queued + uncached) * (len(node.queue) + len(node.running) + 1)

    return _least(view, asked, live), PROBE_S


def predicted_wait(view: View, request: Request, now: float) -> Chosen:
    """Our cost, nobody asked."""
    held = view.held(request, now)
    found = estimate_waits(view.candidates(view.nodes, now), held, request.tokens, block_tokens=BLOCK_TOKENS)
    return _named(view, found[0]), 0.0


def ours(view: View, request: Request, now: float) -> Chosen:
    """What an entry node of clovenet does."""
    held = view.held(request, now)
    found = estimate_waits(view.candidates(view.nodes, now), held, request.tokens, block_tokens=BLOCK_TOKENS)
    decision = decide(found, view.draw.randbytes, max_wait_s=math.inf)
    if not isinstance(decision, Probe):
        assert isinstance(decision, Commit)  # nothing waits longer than for ever
        return _named(view, decision.estimate), 0.0
    asked = [_named(view, estimate) for estimate in decision.estimates]
    for node in asked:
        view.told(node, now)
    depths = {node.node_id: node.expected(request) for node in asked}
    anew = estimate_waits(view.candidates(asked, now), depths, request.tokens, block_tokens=BLOCK_TOKENS)
    bound = commit_to_answer(anew, decision, max_wait_s=math.inf)
    assert isinstance(bound, Commit)
    return _named(view, bound.estimate), PROBE_S


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
    "lmetric": lmetric,
    "lmetric, 3 probes": lmetric_probing,
    "predicted wait": predicted_wait,
    "ours": ours,
}
