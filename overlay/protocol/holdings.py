"""The descriptors that a node holds: checked before they come in, the newest of each node, bounded."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from crypto.checkable import CLOCK_SKEW_S
from crypto.errors import AuthenticationError, DecodeError, ExpiredError
from crypto.identity import NodeId
from overlay.wire.descriptor import Descriptor, decode_descriptor, digest_of
from overlay.wire.limits import MAX_DESCRIPTORS, MAX_DIRECTORY_BYTES


class Taken(Enum):
    """What became of a descriptor that was offered."""

    STORED = auto()
    NOT_NEWER = auto()
    EXPIRED = auto()
    NO_ROOM = auto()
    FORGED = auto()
    UNASKED = auto()


@dataclass(frozen=True, slots=True)
class Holding:
    """A checked descriptor, its bytes, and when (monotonic) it came in."""

    descriptor: Descriptor
    blob: bytes
    taken_at: float


class Holdings:
    """Every descriptor held, by node."""

    def __init__(
        self, *, max_descriptors: int = MAX_DESCRIPTORS, max_bytes: int = MAX_DIRECTORY_BYTES
    ) -> None:
        self._max_descriptors = max_descriptors
        self._max_bytes = max_bytes
        self._held: dict[NodeId, Holding] = {}
        self._bytes = 0
        self._digest: bytes | None = None

    def __len__(self) -> int:
        return len(self._held)

    def get(self, node_id: NodeId) -> Holding | None:
        """What is held of this node."""
        return self._held.get(node_id)

    def entries(self) -> Iterator[tuple[NodeId, int]]:
        """Node id and sequence number of each."""
        return ((node_id, held.descriptor.seq) for node_id, held in self._held.items())

    @property
    def is_full(self) -> bool:
        """Whether nodes that are not known yet are turned away."""
        return len(self._held) >= self._max_descriptors or self._bytes >= self._max_bytes

    @property
    def descriptors(self) -> tuple[Descriptor, ...]:
        """Every descriptor held."""
        return tuple(held.descriptor for held in self._held.values())

    @property
    def digest(self) -> bytes:
        """The digest of the entries."""
        if self._digest is None:
            self._digest = digest_of(self.entries())
        return self._digest

    def take(
        self,
        blob: bytes,
        now: float,
        unix_time: float,
        *,
        only: Container[NodeId] | None = None,
        is_own: bool = False,
    ) -> tuple[NodeId | None, Taken]:
        """Checks a descriptor and keeps it if it is the newest of its node; says whose it claims to be.

        only: the nodes whose descriptors are welcome; None for all. is_own: ours, for which there is always room.
        """
        try:
            signed = decode_descriptor(blob)
        except DecodeError:
            return None, Taken.FORGED
        if only is not None and signed.signer not in only:
            return signed.signer, Taken.UNASKED
        try:
            # The signature comes before the time: an unsigned time says nothing about the signer.
            descriptor = signed.check().check(unix_time)
        except AuthenticationError:
            return signed.signer, Taken.FORGED
        except ExpiredError:
            return signed.signer, Taken.EXPIRED
        old = self._held.get(signed.signer)
        # One from before our clock was put back, and so from a time to come, gives way to any that is valid now.
        if (
            old is not None
            and old.descriptor.seq >= descriptor.seq
            and not _is_over(old.descriptor, unix_time)
        ):
            return signed.signer, Taken.NOT_NEWER
        return signed.signer, self._keep(Holding(descriptor, blob, now), old, is_own=is_own)

    def _keep(self, new: Holding, old: Holding | None, *, is_own: bool) -> Taken:
        node_id = new.descriptor.node_id
        grown = self._bytes + len(new.blob) - (len(old.blob) if old is not None else 0)
        if not is_own and ((old is None and self.is_full) or grown > self._max_bytes):
            return Taken.NO_ROOM
        self._held[node_id] = new
        self._bytes = grown
        self._digest = None
        return Taken.STORED

    def drop_expired(self, unix_time: float) -> bool:
        """Drops what is no longer valid, by the same allowance for clocks as `take`; True if there was any."""
        over = [node_id for node_id, held in self._held.items() if _is_over(held.descriptor, unix_time)]
        for node_id in over:
            self._bytes -= len(self._held.pop(node_id).blob)
            self._digest = None
        return bool(over)


def _is_over(descriptor: Descriptor, unix_time: float) -> bool:
    is_early = unix_time + CLOCK_SKEW_S < descriptor.issued_unix
    return is_early or unix_time - CLOCK_SKEW_S > descriptor.expires_unix
