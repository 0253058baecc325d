"""Puts a clove's fragments together again at the proxy, within bounds.

Cells of a circuit arrive in order or not at all (the layers see to that), so fragments of one clove must come
in order too; fragments of several cloves may interleave. What a client may do wrong is: leave cloves
unfinished (bounded in number, bytes and age), skip or repeat fragments (a violation).
"""

from dataclasses import dataclass, field

from crypto.identity import NodeId
from overlay.protocol.violation import CircuitViolationError
from overlay.wire.contents import CloveFragment
from overlay.wire.limits import MAX_PARTIAL_CLOVES, PARTIAL_CLOVE_TIMEOUT_S


class ByteBudget:
    """A number of bytes that all circuits of a relay share."""

    def __init__(self, limit_bytes: int) -> None:
        self._left_bytes = limit_bytes

    @property
    def left_bytes(self) -> int:
        """What may still be taken."""
        return self._left_bytes

    def take(self, count: int) -> bool:
        """Take `count` bytes, or nothing and return False."""
        if count > self._left_bytes:
            return False
        self._left_bytes -= count
        return True

    def give_back(self, count: int) -> None:
        """Return bytes taken before."""
        self._left_bytes += count


@dataclass(frozen=True, slots=True)
class WholeClove:
    """All fragments came: a sealed clove for its destination."""

    destination: NodeId
    message: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class LostClove:
    """There is no room for this clove; later fragments of it will be dropped."""

    message: bytes


@dataclass(slots=True)
class _Partial:
    destination: NodeId
    count: int
    started_at: float
    size_bytes: int = 0
    parts: list[bytes] = field(default_factory=list)


class Reassembly:
    """The partial cloves of one circuit."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._partials: dict[bytes, _Partial] = {}

    def receive(self, fragment: CloveFragment, now: float) -> WholeClove | LostClove | None:
        """Take a fragment in; raises CircuitViolationError if it can't be the next one of its clove."""
        partial = self._partials.get(fragment.message)
        if partial is None:
            if fragment.destination is None:
                return None  # the rest of a clove that was dropped
            partial = self._begin(fragment, fragment.destination, now)
        elif fragment.index != len(partial.parts) or fragment.count != partial.count:
            raise CircuitViolationError("a clove fragment out of order")
        if not self._budget.take(len(fragment.data)):
            self._drop(fragment.message)
            return LostClove(fragment.message)
        partial.parts.append(fragment.data)
        partial.size_bytes += len(fragment.data)
        if len(partial.parts) < partial.count:
            return None
        self._drop(fragment.message)
        return WholeClove(partial.destination, fragment.message, b"".join(partial.parts))

    def _begin(self, fragment: CloveFragment, destination: NodeId, now: float) -> _Partial:
        if len(self._partials) >= MAX_PARTIAL_CLOVES:
            raise CircuitViolationError("too many unfinished cloves on one circuit")
        partial = self._partials[fragment.message] = _Partial(destination, fragment.count, now)
        return partial

    def next_deadline(self) -> float | None:
        """Return when the oldest partial clove is given up."""
        for partial in self._partials.values():  # in order of age
            return partial.started_at + PARTIAL_CLOVE_TIMEOUT_S
        return None

    def drop_expired(self, now: float) -> list[LostClove]:
        """Give up partial cloves that took too long."""
        expired = [
            message
            for message, partial in self._partials.items()
            if partial.started_at + PARTIAL_CLOVE_TIMEOUT_S <= now
        ]
        for message in expired:
            self._drop(message)
        return [LostClove(message) for message in expired]

    def discard(self) -> None:
        """Give everything up: the circuit is gone."""
        for message in list(self._partials):
            self._drop(message)

    def _drop(self, message: bytes) -> None:
        self._budget.give_back(self._partials.pop(message).size_bytes)
