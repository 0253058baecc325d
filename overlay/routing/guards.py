"""Guards: the few relays that a client enters the network by, kept for months on purpose.

A client that drew a new first hop for each circuit would sooner or later enter through a bad relay. With a
fixed sample it does so once, or never. The sample is a value: the daemon keeps it and passes it back in.
Its order is the order of preference; a guard that is away or excluded is passed over and comes into use
again later.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from crypto.entropy import Entropy
from crypto.identity import NodeId
from overlay.routing.directory import Directory
from overlay.routing.diversity import Diversity, Mixture
from overlay.routing.draw import draw_below, draw_each

_DAY_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Guard:
    """A relay of the sample, from since to until. away_since_unix is None while the directory lists it."""

    node_id: NodeId
    since_unix: int
    until_unix: int
    away_since_unix: int | None = None


@dataclass(frozen=True, slots=True)
class GuardPolicy:
    """How many guards are kept, and for how long.

    listed: how many of the sample should be in the directory, more than there are paths, so that one that
    is away has a stand-in. size: the sample is never larger, so that whoever silences guards one by one
    can't walk a client through the whole network. forget_away_s: how long a guard may be away before
    its place is given up.
    """

    listed: int = 8
    size: int = 20
    shortest_s: int = 30 * _DAY_S
    longest_s: int = 90 * _DAY_S
    forget_away_s: int = 20 * _DAY_S
    diversity: Diversity = Diversity.STRICT


LOCAL_GUARDS = GuardPolicy(forget_away_s=60, diversity=Diversity.LOCAL)
"""For a network on one machine, whose relays come and go with each run."""


@dataclass(frozen=True, slots=True)
class GuardSample:
    """The guards of one client, in their order of preference."""

    guards: tuple[Guard, ...] = ()

    @property
    def node_ids(self) -> tuple[NodeId, ...]:
        """Who they are, for `choose_paths`."""
        return tuple(guard.node_id for guard in self.guards)


def refresh_sample(
    sample: GuardSample,
    directory: Directory,
    *,
    client: NodeId,
    unix_time: int,
    entropy: Entropy,
    policy: GuardPolicy,
) -> GuardSample:
    """Returns the sample as it is now: expired guards dropped, new ones appended where too few are listed.

    Equal to `sample` when there is nothing to do. A directory with too few relays gives a short sample, no
    error.
    """
    listed = frozenset(relay.node_id for relay in directory.relays())
    kept = [_seen(guard, listed, unix_time) for guard in sample.guards]
    kept = [guard for guard in kept if not _is_over(guard, unix_time, policy) and guard.node_id != client]
    room = min(policy.listed - sum(guard.node_id in listed for guard in kept), policy.size - len(kept))
    new = _draw_new(kept, directory, client, room, policy, entropy) if room > 0 else ()
    added = (Guard(node_id, unix_time, unix_time + _draw_span(policy, entropy)) for node_id in new)
    return GuardSample((*kept, *added))


def _draw_span(policy: GuardPolicy, entropy: Entropy) -> int:
    return policy.shortest_s + draw_below(policy.longest_s - policy.shortest_s + 1, entropy)


def _seen(guard: Guard, listed: frozenset[NodeId], unix_time: int) -> Guard:
    """The guard as the directory has it now: listed, or away since some time."""
    since = None if guard.node_id in listed else guard.away_since_unix
    if since is None and guard.node_id not in listed:
        since = unix_time
    return guard if since == guard.away_since_unix else replace(guard, away_since_unix=since)


def _is_over(guard: Guard, unix_time: int, policy: GuardPolicy) -> bool:
    away_since = guard.away_since_unix
    away_too_long = away_since is not None and unix_time - away_since > policy.forget_away_s
    return unix_time > guard.until_unix or away_too_long


def _draw_new(
    kept: Iterable[Guard],
    directory: Directory,
    client: NodeId,
    count: int,
    policy: GuardPolicy,
    entropy: Entropy,
) -> tuple[NodeId, ...]:
    mixture = Mixture(policy.diversity, barred=(client, *(guard.node_id for guard in kept)))
    for node_id in (client, *(guard.node_id for guard in kept)):
        known = directory.find(node_id)
        if known is not None:
            mixture.add(known)
    drawn: list[NodeId] = []
    for relay in draw_each(directory.relays(), entropy):
        if len(drawn) == count:
            break
        if mixture.admits(relay):
            mixture.add(relay)
            drawn.append(relay.node_id)
    return tuple(drawn)
