"""One circuit as a relay on it knows it, and the table of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from crypto.identity import NodeId
from crypto.onion import RelayLayer
from overlay.protocol.proxy import Proxy
from overlay.wire.cells import CircuitId
from overlay.wire.limits import RELAY_IDLE_TIMEOUT_S


class RelayState(Enum):
    """How far a circuit has come at this relay."""

    OPENING_LINK = auto()
    AWAITING_BUILT = auto()
    OPEN = auto()


@dataclass(slots=True, eq=False)
class RelayCircuit:
    """previous and inbound_id: towards the client. next and outbound_id: away from it, None at the last hop.

    build_body: the BUILD to forward, until the link to the next hop is there. proxy: at the last hop only.
    """

    previous: NodeId
    inbound_id: CircuitId
    layer: RelayLayer
    state: RelayState
    touched_at: float
    build_deadline: float
    expires_at: float
    next: NodeId | None = None
    outbound_id: CircuitId | None = None
    build_body: bytes | None = None
    proxy: Proxy | None = None

    def close_deadline(self) -> float:
        """Return when this circuit ends if nothing more comes."""
        if self.state is not RelayState.OPEN:
            return min(self.build_deadline, self.expires_at)
        return min(self.touched_at + RELAY_IDLE_TIMEOUT_S, self.expires_at)

    def next_deadline(self) -> float:
        """Return when this circuit must be looked at next."""
        partial = self.proxy.next_deadline() if self.proxy else None
        close = self.close_deadline()
        return close if partial is None else min(close, partial)


class CircuitTable:
    """Circuits by link and link-local id; each is found from both of its sides."""

    def __init__(self) -> None:
        self._links: dict[NodeId, dict[CircuitId, RelayCircuit]] = {}
        self._from: dict[NodeId, int] = {}

    def __len__(self) -> int:
        return sum(self._from.values())

    def __iter__(self) -> Iterator[RelayCircuit]:
        for peer, circuits in self._links.items():
            for circuit in circuits.values():
                if circuit.previous == peer:
                    yield circuit

    def find(self, peer: NodeId, circ_id: CircuitId) -> RelayCircuit | None:
        """Return the circuit that `circ_id` means on the link to `peer`."""
        link = self._links.get(peer)
        return None if link is None else link.get(circ_id)

    def on_link(self, peer: NodeId) -> list[RelayCircuit]:
        """Return the circuits that use the link to `peer`, on either side."""
        return list(self._links.get(peer, {}).values())

    def count_from(self, peer: NodeId) -> int:
        """Return how many circuits `peer` had built through us."""
        return self._from.get(peer, 0)

    def add(self, circuit: RelayCircuit) -> None:
        """Add a new circuit under its inbound side."""
        self._links.setdefault(circuit.previous, {})[circuit.inbound_id] = circuit
        self._from[circuit.previous] = self.count_from(circuit.previous) + 1

    def extend(self, circuit: RelayCircuit, outbound_id: CircuitId) -> None:
        """Give a circuit its outbound side."""
        if circuit.next is None:
            raise AssertionError("the last hop has no next one")
        circuit.outbound_id = outbound_id
        self._links.setdefault(circuit.next, {})[outbound_id] = circuit

    def remove(self, circuit: RelayCircuit) -> None:
        """Forget a circuit on both of its sides."""
        self._forget(circuit.previous, circuit.inbound_id)
        if circuit.next is not None and circuit.outbound_id is not None:
            self._forget(circuit.next, circuit.outbound_id)
        left = self._from[circuit.previous] - 1
        if left:
            self._from[circuit.previous] = left
        else:
            del self._from[circuit.previous]

    def _forget(self, peer: NodeId, circ_id: CircuitId) -> None:
        link = self._links[peer]
        del link[circ_id]
        if not link:
            del self._links[peer]
