"""Which tokens the next step computes. Pure: no torch, no clock.

Continuous batching: requests join and leave between steps. A step decodes one token of every running answer and reads
a bounded part of the prompts that are not read yet, so that a long prompt does not hold up the others' tokens.

A sequence is admitted first come, first served, when there is a place in the batch and blocks for its prompt. What of
the prompt other requests have left in the cache is not computed again; a prompt whose next block another one is just
computing waits for it, and lets others pass. Answers take blocks as they grow. Where none are left, the sequence that
was admitted last gives up its own and goes back to the head of the queue: its tokens are kept and only their keys and
values are computed once more, so nothing is lost and no sampled token changes.

Prompts share a step's budget: half goes to the one that was admitted first, which thus always gets on, and the rest to
those with the least left to read, so that a short one is not kept waiting by a long one.
"""

from collections import deque
from collections.abc import Sequence as Counts
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from node.engine.block_manager import BLOCK_TOKENS, BlockManager
from node.engine.sequence import Chunk, Sequence


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """sequences bounds what runs at once; the others bound the prompt tokens of one step."""

    sequences: int = 8
    prefill_tokens: int = 512
    mixed_prefill_tokens: int = 64


class Scheduler:
    """Waiting and running sequences of one model, and the blocks that they hold."""

    def __init__(self, limits: BatchLimits, blocks: BlockManager) -> None:
        self._limits = limits
        self._blocks = blocks
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # in the order of their admission
        self.preemptions = 0

    @property
    def is_idle(self) -> bool:
        """There is nothing to compute."""
        return not (self._waiting or self._running)

    @property
    def running(self) -> tuple[Sequence, ...]:
        """Who is in the batch, in the order of their admission."""
        return tuple(self._running)

    @property
    def waiting(self) -> tuple[Sequence, ...]:
        """Who waits for a place, in order."""
        return tuple(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Its capacity must fit the pool by itself."""
        if sequence.capacity > self._blocks.count * BLOCK_TOKENS:
            raise ValueError(
                f"capacity {sequence.capacity} exceeds the cache's {self._blocks.count * BLOCK_TOKENS}"
            )
        self._note_chain(sequence)
        self._waiting.append(sequence)

    def remove(self, request: int) -> Sequence | None:
        """Take a request out, running or waiting; its place and its blocks are free at once."""
        for queue in (self._running, self._waiting):
            for sequence in queue:
                if sequence.request == request:
                    queue.remove(sequence)
                    self._blocks.release(sequence.table)
                    return sequence
        return None

    def plan(self) -> list[Chunk]:
        """The chunks of the next step: decodes first, then prompts. Blocks for all of them are there."""
        decodes = self._plan_decodes()
        self._admit()
        budget = self._limits.mixed_prefill_tokens if decodes else self._limits.prefill_tokens
        return decodes + self._plan_prefills(budget, {chunk.sequence for chunk in decodes})

    def computed(self, chunks: list[Chunk]) -> None:
        """These chunks have keys and values now."""
        for chunk in chunks:
            sequence = chunk.sequence
            table, full = sequence.table, sequence.computed // BLOCK_TOKENS
            sequence.computed += chunk.count
            for index in range(full, sequence.computed // BLOCK_TOKENS):
                self._blocks.fill(table, sequence.tokens(index * BLOCK_TOKENS, BLOCK_TOKENS))

    def _plan_decodes(self) -> list[Chunk]:
        chunks = []
        for sequence in [each for each in self._running if each.is_decoding]:
            while sequence in self._running and not self._blocks.grow(sequence.table, sequence.length):
                self._preempt(self._running[-1])
            if sequence in self._running:
                chunks.append(Chunk(sequence, sequence.computed, 1))
        return [chunk for chunk in chunks if chunk.sequence in self._running]

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._blocks.release(sequence.table)
        sequence.computed = 0
        self._note_chain(sequence)
        self._waiting.appendleft(sequence)
        self.preemptions += 1

    def _admit(self) -> None:
        """Take in who fits. A sequence takes the blocks for all that it has to read at once."""
        expected = {each for sequence in self._running if not sequence.is_decoding for each in sequence.chain}
        for sequence in list(self._waiting):
            if len(self._running) >= self._limits.sequences:
                return
            known = self._blocks.match(sequence.chain)
            if known < len(sequence.chain) and sequence.chain[known] in expected:
                continue
            if not self._place(sequence, sequence.chain[:known]):
                return
            expected.update(sequence.chain)

    def _place(self, sequence: Sequence, known: tuple[bytes, ...]) -> bool:
        self._blocks.share(sequence.table, known)
        has_room = self._blocks.grow(sequence.table, sequence.length)
        # One block for each that runs: else it would be thrown out again at once.
        if not has_room or (self._running and self._blocks.available < len(self._running)):
            self._blocks.release(sequence.table)
            return False
        sequence.computed = len(known) * BLOCK_TOKENS
        if len(sequence.output_ids) == sequence.given:  # else it was here before, and was thrown out
            sequence.cached_tokens = min(sequence.computed, len(sequence.prompt_ids))
        self._waiting.remove(sequence)
        self._running.append(sequence)
        return True

    def _note_chain(self, sequence: Sequence) -> None:
        """At least one token must be left to compute: its row gives the next one."""
        readable = sequence.tokens(0, sequence.length - 1)
        sequence.chain = tuple(self._blocks.chain(sequence.table.scope, readable))

    def _plan_prefills(self, budget: int, decoded: AbstractSet[Sequence]) -> list[Chunk]:
        # Who was just admitted may have one token left to compute, all before it being known: an answer that another
        # node had begun, or one that was thrown out.
        reading = [each for each in self._running if each not in decoded]
        shares = share_budget([each.length - each.computed for each in reading], budget)
        return [
            Chunk(each, each.computed, share) for each, share in zip(reading, shares, strict=True) if share
        ]


def share_budget(unread: Counts[int], budget: int) -> list[int]:
    """How many tokens of each prompt a step reads: half for the first, the rest to those with the least left."""
    shares = [0] * len(unread)
    if unread:
        shares[0] = min(unread[0], -(-budget // 2))
        budget -= shares[0]
    for index in sorted(range(len(unread)), key=unread.__getitem__):
        more = min(unread[index] - shares[index], budget)
        shares[index] += more
        budget -= more
    return shares
