"""What a relay counts. Bounded names, no labels: nothing here joins two hops or a user to a prompt."""

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class RelayCounters:
    """Totals since the machine was made."""

    cells_received: int = 0
    pads_received: int = 0
    cells_forwarded_outbound: int = 0
    cells_forwarded_inbound: int = 0
    cells_unknown_circuit: int = 0
    builds_accepted: int = 0
    builds_refused_rate: int = 0
    builds_refused_full: int = 0
    builds_refused_invalid: int = 0
    builds_refused_terms: int = 0
    builds_failed_link: int = 0
    circuits_opened: int = 0
    circuits_closed: int = 0
    circuits_violated: int = 0
    circuits_expired: int = 0
    circuits_overflowed: int = 0
    cloves_delivered: int = 0
    cloves_undelivered: int = 0
    answers_passed: int = 0
    answers_refused: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return all counters by name."""
        return asdict(self)
