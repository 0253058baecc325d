"""Choosing paths: n disjoint rows of relays between a client and a model node.

Each path starts at one of the client's guards (`guards.py`), in their order of preference; the other relays
are drawn with equal chances. Neither the client nor the destination is ever on a path, and under STRICT no
relay shares a network or an operator with another one of the set, with the destination or with the client.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from crypto.entropy import Entropy
from crypto.identity import NodeId
from overlay.errors import LocalProtocolError, NoRouteError
from overlay.routing.directory import Directory
from overlay.routing.diversity import Diversity, Mixture
from overlay.routing.draw import draw_each
from overlay.wire.descriptor import Descriptor

DEFAULT_PATHS = 4
DEFAULT_HOPS = 3
MAX_PATHS = 8
MAX_HOPS = 5
_ATTEMPTS = 16
"""A random filling can get stuck where relays are few and of several networks each; another one may not."""


@dataclass(frozen=True, slots=True)
class Path:
    """The relays of one circuit, first hop first."""

    relays: tuple[Descriptor, ...]

    @property
    def node_ids(self) -> tuple[NodeId, ...]:
        """Who is on it, first hop first."""
        return tuple(relay.node_id for relay in self.relays)

    @property
    def guard(self) -> NodeId:
        """The first hop."""
        return self.relays[0].node_id

    @property
    def proxy(self) -> NodeId:
        """The last hop."""
        return self.relays[-1].node_id


def choose_paths(
    directory: Directory,
    *,
    client: NodeId,
    destination: NodeId,
    guards: Sequence[NodeId],
    entropy: Entropy,
    n: int = DEFAULT_PATHS,
    hops: int = DEFAULT_HOPS,
    excluded: Collection[NodeId] = (),
    diversity: Diversity = Diversity.STRICT,
) -> tuple[Path, ...]:
    """Chooses n disjoint paths. Raises NoRouteError, which says how many relays are needed and known.

    guards: the client's sample in its order of preference; the first n that are listed, not excluded and
    may be used together become first hops. excluded: relays not to be used now (`blame.py`).
    """
    _check_shape(n, hops)
    mixture = _start(directory, client, destination, diversity)
    relays = [relay for relay in directory.relays() if relay.node_id not in excluded]
    firsts = _take_guards(directory, guards, excluded, mixture, n)
    rest = _fill(relays, guards, mixture, n * (hops - 1), entropy)
    if len(firsts) < n or len(rest) < n * (hops - 1):
        usable = sum(relay.node_id not in (client, destination) for relay in relays)
        raise NoRouteError(_shortage(n, hops, diversity, usable, len(firsts), len(firsts) + len(rest)))
    return tuple(Path((first, *rest[at :: len(firsts)])) for at, first in enumerate(firsts))


def choose_replacement(
    directory: Directory,
    *,
    client: NodeId,
    destination: NodeId,
    others: Sequence[Path],
    guards: Sequence[NodeId],
    entropy: Entropy,
    hops: int = DEFAULT_HOPS,
    excluded: Collection[NodeId] = (),
    diversity: Diversity = Diversity.STRICT,
) -> Path:
    """Chooses one path that is disjoint from `others`, the paths still in use. Raises NoRouteError."""
    _check_shape(1, hops)
    mixture = _start(directory, client, destination, diversity)
    for relay in (relay for path in others for relay in path.relays):
        mixture.add(relay)
    relays = [relay for relay in directory.relays() if relay.node_id not in excluded]
    firsts = _take_guards(directory, guards, excluded, mixture, 1)
    rest = _fill(relays, guards, mixture, hops - 1, entropy)
    if len(firsts) < 1 or len(rest) < hops - 1:
        taken = {client, destination, *(relay.node_id for path in others for relay in path.relays)}
        usable = sum(relay.node_id not in taken for relay in relays)
        shortage = _shortage(1, hops, diversity, usable, len(firsts), len(firsts) + len(rest))
        raise NoRouteError(f"{shortage} beside the {len(others)} paths in use")
    return Path((*firsts, *rest))


def _check_shape(n: int, hops: int) -> None:
    if not (1 <= n <= MAX_PATHS and 1 <= hops <= MAX_HOPS):
        raise LocalProtocolError(f"1 to {MAX_PATHS} paths of 1 to {MAX_HOPS} relays can be asked for")


def _start(directory: Directory, client: NodeId, destination: NodeId, diversity: Diversity) -> Mixture:
    """A mixture that keeps both ends off the paths, and under STRICT their networks and operators too."""
    mixture = Mixture(diversity, barred=(client, destination))
    for end in (client, destination):
        listed = directory.find(end)
        if listed is not None:
            mixture.add(listed)
    return mixture


def _take_guards(
    directory: Directory,
    guards: Sequence[NodeId],
    excluded: Collection[NodeId],
    mixture: Mixture,
    count: int,
) -> list[Descriptor]:
    relays = {relay.node_id: relay for relay in directory.relays()}
    taken: list[Descriptor] = []
    for node_id in guards:
        guard = relays.get(node_id)
        if guard is not None and len(taken) < count and node_id not in excluded and mixture.admits(guard):
            mixture.add(guard)
            taken.append(guard)
    return taken


def _fill(
    relays: Sequence[Descriptor],
    guards: Collection[NodeId],
    mixture: Mixture,
    count: int,
    entropy: Entropy,
) -> list[Descriptor]:
    """Draws up to `count` relays that may join; the best of a few attempts.

    The client's guards come last: in a small network they would else be spent on other hops, and a path that has to be
    replaced could not begin anywhere.
    """
    own = frozenset(guards)
    others = [relay for relay in relays if relay.node_id not in own]
    spared = [relay for relay in relays if relay.node_id in own]
    best: list[Descriptor] = []
    for _ in range(_ATTEMPTS):
        drawn_in_turn = chain(draw_each(others, entropy), draw_each(spared, entropy))
        drawn = _fill_once(drawn_in_turn, mixture.copy(), count)
        best = max(best, drawn, key=len)
        if len(best) == count or len(relays) < count:
            break
    return best


def _fill_once(relays: Iterable[Descriptor], mixture: Mixture, count: int) -> list[Descriptor]:
    drawn: list[Descriptor] = []
    if count == 0:
        return drawn
    for relay in relays:
        if mixture.admits(relay):
            mixture.add(relay)
            drawn.append(relay)
            if len(drawn) == count:
                break
    return drawn


def _shortage(n: int, hops: int, diversity: Diversity, usable: int, guards: int, found: int) -> str:
    shape = f"{n} {'path' if n == 1 else 'paths'} of {hops}"
    if usable >= n * hops and guards < n:
        return f"needs {n} {'guard' if n == 1 else 'guards'} for {shape}, {guards} of the sample can be used"
    if diversity is Diversity.LOCAL:
        return f"needs {n * hops} relays for {shape}, knows {usable}"
    return (
        f"needs {n * hops} relays of different networks and operators for {shape}, "
        f"knows {usable} of which {found} can be used together"
    )
