"""The model node's front door: sealed deliveries from proxies in, whole prompts and updates out.

Theory of operation
-------------------
A delivery is an envelope (`envelope.py`) with a clove or an update. Cloves are grouped by all that cloves
of one message share: version, k, n, mid, length and commitment. From the k-th on, every new one is tried;
the first set that agrees with its commitment gives the prompt.

A prompt is taken once. Its mid is remembered until its expiry has passed (with the skew that clocks are
allowed) and its answer has ended, and a clove with a remembered mid is dropped, whoever sends it. So that
this holds across a restart, sealing keys must not outlive the process: what was sealed to an earlier run
can't be opened.

Updates are sealed twice: to us, and under a key that only the prompt's author knows. One for a prompt that
we don't know (yet) is dropped; the client says it again, as nothing has changed for it. A sequence is taken
once.

A proxy can send rubbish, but it can't be blamed for what it couldn't read: rubbish is counted and dropped.
What is held is bounded: partial groups by number (in all and for each proxy: the oldest goes), by bytes and
by age; remembered mids by number (then new prompts are refused, as forgetting one would let it be
replayed).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from crypto.aead import AeadKey
from crypto.checkable import CLOCK_SKEW_S
from crypto.dispersal import Clove, recover
from crypto.errors import AuthenticationError, DecodeError, ShortageError
from crypto.identity import NodeId
from crypto.sealed import SealingKey
from overlay.protocol.answer_cell import AnswerTerms
from overlay.protocol.envelope import SealedUpdate, open_envelope, open_update, update_key
from overlay.wire.limits import (
    MAX_PARTIAL_PROMPT_BYTES,
    MAX_PARTIAL_PROMPTS,
    MAX_PARTIAL_PROMPTS_PER_PROXY,
    MAX_PATHS,
    MAX_PROMPT_BYTES,
    MAX_PROMPT_LIFETIME_S,
    MAX_REMEMBERED_PROMPTS,
    MAX_UPDATES,
    PARTIAL_PROMPT_TIMEOUT_S,
)
from overlay.wire.prompt import PromptMessage
from overlay.wire.prompt_codec import decode_prompt_message
from overlay.wire.update import Update

SWEEP_S = 5.0
"""How often what is too old is looked for."""


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """What the front door holds at most; the module says what happens when it is full."""

    partial_groups: int = MAX_PARTIAL_PROMPTS
    partial_groups_per_proxy: int = MAX_PARTIAL_PROMPTS_PER_PROXY
    partial_bytes: int = MAX_PARTIAL_PROMPT_BYTES
    remembered: int = MAX_REMEMBERED_PROMPTS


@dataclass(frozen=True, slots=True)
class PromptArrived:
    """A whole prompt, for the first time; call `answer_ended` later. culprits: indexes of false cloves."""

    mid: bytes
    message: PromptMessage
    terms: AnswerTerms
    culprits: frozenset[int]


@dataclass(frozen=True, slots=True)
class UpdateArrived:
    """The author of the prompt `mid` has said something new about its answer."""

    mid: bytes
    update: Update


IntakeEvent = PromptArrived | UpdateArrived

_Group = tuple[int, int, int, bytes, int, bytes]


@dataclass(slots=True)
class _Partial:
    proxy: NodeId
    started: float
    cloves: dict[int, Clove] = field(default_factory=dict)

    @property
    def held_bytes(self) -> int:
        return sum(len(clove.fragment) for clove in self.cloves.values())


@dataclass(slots=True)
class _Remembered:
    key: AeadKey
    forget_at: float
    is_answering: bool = True
    sequences: set[int] = field(default_factory=set)


class Intake:
    """Groups cloves into prompts and lets each prompt in once."""

    def __init__(self, node_id: NodeId, network: bytes, limits: IntakeLimits | None = None) -> None:
        self._node_id = node_id
        self._network = network
        self._limits = limits or IntakeLimits()
        self._keys: dict[int, SealingKey] = {}
        self._partial: dict[_Group, _Partial] = {}
        self._partial_bytes = 0
        self._remembered: dict[bytes, _Remembered] = {}
        self._next_sweep: float | None = None
        self.counters: Counter[str] = Counter()
        """What came and went, by kind; for metrics."""

    def set_keys(self, keys: Mapping[int, SealingKey]) -> None:
        """The sealing keys in force, by epoch: the current one and the one before."""
        self._keys = dict(keys)

    @property
    def partial_count(self) -> int:
        """Prompts of which some cloves are here, but too few."""
        return len(self._partial)

    @property
    def remembered_count(self) -> int:
        """Prompts that can't be replayed because we remember them."""
        return len(self._remembered)

    def receive_delivery(
        self, proxy: NodeId, envelope: bytes, now: float, unix_time: float
    ) -> list[IntakeEvent]:
        """Takes what a proxy delivered."""
        if self._next_sweep is None:
            self._next_sweep = now + SWEEP_S
        try:
            opened = open_envelope(envelope, network=self._network, node_id=self._node_id, keys=self._keys)
            if isinstance(opened, SealedUpdate):
                return self._receive_update(opened)
            return self._receive_clove(opened, proxy, now, unix_time)
        except DecodeError:
            return self._drop("malformed")
        except AuthenticationError:
            return self._drop("not_authentic")

    def answer_ended(self, mid: bytes) -> None:
        """The answer to this prompt is over; its mid is forgotten once it has expired."""
        if (remembered := self._remembered.get(mid)) is not None:
            remembered.is_answering = False

    def _drop(self, reason: str) -> list[IntakeEvent]:
        self.counters[reason] += 1
        return []

    # --- updates ----------------------------------------------------------------------------------

    def _receive_update(self, sealed: SealedUpdate) -> list[IntakeEvent]:
        remembered = self._remembered.get(sealed.mid)
        if remembered is None or not remembered.is_answering:
            return self._drop("update_without_answer")
        if sealed.sequence in remembered.sequences:
            return self._drop("update_repeated")
        update = open_update(remembered.key, sealed)
        if len(remembered.sequences) >= MAX_UPDATES:
            return self._drop("update_over_limit")
        remembered.sequences.add(sealed.sequence)
        self.counters["updates"] += 1
        return [UpdateArrived(sealed.mid, update)]

    # --- cloves -----------------------------------------------------------------------------------

    def _receive_clove(self, clove: Clove, proxy: NodeId, now: float, unix_time: float) -> list[IntakeEvent]:
        if clove.mid in self._remembered:
            return self._drop("clove_after_prompt")
        if clove.n > MAX_PATHS or clove.length > MAX_PROMPT_BYTES:
            return self._drop("malformed")
        partial = self._partial.get(clove.group) or self._open_group(clove.group, proxy, now)
        if clove.index in partial.cloves:
            return self._drop("clove_repeated")
        partial.cloves[clove.index] = clove
        self._partial_bytes += len(clove.fragment)
        self._shrink(proxy)
        return self._try_group(clove, partial, now, unix_time)

    def _open_group(self, group: _Group, proxy: NodeId, now: float) -> _Partial:
        partial = self._partial[group] = _Partial(proxy, now)
        return partial

    def _shrink(self, proxy: NodeId) -> None:
        """Drops the oldest groups until all limits hold; a dict keeps its keys in the order they came."""
        limits = self._limits
        own = [group for group, partial in self._partial.items() if partial.proxy == proxy]
        for group in own[: max(0, len(own) - limits.partial_groups_per_proxy)]:
            self._evict(group)
        while len(self._partial) > limits.partial_groups or (
            self._partial_bytes > limits.partial_bytes and len(self._partial) > 1
        ):
            self._evict(next(iter(self._partial)))

    def _evict(self, group: _Group) -> None:
        self._forget_group(group)
        self.counters["groups_evicted"] += 1

    def _forget_group(self, group: _Group) -> None:
        if (partial := self._partial.pop(group, None)) is not None:
            self._partial_bytes -= partial.held_bytes

    def _try_group(self, clove: Clove, partial: _Partial, now: float, unix_time: float) -> list[IntakeEvent]:
        if len(partial.cloves) < clove.k:
            return []
        try:
            recovered = recover(partial.cloves.values())
        except (AuthenticationError, ShortageError):
            if len(partial.cloves) < clove.n:
                return []
            self._forget_group(clove.group)
            return self._drop("unrecoverable")
        self._forget_group(clove.group)
        message = decode_prompt_message(recovered.message)
        if (
            not unix_time - CLOCK_SKEW_S
            <= message.expires_unix
            <= unix_time + MAX_PROMPT_LIFETIME_S + CLOCK_SKEW_S
        ):
            return self._drop("expired")
        if len(self._remembered) >= self._limits.remembered:
            return self._drop("refused_full")
        return self._let_in(clove.mid, message, recovered.culprits, now + message.expires_unix - unix_time)

    def _let_in(
        self, mid: bytes, message: PromptMessage, culprits: frozenset[int], expires_at: float
    ) -> list[IntakeEvent]:
        terms = AnswerTerms(self._node_id, message.response_secret, message.k, len(message.paths))
        self._remembered[mid] = _Remembered(update_key(terms), expires_at + CLOCK_SKEW_S)
        self.counters["prompts"] += 1
        return [PromptArrived(mid, message, terms, culprits)]

    # --- time -------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `handle_deadline` wants to be called; None while nothing is held."""
        return self._next_sweep

    def handle_deadline(self, now: float) -> list[IntakeEvent]:
        """Forgets what is too old."""
        if self._next_sweep is None or now < self._next_sweep:
            return []
        for group in [g for g, p in self._partial.items() if now >= p.started + PARTIAL_PROMPT_TIMEOUT_S]:
            self._forget_group(group)
            self.counters["groups_timed_out"] += 1
        for mid, remembered in list(self._remembered.items()):
            # One sweep later than the expiry, so that rounding can't open a gap.
            if not remembered.is_answering and now >= remembered.forget_at + SWEEP_S:
                del self._remembered[mid]
        self._next_sweep = now + SWEEP_S if self._partial or self._remembered else None
        return []
