"""What a member remembers when it starts: its log's standing, or, where that is lost, that it must not speak.

A member that no longer knows what it said can't be told from a traitor once it speaks. So it abstains: it listens and
decides with the others, and speaks again in the first height after one that was decided before its eyes, vote by
vote. A certificate that it is handed does not do: the height may be an old one, and it may have spoken in the next.
Until then it counts among the members that may fail.
"""

from dataclasses import dataclass

from crypto.identity import NodeId
from verify.committee.genesis import Genesis
from verify.committee.log import LogWriter, read_log
from verify.committee.messages import Certificate
from verify.committee.standing import Standing


@dataclass(frozen=True, slots=True)
class Memory:
    """standing: to go on from. abstains: why this member must be silent, in words; empty where it need not."""

    standing: Standing
    abstains: str = ""


def new_log(genesis: Genesis, node_id: NodeId) -> bytes:
    """The log of a member that never spoke. Made once, when the member is set up, and never in place of a lost one."""
    return LogWriter(genesis, node_id).begin([*Standing(1).records()])


def recall(genesis: Genesis, node_id: NodeId, log: bytes | None, stored: Certificate | None) -> Memory:
    """What a member knows of itself.

    Args:
        genesis: of its network.
        node_id: its own.
        log: the log's bytes, None where there is none.
        stored: the latest certificate that its store has, checked, if any.
    """
    height = 1 if stored is None else stored.height + 1
    if log is None:
        return _forgetful(height, stored, "its log is missing")
    read = read_log(log, genesis, node_id)
    if read.damage or read.standing is None:
        return _forgetful(height, stored, f"its log is not to be trusted: {read.damage}")
    standing = read.standing
    if standing.height < height:
        # A height's log is put in the place of the last one's before its certificate is stored, never after.
        return _forgetful(
            height, stored, f"its log ends at height {standing.height}, and {height - 1} was decided since"
        )
    abstains = "it has abstained since its log was lost" if standing.is_abstaining else ""
    return Memory(standing, abstains)


def _forgetful(height: int, stored: Certificate | None, reason: str) -> Memory:
    return Memory(Standing(height, stored, is_abstaining=True), reason)
