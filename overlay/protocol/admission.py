"""Which builds a relay takes on: cheap tests first, Diffie-Hellman last."""

from collections.abc import Callable, Sequence

from crypto.entropy import Entropy
from crypto.errors import CryptoError
from crypto.identity import NodeId
from crypto.onion import AcceptedBuild, OnionKey, accept_build
from overlay.protocol.build_gate import BuildRate, ReplayCache
from overlay.protocol.relay_counters import RelayCounters
from overlay.wire.limits import MAX_LIFETIME_S


class Admission:
    """Opens build records, within the rate of each neighbour and never one twice."""

    def __init__(
        self,
        node_id: NodeId,
        *,
        entropy: Entropy,
        may_extend_to: Callable[[NodeId], bool],
        counters: RelayCounters,
    ) -> None:
        self.keys: Sequence[tuple[int, OnionKey]] = ()
        self.difficulty = 0
        self._node_id = node_id
        self._entropy = entropy
        self._may_extend_to = may_extend_to
        self._counters = counters
        self._rate = BuildRate()
        self._replays = ReplayCache()

    def admit(
        self, peer: NodeId, body: bytes, *, is_full: bool, now: float, unix_time: float
    ) -> AcceptedBuild | None:
        """Open the record of a BUILD that came from `peer`; None refuses it, and the reason is counted."""
        self._replays.rotate(now)
        if not self._rate.admit(peer, now):
            self._counters.builds_refused_rate += 1
            return None
        if is_full or self._replays.is_full:
            self._counters.builds_refused_full += 1
            return None
        try:
            build = self._open(body, unix_time)
        except CryptoError:
            self._counters.builds_refused_invalid += 1
            return None
        self._replays.add(build.ephemeral)
        if not self._may_lead_on(peer, build):
            self._counters.builds_refused_terms += 1
            return None
        self._counters.builds_accepted += 1
        return build

    def _open(self, body: bytes, unix_time: float) -> AcceptedBuild:
        return accept_build(
            body,
            node_id=self._node_id,
            keys=self.keys,
            unix_minute=int(unix_time // 60),
            seen=self._replays.__contains__,
            difficulty=self.difficulty,
            entropy=self._entropy,
        )

    def _may_lead_on(self, peer: NodeId, build: AcceptedBuild) -> bool:
        if not 0 < build.lifetime_s <= MAX_LIFETIME_S:
            return False
        if build.next_id is None:
            return True
        return build.next_id not in (self._node_id, peer) and self._may_extend_to(build.next_id)
