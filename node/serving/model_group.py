"""A node's part in one model group: its own log and load, its view of the others, and what a prompt would wait where.

Plain state, no tasks: `groups.py` drives it.
"""

from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from crypto.identity import IdentityKey, NodeId
from crypto.kdf import derive
from node.engine.block_manager import scope_of
from node.engine.events import CacheReport, EngineLoad, ModelCard
from node.engine.prompt_meter import Measured, PromptMeter
from overlay.protocol.group import GroupMachine
from overlay.routing.cost import Sent
from overlay.routing.forwarding import Candidate, Estimate, estimate_waits
from overlay.routing.prefix_tree import PrefixTree
from overlay.routing.promises import Promises
from overlay.wire.group import GroupId, Load, Speed, group_id
from overlay.wire.handover import HandId
from overlay.wire.limits import (
    MAX_ANSWER_WAIT_S,
    MAX_ASKED_BLOCKS,
    MAX_ATTENDED_S,
    MAX_PREFILL_TOKEN_S,
    MAX_QUEUED_TOKENS,
    MAX_RUNNING_ANSWERS,
    MAX_STEP_S,
    MIN_PREFILL_TOKEN_S,
)
from overlay.wire.prompt import Task

TOLD_SOON_S = 15.0
"""Public blocks are expected where a prompt went for so long, or up to twice: by then their holder has told of them."""
SESSION_S = 300.0
"""Nobody tells of a session's blocks: its next turn is expected to find them where the last one went for so long."""
Weigh = Callable[[NodeId], float]
"""A node's reputation: 1 asks it freely, 0 not at all."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Whose group it is: this node, its network, and the model that all members serve alike."""

    key: IdentityKey
    network: bytes
    card: ModelCard


def block_key(network: bytes, group: GroupId) -> bytes:
    """What a group's blocks are named under.

    Members can make it, and so can others who know network and model: it keeps blocks of one group from being known
    again in another, and no more (see the threat model).
    """
    return derive(network + group, b"clove-group-blocks/2")


class ModelGroup:
    """One model's group, as this node sees it.

    engine_load: what this node's engine says of the model; None while it has said nothing. incarnation: greater than at
    the last start.
    """

    def __init__(
        self,
        membership: Membership,
        meter: PromptMeter,
        engine_load: Callable[[], EngineLoad | None],
        *,
        incarnation: int,
        now: float,
        weigh: Weigh = lambda _member: 1.0,
    ) -> None:
        self.card = membership.card
        self.id = group_id(membership.network, self.card.model_id, self.card.numerics_class)
        self.node_id = membership.key.node_id
        self.meter = meter
        self.block_key = block_key(membership.network, self.id)
        self.promises = Promises()
        self._engine_load = engine_load
        self._weigh = weigh
        self._tree = PrefixTree(period_s=TOLD_SOON_S)
        self._sessions = PrefixTree(period_s=SESSION_S)
        self._sent: dict[NodeId, dict[HandId, int]] = defaultdict(dict)
        self.machine = GroupMachine(
            self.node_id,
            self.id,
            sign=membership.key.sign,
            incarnation=incarnation,
            holders=self._tree,
            now=now,
        )

    @property
    def others(self) -> Collection[NodeId]:
        """Members beside this node of whose load something is known."""
        return [
            member
            for member in self.machine.members
            if member != self.node_id and self.machine.load_of(member) is not None
        ]

    async def measure(self, task: Task) -> Measured:
        """A prompt's tokens and chain. Raises EngineError where it is refused."""
        scope = scope_of(task.cache, task.session)
        found = await self.meter.measure(task.prompt, key=self.block_key, scope=scope)
        return Measured(
            found.tokens + len(task.given), found.chain[:MAX_ASKED_BLOCKS], is_told=task.cache == "public"
        )

    # --- what this node tells ---------------------------------------------------------------------------

    def cache_changed(self, report: CacheReport) -> None:
        """The engine tells of public blocks."""
        if report.begins:
            self.machine.begin_anew()
        self.machine.tell_blocks(report.stored, report.evicted)

    def tell_load(self) -> bytes | None:
        """Take down how busy this node is now; the signed report of it. None while the engine has said nothing."""
        known = self._own()
        if known is None:
            return None
        self.machine.tell_load(*known)
        return self.machine.own_load_blob()

    def _own(self) -> tuple[Speed, Load] | None:
        """What the engine has measured, within what can be told: a machine that was asleep measures an hour a step."""
        engine = self._engine_load()
        if engine is None:
            return None
        ahead_s = engine.queued_tokens * engine.prefill_token_s
        slot_s = 0.0 if engine.free_slots else max(0.0, engine.wait_s - ahead_s)
        return (
            Speed(
                prefill_token_s=min(max(engine.prefill_token_s, MIN_PREFILL_TOKEN_S), MAX_PREFILL_TOKEN_S),
                attended_s=min(engine.attended_s, MAX_ATTENDED_S),
                mixed_step_s=min(engine.mixed_step_s, MAX_STEP_S),
                mixed_tokens=engine.mixed_tokens,
            ),
            Load(
                queued_tokens=min(engine.queued_tokens, MAX_QUEUED_TOKENS),
                decoding=min(engine.decoding, MAX_RUNNING_ANSWERS),
                free_slots=min(engine.free_slots, MAX_RUNNING_ANSWERS),
                answer_s=min(slot_s, MAX_ANSWER_WAIT_S),
                decoding_s=min(engine.decoding_s, MAX_ANSWER_WAIT_S),
            ),
        )

    def held_here(self, chain: tuple[bytes, ...], now: float) -> int:
        """How many leading blocks of a chain are here, or are being computed."""
        return self._held(chain, now).get(self.node_id, 0)

    def _held(self, chain: tuple[bytes, ...], now: float) -> dict[NodeId, int]:
        """Leading blocks that each member holds. A chain is public or a session's, so one of the two has nothing."""
        return self._tree.match(chain, now) or self._sessions.match(chain, now)

    # --- what a prompt would wait where -----------------------------------------------------------------

    def estimate(
        self, measured: Measured, now: float, *, excluded: Collection[NodeId] = ()
    ) -> list[Estimate]:
        """Every member's estimate by this node's view, the best first. This node's own load is live.

        Of equals this node is the first: a prompt makes no journey that earns nothing.
        """
        held = self._held(measured.chain, now)
        members = sorted(self.machine.members, key=lambda member: member != self.node_id)
        candidates = (self._candidate(member, now) for member in members if member not in excluded)
        return estimate_waits([each for each in candidates if each is not None], held, measured.tokens)

    def estimate_answer(
        self, member: NodeId, held_blocks: int, measured: Measured, now: float
    ) -> Estimate | None:
        """The estimate of a member that has just told its load, and how many of the prompt's blocks it holds."""
        candidate = self._candidate(member, now)
        held = {member: min(held_blocks, len(measured.chain))}
        found = [] if candidate is None else estimate_waits([candidate], held, measured.tokens)
        return found[0] if found else None

    def _candidate(self, member: NodeId, now: float) -> Candidate | None:
        if member == self.node_id:
            own = self._own()
            if own is None:
                return None
            return Candidate(member=member, speed=own[0], load=own[1], sent=Sent(), age_s=0.0)
        heard = self.machine.load_of(member)
        if heard is None:
            return None
        sent = self._sent.get(member, {})
        return Candidate(
            member=member,
            speed=heard.report.speed,
            load=heard.report.load,
            sent=Sent(sum(sent.values()), len(sent)),
            age_s=now - heard.received_at,
            weight=self._weigh(member),
            late_s=self.promises.late_s(member, now),
        )

    # --- what was handed over ---------------------------------------------------------------------------

    def note_sent(
        self, member: NodeId, hand: HandId, measured: Measured, cached_tokens: int, now: float
    ) -> None:
        """A prompt goes to a member, or stays here: its blocks will be there soon."""
        tree = self._tree if measured.is_told else self._sessions
        tree.expect(member, measured.chain, now)
        if member != self.node_id:
            self._sent[member][hand] = max(1, measured.tokens - cached_tokens)

    def note_taken(self, member: NodeId, hand: HandId) -> None:
        """What the member tells of its load counts the prompt, or the prompt is over."""
        sent = self._sent.get(member, {})
        sent.pop(hand, None)
        if not sent:
            self._sent.pop(member, None)

    def set_members(self, ids: Collection[NodeId]) -> None:
        """Who is in the group, by the directory."""
        before = set(self.machine.members)
        self.machine.set_members(ids)
        for gone in before - set(self.machine.members):
            self._sessions.forget(gone)
            self._sent.pop(gone, None)
