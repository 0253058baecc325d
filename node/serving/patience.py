"""How long prompts are waited for that members have and have not begun to answer. Plain state, no tasks.

A prompt alone at its member is waited for PATIENCE_S and PATIENCE_RATIO times the wait that was predicted: an honest
member may be slow, and to begin elsewhere costs all that it has read. Where several are out at one member, what becomes
of one says something of the others:

- One should have begun first, it is the *first due*. Once it is DOUBT_S over what an honest error comes to
  (`overlay.routing.promises`), the others wait no longer than until they are over that, too: those that are go
  elsewhere at once. It is itself waited for as ever; an honest member that is merely slow answers it, and its
  record says by how much.
- Once one has failed, the same goes for all others that are out then, first due or not.
- One that begins gives the others DOUBT_S more: members answer several at once.

So a burst of prompts at a member that claims much and does nothing loses a second, but for one of them. Those that are
given up don't stampede: each goes by estimates of its own moment, which count what was sent elsewhere a moment before.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from crypto.identity import NodeId
from overlay.routing.promises import honest_s

PATIENCE_S, PATIENCE_RATIO = 3.0, 4.0
"""A first token is waited for so long, and this many times the wait that was predicted."""
DOUBT_S = 1.0
"""Beyond an honest error, until a member that has not begun is doubted."""


@dataclass(slots=True, eq=False)
class Awaited:
    """A prompt at a member. Its scope is cancelled when it is waited for no longer.

    first_by: when that is if nothing is heard of others. overdue_at: when the member has broken its word.
    """

    started: float
    first_by: float
    overdue_at: float
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


@dataclass(slots=True, eq=False)
class _AtMember:
    """What is out at one member. begun_at: when one of them last began."""

    awaited: list[Awaited] = field(default_factory=list)
    begun_at: float = float("-inf")

    def settle(self) -> None:
        """Set all deadlines anew."""
        first_due = min(self.awaited, key=lambda each: each.overdue_at)
        doubted_at = max(first_due.overdue_at, self.begun_at) + DOUBT_S
        for each in self.awaited:
            at_most = float("inf") if each is first_due else max(each.overdue_at, doubted_at)
            each.scope.deadline = min(each.first_by, at_most)


class Patience:
    """All that is awaited, by member. Nothing is remembered of a member at which nothing is out."""

    def __init__(self) -> None:
        self._at: dict[NodeId, _AtMember] = {}

    @contextmanager
    def awaiting(self, member: NodeId, predicted_s: float, now: float) -> Iterator[Awaited]:
        """A prompt goes to a member, which is to begin within so many seconds."""
        awaited = Awaited(now, now + PATIENCE_S + PATIENCE_RATIO * predicted_s, now + honest_s(predicted_s))
        at_member = self._at.setdefault(member, _AtMember())
        at_member.awaited.append(awaited)
        at_member.settle()
        try:
            yield awaited
        finally:
            self._leave(member, awaited)

    def begun(self, member: NodeId, awaited: Awaited, now: float) -> None:
        """Its first token is here: from now on the scope's deadline is its holder's business."""
        at_member = self._at.get(member)
        if at_member is not None and awaited in at_member.awaited:
            at_member.begun_at = now
            self._leave(member, awaited)

    def failed(self, member: NodeId, now: float) -> None:
        """A prompt was waited for in vain, or its answer failed before it began."""
        at_member = self._at.get(member)
        if at_member is not None:
            for each in at_member.awaited:
                each.first_by = min(each.first_by, max(each.overdue_at, now))
            at_member.settle()

    def _leave(self, member: NodeId, awaited: Awaited) -> None:
        at_member = self._at.get(member)
        if at_member is None or awaited not in at_member.awaited:
            return
        at_member.awaited.remove(awaited)
        if at_member.awaited:
            at_member.settle()
        else:
            del self._at[member]
