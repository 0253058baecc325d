"""The newest load of each member of a group, with the signed bytes to pass on. Pure."""

from collections.abc import Container
from typing import NamedTuple

from crypto.identity import NodeId
from overlay.wire.group import Known, LoadReport, Vector
from overlay.wire.limits import BLOB_HEADER_BYTES


class HeardLoad(NamedTuple):
    """A report, when it came here (by our clock), and the signed bytes in which it came."""

    report: LoadReport
    received_at: float
    blob: bytes


class GroupLoads:
    """Everybody's newest report; there is no log of them, since an older one is of no use."""

    def __init__(self) -> None:
        self._heard: dict[NodeId, HeardLoad] = {}

    def get(self, member: NodeId) -> HeardLoad | None:
        """A member's newest report; None where none came."""
        return self._heard.get(member)

    def is_news(self, report: LoadReport) -> bool:
        """Whether it is newer than what is there."""
        heard = self._heard.get(report.origin)
        return heard is None or report.known > heard.report.known

    def receive(self, report: LoadReport, blob: bytes, now: float) -> None:
        """Keep a report that is newer."""
        self._heard[report.origin] = HeardLoad(report, now, blob)

    def confirm(self, report: LoadReport, now: float) -> None:
        """Its origin says that this report, which is here, still holds."""
        heard = self._heard.get(report.origin)
        if heard is not None and heard.report == report:
            self._heard[report.origin] = heard._replace(received_at=now)

    def forget(self, member: NodeId) -> None:
        """A member has left the group."""
        self._heard.pop(member, None)

    def known(self, member: NodeId) -> Known | None:
        """How far a member's reports are known here; None where none came."""
        heard = self._heard.get(member)
        return heard.report.known if heard is not None else None

    def vector(self) -> dict[NodeId, Known]:
        """How far each member's reports are known here."""
        return {member: heard.report.known for member, heard in self._heard.items()}

    def lacking(
        self, theirs: Vector, most_bytes: int, *, only: Container[NodeId] | None = None
    ) -> list[bytes]:
        """Signed reports that are newer than a neighbour's; those that were passed on longest ago come first."""
        found: list[bytes] = []
        left = most_bytes
        for member, heard in list(self._heard.items()):
            known = theirs.get(member)
            if (only is not None and member not in only) or (
                known is not None and known >= heard.report.known
            ):
                continue
            left -= len(heard.blob) + BLOB_HEADER_BYTES
            if left < 0:
                break
            found.append(heard.blob)
            self._heard[member] = self._heard.pop(member)
        return found
