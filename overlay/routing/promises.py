"""What members promise and what they deliver: whoever tells of a short wait and lets prompts wait is asked less. Pure.

Of every prompt that was handed to a member, the wait for its first token is held against what the member's own words
came to. Honest words are off by some tenths of a second and by a factor of two. A member that claims every prefix, no
load or a great speed is off by all that it claims: the mean of what it was late by, later prompts counting more, is
added to whatever it promises. That fades, so that it comes to be tried again.

A refusal says itself how much the promise was off by: the member takes prompts again after so many seconds, which are
added until they are over. That much may happen to honest members, twice in a row, since prompts meet on their way. Who
refuses again and again what its words draw has broken them.
"""

import math
from dataclasses import dataclass

from crypto.identity import NodeId

SLACK_S = 0.5
RATIO = 2.0
"""A wait of so many times what was promised, and so much more, is no breach."""
GAIN = 0.3
HALF_LIFE_S = 300.0
FAILED_S = 10.0
"""A prompt that was waited for in vain counts as so much too late: more than what was waited, since another member had
to begin with it from the start.
"""
FORGIVEN = 2
"""Refusals in a row that are none of a liar's. Those of a burst count as one."""
LONGEST_BUSY_S = 60.0
"""A member that says it is busy for longer is tried again after this."""
NAMED_S = 1.0
"""A member that is late by more on average is named in the log."""
_MOST_MEMBERS = 4096


def honest_s(promised_s: float) -> float:
    """What an honest member may take where so much was promised."""
    return RATIO * promised_s + SLACK_S


@dataclass(frozen=True, slots=True)
class _Record:
    late_s: float
    at: float
    busy_until: float = float("-inf")
    refusals: int = 0

    def late_now_s(self, now: float) -> float:
        """What it was late by, faded."""
        return self.late_s * math.exp2((self.at - now) / HALF_LIFE_S)


_NOTHING = _Record(0.0, 0.0)


class Promises:
    """Members' records, as one node has them."""

    def __init__(self) -> None:
        self._records: dict[NodeId, _Record] = {}

    def late_s(self, member: NodeId, now: float) -> float:
        """Seconds to add to what a member promises."""
        record = self._records.get(member, _NOTHING)
        return record.late_now_s(now) + max(0.0, record.busy_until - now)

    def delivered(self, member: NodeId, promised_s: float, waited_s: float, now: float) -> bool:
        """A first token came after so long. Returns whether the member is to be named for it."""
        return self._record(member, max(0.0, waited_s - honest_s(promised_s)), now)

    def given_up(self, member: NodeId, promised_s: float, waited_s: float, now: float) -> bool:
        """A prompt was taken elsewhere since another one was late there: at least so late. Returns the same."""
        before = self._records.get(member, _NOTHING).late_now_s(now)
        return self._record(member, max(waited_s - honest_s(promised_s), before), now)

    def refused(self, member: NodeId, retry_after_s: float, now: float) -> bool:
        """It was too busy for a prompt, and says for how long. Returns the same."""
        record = self._records.get(member, _NOTHING)
        if now < record.busy_until:
            return False  # was under way when the member said so
        busy_until, refusals = now + min(max(0.0, retry_after_s), LONGEST_BUSY_S), record.refusals + 1
        late_s = FAILED_S if refusals > FORGIVEN else record.late_now_s(now)
        return self._record(member, late_s, now, busy_until, refusals)

    def failed(self, member: NodeId, now: float) -> bool:
        """A prompt was waited for in vain or can't be answered there, or its answer stopped. Returns the same."""
        return self._record(member, FAILED_S, now)

    def _record(
        self,
        member: NodeId,
        late: float,
        now: float,
        busy_until: float = float("-inf"),
        refusals: int = 0,
    ) -> bool:
        before = self._records.pop(member, _NOTHING).late_now_s(now)
        if len(self._records) >= _MOST_MEMBERS:
            del self._records[next(iter(self._records))]
        after = before + GAIN * (late - before)
        self._records[member] = _Record(after, now, busy_until, refusals)
        return before <= NAMED_S < after
