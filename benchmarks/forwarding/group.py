"""A model group in virtual time: nodes that read, answer and cache, and what an entry node knows of them."""

import random  # noqa: TID251 - the same choices in every run, no secrets
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.forwarding.step_costs import ASSUMED, StepCosts
from crypto.identity import NodeId
from overlay.routing.cost import Sent
from overlay.routing.forwarding import Candidate
from overlay.routing.prefix_tree import PrefixTree
from overlay.wire.group import Load, Speed

BLOCK_TOKENS = 512
CHUNK = 512
LONG_S = 3600.0
"""Of answers here nobody knows how long they will go on."""
SLOTS = 64
CACHE_BLOCKS = 1500
LATENCIES = 8
NEVER = -1e9


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One prompt: when it comes, its blocks, its tokens and those of its answer.

    is_begun: its first token came from a node that died, and another goes on.
    """

    at: float
    chain: tuple[bytes, ...]
    tokens: int
    output: int
    is_begun: bool = False


@dataclass(slots=True, eq=False)
class Job:
    """A prompt at a node: tokens yet to read and to answer with, and positions that are in the cache."""

    request: Request
    arrived: float
    unread: int
    output: int
    context: int


@dataclass(frozen=True, slots=True)
class Told:
    """What a node tells of itself at some time.

    blocks: of keys and values that running answers use. factor_s: PlanetServe's, see `Node.latency_factor_s`.
    """

    at: float
    speed: Speed
    load: Load
    waiting: int
    blocks: int
    factor_s: float


class Node:
    """A model node: a queue, one prompt being read, answers running, a cache. speed: 1 is the usual one."""

    def __init__(self, node_id: NodeId, speed: float, costs: StepCosts = ASSUMED) -> None:
        self.node_id = node_id
        self.costs = costs.times(1 / speed)
        self.queue: deque[Job] = deque()
        self.running: list[Job] = []
        self.cache: OrderedDict[bytes, None] = OrderedDict()
        self.stored: list[bytes] = []
        self.evicted: list[bytes] = []
        self.phase: tuple[float, float, int] | None = None  # start, seconds of a step, steps
        self.reading: Job | None = None  # whose chunk is in the present phase
        self.version = 0
        self.computed = 0
        self.is_up = True
        self._latencies: deque[float] = deque(maxlen=LATENCIES)

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
        return Load(
            queued_tokens=queued,
            decoding=len(self.running),
            free_slots=max(free, 0),
            answer_s=ends,
            decoding_s=LONG_S if self.running else 0.0,
        )

    def speed(self) -> Speed:
        """What it has measured."""
        token_s = self.costs.seconds(0, CHUNK, 0) / CHUNK
        return Speed(
            prefill_token_s=token_s,
            attended_s=self.costs.attended_s,
            mixed_step_s=CHUNK * token_s + self.costs.answer_s * max(1, len(self.running)),
            mixed_tokens=CHUNK,
        )

    def tell(self, now: float) -> Told:
        """All that is gossiped or answered to a probe, but the blocks."""
        blocks = sum(-(-job.context // BLOCK_TOKENS) for job in self.running)
        waiting = len(self.queue)
        return Told(now, self.speed(), self.load(), waiting, blocks, self.latency_factor_s())

    def latency_factor_s(self) -> float:
        """.875 of the mean of the last answers' seconds before the last one, and .125 of that (PlanetServe)."""
        *before, last = self._latencies or (0.0,)
        return 0.875 * (sum(before) / len(before) if before else 0.0) + 0.125 * last

    def _decode_s(self) -> float:
        context = sum(job.context for job in self.running)
        return self.costs.seconds(len(self.running), 0, context)

    def add(self, request: Request, now: float) -> None:
        """A prompt comes."""
        known = min(self.cached(request) * BLOCK_TOKENS, request.tokens - 1)
        self.queue.append(Job(request, now, request.tokens - known, request.output, known))

    def begin_phase(self, now: float) -> float | None:
        """Start as many equal steps as nothing changes for; returns when they end."""
        reading = self.queue[0] if self.queue and len(self.running) < SLOTS else None
        self.reading = reading  # a prompt that comes meanwhile is not read in this phase
        if reading is None and not self.running:
            self.phase = None
            return None
        answers, attended = len(self.running), float(sum(job.context for job in self.running))
        if reading is None:
            chunk, steps = 0, min(job.output for job in self.running)
        else:
            chunk, steps = min(CHUNK, reading.unread), 1
            attended += chunk * (reading.context + chunk / 2)
        seconds = self.costs.seconds(answers, chunk, attended)
        self.phase = (now, seconds, steps)
        return now + steps * seconds

    def end_phase(self, steps: int, now: float) -> Iterator[tuple[Job, bool]]:
        """So many steps are over: jobs with a first token (True) or a last one (False)."""
        is_over = False
        for job in self.running:
            job.output -= steps
            job.context += steps
            is_over = is_over or job.output <= 0
        if is_over:
            over = [job for job in self.running if job.output <= 0]
            self.running = [job for job in self.running if job.output > 0]
            for job in over:
                self._latencies.append(now - job.arrived)
                yield job, False
        if self.reading is not None and self._read_chunk(self.reading):
            yield self.reading, True
            if self.queue:  # what was read meanwhile need not be read again
                self._look_again(self.queue[0])

    def _read_chunk(self, job: Job) -> bool:
        """Returns whether all is read."""
        chunk = min(CHUNK, job.unread)
        self.computed += chunk
        job.unread -= chunk
        job.context += chunk
        if job.unread:
            return False
        self.queue.popleft()
        self.running.append(job)
        self._keep(job.request)
        return True

    def _look_again(self, job: Job) -> None:
        known = min(self.cached(job.request) * BLOCK_TOKENS, job.request.tokens - 1)
        if known > job.context:
            job.unread, job.context = job.request.tokens - known, known

    def _keep(self, request: Request) -> None:
        cache = self.cache
        for block in request.chain:
            if block in cache:
                cache.move_to_end(block)
            else:
                self.stored.append(block)
                cache[block] = None
        while len(cache) > CACHE_BLOCKS:
            self.evicted.append(cache.popitem(last=False)[0])

    def die(self) -> list[Request]:
        """It is gone, with its cache. Returns what others have to answer or to go on with."""
        lost = [job.request for job in self.queue]
        for job in self.running:
            request = job.request
            more = request.output - job.output
            lost.append(replace(request, tokens=request.tokens + more, output=job.output, is_begun=True))
        self.queue, self.running, self.cache = deque(), [], OrderedDict()
        self.stored, self.evicted = [], []
        self._latencies.clear()
        self.phase = self.reading = None
        self.version += 1
        self.is_up = False
        return lost


class View:
    """What one entry node knows of the group. nodes: those that it takes to be up."""

    def __init__(self, nodes: Sequence[Node], seed: int) -> None:
        self.nodes = list(nodes)
        self.tree = PrefixTree(period_s=30.0)
        self.told = {node.node_id: node.tell(NEVER) for node in nodes}
        self.sent = {node.node_id: Sent() for node in nodes}
        self.flying = dict(self.sent)  # of what was sent, what has not arrived
        self.draw = random.Random(seed)  # noqa: S311
        self.turn = self.draw.randrange(len(nodes))

    def hear(self, node: Node, told: Told) -> None:
        """A node's load has come."""
        if node not in self.nodes:
            self.nodes.append(node)
        self.told[node.node_id] = told
        self.sent[node.node_id] = self.flying[node.node_id]

    def miss(self, node: Node) -> None:
        """A node is gone."""
        if node in self.nodes:
            self.nodes.remove(node)
            self.tree.forget(node.node_id)

    def ask(self, nodes: Sequence[Node], now: float) -> list[Node]:
        """Probe these. Returns who answers; what they tell is in the view then."""
        for node in nodes:
            if node.is_up:
                self.hear(node, node.tell(now))
            else:
                self.miss(node)
        return [node for node in nodes if node.is_up]

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

    def waiting(self, node: Node) -> int:
        """Prompts that wait, as far as known."""
        return self.told[node.node_id].waiting + self.sent[node.node_id].prompts

    def busy(self, node: Node) -> int:
        """Prompts that wait or run, as far as known."""
        load = self.told[node.node_id].load
        return SLOTS - load.free_slots + self.sent[node.node_id].prompts

    def pending(self, node: Node) -> int:
        """Prompt tokens that wait, as far as known."""
        return self.told[node.node_id].load.queued_tokens + self.sent[node.node_id].tokens

    def candidates(self, nodes: Sequence[Node], now: float) -> list[Candidate]:
        """For `overlay.routing`."""
        found = []
        for node in nodes:
            told, sent = self.told[node.node_id], self.sent[node.node_id]
            each = Candidate(
                member=node.node_id, speed=told.speed, load=told.load, sent=sent, age_s=now - told.at
            )
            found.append(each)
        return found


def uncached_tokens(request: Request, held: dict[NodeId, int], node: Node) -> int:
    """Prompt tokens that a node would compute, as far as known."""
    return max(1, request.tokens - held.get(node.node_id, 0) * BLOCK_TOKENS)
