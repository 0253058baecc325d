"""One workload through one router, in virtual time."""

import heapq
import math
import random  # noqa: TID251 - the same choices in every run, no secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.forwarding.group import Node, Request, View
from benchmarks.forwarding.routers import HANDING_ON, HandOn, Router
from benchmarks.forwarding.step_costs import ASSUMED, StepCosts
from crypto.identity import NodeId

HOP_S = 0.05
"""What it costs to hand a prompt on."""
DETECT_S = 2.0
"""After a node's death, or after a prompt went to a dead one, until who waits for it notices."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A node dies, and is back later with nothing."""

    node: int
    at: float
    back: float


@dataclass
class Run:
    """Seconds to first tokens and to whole answers, and what was cached of the prompts' tokens."""

    router: Router
    entries: int
    gossip_s: float
    speeds: Sequence[float]
    seed: int
    costs: StepCosts = ASSUMED
    failures: Sequence[Failure] = ()
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    asked: int = 0
    handed_on: int = 0

    def play(self, requests: Sequence[Request]) -> "Run":
        """Until all are answered."""
        ids = [NodeId(bytes([i + 1]) * 32) for i in range(len(self.speeds))]
        self._nodes = [
            Node(node_id, speed, self.costs) for node_id, speed in zip(ids, self.speeds, strict=True)
        ]
        views = max(self.entries, len(self._nodes) if self.router in HANDING_ON else 0)
        self._views = [
            View(self._nodes, self.seed * 1000 + i) for i in range(views)
        ]  # the first are entry nodes'
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._count = 0
        draw = random.Random(self.seed)  # noqa: S311
        for request in requests:
            view = self._views[draw.randrange(self.entries)]
            self._at(request.at, partial(self._arrive, view, request))
        self._left = len(requests)
        if self.gossip_s:
            for index, node in enumerate(self._nodes):  # each at a time of its own
                self._at(self.gossip_s * index / len(self._nodes), partial(self._tell, node))
        for failure in self.failures:
            self._at(failure.at, partial(self._fail, failure))
        while self._left:
            now, _, action = heapq.heappop(self._events)
            action(now)
        return self

    def _at(self, when: float, action: Callable[[float], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, action))

    @property
    def computed(self) -> int:
        """Prompt tokens that were not cached."""
        return sum(node.computed for node in self._nodes)

    # --- prompts ----------------------------------------------------------------------------------------

    def _arrive(self, view: View, request: Request, now: float) -> None:
        if not self.gossip_s:
            for node in self._nodes:
                if node.is_up:
                    self._publish(node, now)
        choice = self.router(view, request, now)
        self.asked += choice.took_s > 0
        uncached = view.note_sent(choice.node, request, now)
        deliver = partial(self._deliver, view, choice.node, request, uncached, choice.hand_on)
        if choice.took_s:
            self._at(now + choice.took_s, deliver)
        else:
            deliver(now)

    def _deliver(
        self, view: View, node: Node, request: Request, uncached: int, hand_on: HandOn | None, now: float
    ) -> None:
        view.note_arrived(node, uncached)
        if not node.is_up:
            self._at(now + DETECT_S, partial(self._try_again, view, node, request))
            return
        own_view = self._views[self._nodes.index(node)] if hand_on else view
        other = hand_on(own_view, node, request, now) if hand_on else None
        if other is not None:
            self.handed_on += 1
            uncached = own_view.note_sent(other, request, now)
            self._at(now + HOP_S, partial(self._deliver, own_view, other, request, uncached, None))
            return
        self._take(node, request, now)

    def _try_again(self, view: View, node: Node, request: Request, now: float) -> None:
        view.miss(node)
        self._arrive(view, request, now)

    def _take(self, node: Node, request: Request, now: float) -> None:
        if node.phase is not None and not node.queue:
            # answers are running: the prompt comes in at the next step
            start, seconds, steps = node.phase
            done = min(steps, math.ceil((now - start) / seconds - 1e-9))
            if done < steps:
                node.version += 1
                node.phase = (start, seconds, done)
                self._at(max(now, start + done * seconds), partial(self._end_phase, node, node.version))
        node.add(request, now)
        if node.phase is None:
            self._begin(node, now)

    def _fail(self, failure: Failure, now: float) -> None:
        node = self._nodes[failure.node]
        for index, request in enumerate(node.die()):  # each is noticed by the entry node that waits for it
            view = self._views[index % self.entries]
            self._at(now + DETECT_S, partial(self._try_again, view, node, request))
        for view in self._views:
            self._at(now + DETECT_S, lambda _, view=view: view.miss(node))
        self._at(failure.back, lambda _: setattr(node, "is_up", True))

    # --- steps ------------------------------------------------------------------------------------------

    def _begin(self, node: Node, now: float) -> None:
        end = node.begin_phase(now)
        node.version += 1
        if end is not None:
            self._at(end, partial(self._end_phase, node, node.version))

    def _end_phase(self, node: Node, version: int, now: float) -> None:
        if version != node.version or node.phase is None:
            return
        for job, is_first in node.end_phase(node.phase[2], now):
            request = job.request
            if not is_first:
                self.whole.append(now - request.at)
                self._left -= 1
            elif not request.is_begun:
                self.first.append(now - request.at)
        self._begin(node, now)

    # --- what is told -----------------------------------------------------------------------------------

    def _tell(self, node: Node, now: float) -> None:
        if node.is_up:
            self._publish(node, now)
        self._at(now + self.gossip_s, partial(self._tell, node))

    def _publish(self, node: Node, now: float) -> None:
        stored, node.stored = node.stored, []
        evicted, node.evicted = node.evicted, []
        told = node.tell(now)
        for view in self._views:
            view.hear(node, told)
            view.tree.store(node.node_id, stored)
            view.tree.evict(node.node_id, evicted)
