"""What members promise and what they deliver: whoever tells of a short wait and lets prompts wait is asked less. Pure.

Of every prompt that was handed to a member, the wait for its first token is held against what the member's own words
came to. Honest words are off by some tenths of a second and by a factor of two. A member that claims every prefix, no
load or a great speed is off by all that it claims: the mean of what it was late by, later prompts counting more, is
added to whatever it promises. That fades, so that it comes to be tried again.
"""

from dataclasses import dataclass

from crypto.identity import NodeId

SLACK_S = 0.5
RATIO = 2.0
"""A wait of so many times what was promised, and so much more, is no breach."""
GAIN = 0.3
HALF_LIFE_S = 300.0
FAILED_S = 10.0
"""A prompt that was refused, though a short wait was told, or waited for in vain counts as so much too late: more than
what was waited, since another member had to begin with it from the start.
"""
NAMED_S = 1.0
"""A member that is late by more on average is named in the log."""
_MOST_MEMBERS = 4096


def honest_s(promised_s: float) -> float:
    """What an honest member may take where so much was promised."""
    return RATIO * promised_s + SLACK_S


@dataclass(slots=True)
class _Record:
    late_s: float
    at: float


class Promises:
    """Members' records, as one node has them."""

    def __init__(self) -> None:
        self._records: dict[NodeId, _Record] = {}

    def late_s(self, member: NodeId, now: float) -> float:
        """Seconds to add to what a member promises."""
        record = self._records.get(member)
        return 0.0 if record is None else record.late_s * 0.5 ** ((now - record.at) / HALF_LIFE_S)

    def delivered(self, member: NodeId, promised_s: float, waited_s: float, now: float) -> bool:
        """A first token came after so long. Returns whether the member is to be named for it."""
        return self._record(member, max(0.0, waited_s - honest_s(promised_s)), now)

    def given_up(self, member: NodeId, promised_s: float, waited_s: float, now: float) -> bool:
        """A prompt was taken elsewhere since another one was late there: at least so late. Returns the same."""
        late_s = waited_s - honest_s(promised_s)
        return self._record(member, max(late_s, self.late_s(member, now)), now)

    def failed(self, member: NodeId, now: float) -> bool:
        """A prompt was refused or waited for in vain, or its answer stopped coming. Returns the same."""
        return self._record(member, FAILED_S, now)

    def _record(self, member: NodeId, late: float, now: float) -> bool:
        before = self.late_s(member, now)
        self._records.pop(member, None)
        if len(self._records) >= _MOST_MEMBERS:
            del self._records[next(iter(self._records))]
        after = before + GAIN * (late - before)
        self._records[member] = _Record(after, now)
        return before <= NAMED_S < after
