"""The rules by which real engines are given prompts: the product's, parts of it, and what it is held against.

All see the same: what a member told last, what this entry node has sent there since, and its own load as it is now.
Whatever the rule, `Forwarder.answer` does the rest, so that handing over costs all of them the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from crypto.entropy import Entropy
from crypto.identity import NodeId
from node.engine.prompt_meter import Measured, PromptMeter
from node.serving.answer_writer import AnswerWriter
from node.serving.forwarder import Forwarder, Plan
from node.serving.groups import Groups
from node.serving.model_group import ModelGroup
from overlay.routing.cost import Wait
from overlay.routing.draw import draw_each
from overlay.routing.forwarding import Candidate, Commit, Estimate, Reason

NO_LIMIT_S = 1e6
"""Nobody refuses a prompt."""
PATIENT_S = 900.0
"""What a rule without predictions is said to predict: a prompt stays where it was sent."""


class NamelessMeter(PromptMeter):
    """Measures prompts without naming their blocks: nobody knows then where a prefix is, nor asks for it."""

    async def measure(self, prompt, *, key, scope):
        """As `PromptMeter.measure`, without a chain."""
        return await super().measure(prompt, key=key, scope=None)


@dataclass(frozen=True, slots=True)
class Seen:
    """A member as the entry node sees it, and how much of the prompt it is thought to hold. slots: of each engine."""

    candidate: Candidate
    cached_tokens: int
    slots: int

    @property
    def requests(self) -> int:
        """Prompts that are there: those in its batch, and those sent since it told. What waits, a load does not say."""
        return self.slots - self.candidate.load.free_slots + self.candidate.sent.prompts

    @property
    def queued_tokens(self) -> int:
        """Uncached prompt tokens that it has still to read."""
        return self.candidate.load.queued_tokens + self.candidate.sent.tokens


class Ruled(Forwarder, ABC):
    """Takes the member that a rule says. Nobody is asked, nothing is handed on."""

    slots = 8

    @abstractmethod
    def choose(self, group: ModelGroup, seen: Sequence[Seen], measured: Measured) -> NodeId:
        """The rule. seen: in no order, so that of equals any is taken."""

    async def plan(
        self, group: ModelGroup, measured: Measured, tried: frozenset[NodeId] = frozenset()
    ) -> Plan:
        """`Forwarder.plan`."""
        now = trio.current_time()
        estimates = group.estimate(measured, now, excluded=tried)
        seen = [
            Seen(group._candidate(each.member, now), each.cached_tokens, self.slots)  # noqa: SLF001 - what ours sees
            for each in draw_each(estimates, self._entropy)
        ]
        chosen = self.choose(group, seen, measured)
        cached = next(each.cached_tokens for each in estimates if each.member == chosen)
        estimate = Estimate(chosen, cached, Wait(PATIENT_S, 0.0, 0.0), 0.0, 1.0)
        return Plan(measured, estimates, choice=Commit(estimate, Reason.DOMINANT))


class RoundRobin(Ruled):
    """One after another, each entry node beginning with itself."""

    _turn = -1

    def choose(self, group: ModelGroup, seen: Sequence[Seen], measured: Measured) -> NodeId:
        """The rule."""
        members = sorted(each.candidate.member for each in seen)
        self._turn += 1
        return members[(members.index(group.node_id) + self._turn) % len(members)]


class LeastRequest(Ruled):
    """The fewest prompts, and of those that have as many the one with the least to read."""

    def choose(self, group: ModelGroup, seen: Sequence[Seen], measured: Measured) -> NodeId:
        """The rule."""
        return min(seen, key=lambda each: (each.requests, each.queued_tokens)).candidate.member


class LMetric(Ruled):
    """LMetric's: what there would be to read, times the prompts that there would be."""

    def choose(self, group: ModelGroup, seen: Sequence[Seen], measured: Measured) -> NodeId:
        """The rule."""

        def cost(each: Seen) -> int:
            own = max(1, measured.tokens - each.cached_tokens)
            return (each.queued_tokens + own) * (each.requests + 1)

        return min(seen, key=cost).candidate.member


class NobodyAsked(Forwarder):
    """Ours by the entry node's view alone: the least predicted wait."""

    async def plan(
        self, group: ModelGroup, measured: Measured, tried: frozenset[NodeId] = frozenset()
    ) -> Plan:
        """`Forwarder.plan`."""
        estimates = group.estimate(measured, trio.current_time(), excluded=tried)
        if not estimates:
            return Plan(measured, estimates)
        return Plan(measured, estimates, choice=Commit(estimates[0], Reason.DOMINANT))


@dataclass(frozen=True, slots=True)
class Arm:
    """What one run is of."""

    kind: type[Forwarder]
    knows_prefixes: bool = True

    def make(self, writer: AnswerWriter, groups: Groups, entropy: Entropy) -> Forwarder:
        """One node's."""
        return self.kind(writer, groups.hands, groups, entropy=entropy, max_wait_s=NO_LIMIT_S)


OURS, ROUND_ROBIN = "ours", "round-robin"
ARMS = {
    ROUND_ROBIN: Arm(RoundRobin),
    "least-request": Arm(LeastRequest),
    "lmetric": Arm(LMetric),
    OURS: Arm(Forwarder),
    "ours, nobody asked": Arm(NobodyAsked),
    "ours, no prefix": Arm(Forwarder, knows_prefixes=False),
}
