"""A model group in virtual time: nodes that read, answer and cache, and what an entry node knows of them."""

import random  # noqa: TID251 - the same choices in every run, no secrets
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from crypto.identity import NodeId
from overlay.routing.cost import Sent
from overlay.routing.forwarding import Candidate
from overlay.routing.prefix_tree import PrefixTree
from overlay.wire.group import Load, Speed

BLOCK_TOKENS = 512
CHUNK = 512
SLOTS = 64
CACHE_BLOCKS = 1500
STEP_S, DECODE_S, TOKEN_S, ATTENDED_S = 0.008, 1e-4, 6e-5, 1e-9
"""Seconds of a step, of an answer in it, of a prompt token, of a position attended to: an 8B model on one GPU."""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt: when it comes, its blocks, its tokens and those of its answer."""

    at: float
    chain: tuple[bytes, ...]
    tokens: int
    output: int


@dataclass(slots=True, eq=False)
class _Job:
    request: Request
    arrived: float
    unread: int
    output: int
    context: int


class Node:
    """A model node: a queue, one prompt being read, answers running, a cache. speed: 1 is the usual one."""

    def __init__(self, node_id: NodeId, speed: float) -> None:
        self.node_id = node_id
        self.factor = 1 / speed
        self.queue: deque[_Job] = deque()
        self.running: list[_Job] = []
        self.cache: OrderedDict[bytes, None] = OrderedDict()
        self.stored: list[bytes] = []
        self.evicted: list[bytes] = []
        self.phase: tuple[float, float, int] | None = None  # start, seconds of a step, steps
        self.reading: _Job | None = None  # whose chunk is in the present phase
        self.version = 0

    def cached(self, request: Request) -> int:
        """Leading blocks that are in the cache."""
        for depth, block in enumerate(request.chain):
            if block not in self.cache:
                return depth
        return len(request.chain)

    def expected(self, request: Request) -> int:
        """The same, with what queued prompts will have left there."""
        coming = {block for job in self.queue for block in job.request.chain}
        for depth, block in enumerate(request.chain):
            if block not in self.cache and block not in coming:
                return depth
        return len(request.chain)

    def load(self) -> Load:
        """What it would tell of itself now."""
        queued = sum(job.unread for job in self.queue)
        free = SLOTS - len(self.running) - len(self.queue)
        ends = min((job.output for job in self.running), default=0) * self._decode_s()
        return Load(queued_tokens=queued, decoding=len(self.running), free_slots=max(free, 0), answer_s=ends)

    def speed(self) -> Speed:
        """What it has measured."""
        return Speed(
            prefill_token_s=self.factor * (TOKEN_S + STEP_S / CHUNK),
            attended_s=self.factor * ATTENDED_S,
            decode_step_s=self.factor * DECODE_S * max(1, len(self.running)),
            mixed_tokens=CHUNK,
            chunk_tokens=CHUNK,
        )

    def _decode_s(self) -> float:
        context = sum(job.context for job in self.running)
        return self.factor * (STEP_S + DECODE_S * len(self.running) + ATTENDED_S * context)

    def add(self, request: Request, now: float) -> None:
        """A prompt comes."""
        known = min(self.cached(request) * BLOCK_TOKENS, request.tokens - 1)
        self.queue.append(_Job(request, now, request.tokens - known, request.output, known))

    def begin_phase(self, now: float) -> float | None:
        """Start as many equal steps as nothing changes for; returns when they end."""
        reading = self.queue[0] if self.queue and len(self.running) < SLOTS else None
        self.reading = reading  # a prompt that comes meanwhile is not read in this phase
        if reading is None and not self.running:
            self.phase = None
            return None
        seconds = self._decode_s() if self.running else self.factor * STEP_S
        steps = min((job.output for job in self.running), default=1 << 30)
        if reading is not None:
            chunk = min(CHUNK, reading.unread)
            seconds += self.factor * chunk * (TOKEN_S + ATTENDED_S * (reading.context + chunk / 2))
            steps = 1
        self.phase = (now, seconds, steps)
        return now + steps * seconds

    def end_phase(self, steps: int) -> Iterator[tuple[_Job, bool]]:
        """So many steps are over: jobs with a first token (True) or a last one (False)."""
        reading = self.reading
        for job in self.running:
            job.output -= steps
            job.context += steps
        for job in [job for job in self.running if job.output <= 0]:
            self.running.remove(job)
            yield job, False
        if reading is not None:
            chunk = min(CHUNK, reading.unread)
            reading.unread -= chunk
            reading.context += chunk
            if not reading.unread:
                self.queue.popleft()
                self.running.append(reading)
                self._keep(reading.request)
                yield reading, True
                if self.queue:  # what was read meanwhile need not be read again
                    self._look_again(self.queue[0])

    def _look_again(self, job: _Job) -> None:
        known = min(self.cached(job.request) * BLOCK_TOKENS, job.request.tokens - 1)
        if known > job.context:
            job.unread, job.context = job.request.tokens - known, known

    def _keep(self, request: Request) -> None:
        for block in request.chain:
            if block not in self.cache:
                self.stored.append(block)
            self.cache[block] = None
            self.cache.move_to_end(block)
        while len(self.cache) > CACHE_BLOCKS:
            self.evicted.append(self.cache.popitem(last=False)[0])


class View:
    """What one entry node knows of the group."""

    def __init__(self, nodes: Sequence[Node], seed: int) -> None:
        self.nodes = nodes
        self.tree = PrefixTree(period_s=30.0)
        self.loads = {node.node_id: (node.speed(), node.load(), -1e9) for node in nodes}
        self.sent = {node.node_id: Sent() for node in nodes}
        self.flying = dict(self.sent)  # of what was sent, what has not arrived
        self.draw = random.Random(seed)  # noqa: S311
        self.turn = self.draw.randrange(len(nodes))

    def told(self, node: Node, now: float) -> None:
        """A node's load has come."""
        self.loads[node.node_id] = (node.speed(), node.load(), now)
        self.sent[node.node_id] = self.flying[node.node_id]

    def held(self, request: Request, now: float) -> dict[NodeId, int]:
        """Matched blocks by node."""
        return self.tree.match(request.chain, now)

    def note_sent(self, node: Node, request: Request, now: float) -> int:
        """A prompt goes to a node. Returns its tokens that are taken to be uncached there."""
        uncached = uncached_tokens(request, self.held(request, now), node)
        for part in (self.sent, self.flying):
            before = part[node.node_id]
            part[node.node_id] = Sent(before.tokens + uncached, before.prompts + 1)
        self.tree.expect(node.node_id, request.chain, now)
        return uncached

    def note_arrived(self, node: Node, uncached: int) -> None:
        """It is there: what the node tells from now on counts it."""
        before = self.flying[node.node_id]
        self.flying[node.node_id] = Sent(before.tokens - uncached, before.prompts - 1)

    def busy(self, node: Node) -> int:
        """Prompts that wait or run, as far as known."""
        load = self.loads[node.node_id][1]
        return SLOTS - load.free_slots + self.sent[node.node_id].prompts

    def pending(self, node: Node) -> int:
        """Prompt tokens that wait, as far as known."""
        return self.loads[node.node_id][1].queued_tokens + self.sent[node.node_id].tokens

    def candidates(self, nodes: Sequence[Node], now: float) -> list[Candidate]:
        """For `overlay.routing`."""
        return [
            Candidate(
                member=node.node_id,
                speed=self.loads[node.node_id][0],
                load=self.loads[node.node_id][1],
                sent=self.sent[node.node_id],
                age_s=now - self.loads[node.node_id][2],
            )
            for node in nodes
        ]


def uncached_tokens(request: Request, held: dict[NodeId, int], node: Node) -> int:
    """Prompt tokens that a node would compute, as far as known."""
    return max(1, request.tokens - held.get(node.node_id, 0) * BLOCK_TOKENS)
