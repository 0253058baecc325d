"""How much anonymity paths give, by the formulas of `docs/threat-model.md`, and how much a given directory leaves.

The adversary holds a fraction f of the relays, which work together over all paths and may do anything; it
does not watch the whole network. n paths of l relays, any k of n cloves suffice. A proxy that is bad sees
its clove; a guard that is bad sees the client; a bad relay at any place sees its two neighbours and can
drop what it carries.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from overlay.routing.directory import Directory
from overlay.routing.diversity import Diversity, networks_of
from overlay.routing.paths import DEFAULT_HOPS, DEFAULT_PATHS

DEFAULT_K = 2
ASSUMED_SHARES = (0.01, 0.05, 0.1, 0.2, 0.33)


def at_least(n: int, k: int, p: float) -> float:
    """The chance that at least k of n things happen, each with chance p."""
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


def cloves_read(f: float, *, n: int = DEFAULT_PATHS, k: int = DEFAULT_K) -> float:
    """The chance that bad proxies see k cloves: what would read the prompt if cloves were not sealed."""
    return at_least(n, k, f)


def cloves_read_unlayered(
    f: float, *, n: int = DEFAULT_PATHS, k: int = DEFAULT_K, hops: int = DEFAULT_HOPS
) -> float:
    """The same if cells were not re-encrypted at each hop, as in PlanetServe: any relay of a path would do."""
    return at_least(n, k, 1 - (1 - f) ** hops)


def timing_link(f: float, *, n: int = DEFAULT_PATHS) -> float:
    """The chance that some path has both its guard and its proxy bad, who can match client and model node in time."""
    return 1 - (1 - f * f) ** n


def timing_link_with_model(f: float, *, n: int = DEFAULT_PATHS) -> float:
    """The same when the model node is bad too: one bad guard is enough."""
    return 1 - (1 - f) ** n


def delivered(f: float, *, n: int = DEFAULT_PATHS, k: int = DEFAULT_K, hops: int = DEFAULT_HOPS) -> float:
    """The chance that k cloves arrive when every bad relay drops what it carries."""
    return at_least(n, k, (1 - f) ** hops)


def entropy_known(f: float, nodes: int, *, n: int = DEFAULT_PATHS) -> float:
    """Normalised entropy of who asked, 0..1, where a guard can tell that it is one.

    That is so for a client that relays nothing: whoever it talks to knows that the talk begins there. One
    bad guard ends it.
    """
    honest = (1 - f) * nodes
    return (1 - f) ** n * math.log2(honest) / math.log2(nodes) if honest > 1 else 0.0


def entropy_hidden(f: float, nodes: int, *, n: int = DEFAULT_PATHS, hops: int = DEFAULT_HOPS) -> float:
    """Normalised entropy of who asked, 0..1, where a bad relay can't tell its place on the path.

    That takes a client that is a listed relay itself. c paths have a bad relay; its predecessor is the
    client with probability pi. Two paths that both show the client name it; otherwise each predecessor is
    it with probability p and every other honest node with the rest.
    """
    if f <= 0:
        return 1.0
    touched = 1 - (1 - f) ** hops
    first = f / touched
    honest = (1 - f) * nodes
    left = math.fsum(
        math.comb(n, c) * touched**c * (1 - touched) ** (n - c) * _entropy_given(c, first, honest)
        for c in range(n + 1)
    )
    return left / math.log2(nodes)


def _entropy_given(touched: int, first: float, honest: float) -> float:
    """Bits left when so many paths have a bad relay, each the first hop with chance `first`."""
    if honest <= touched:
        return 0.0
    if touched == 0:
        return math.log2(honest)
    unnamed = (1 - first) ** touched + touched * first * (1 - first) ** (touched - 1)
    scale = 1 + (touched - 1) * first
    suspect, others = first / scale, (1 - first) / scale
    spread = others * math.log2(others / (honest - touched)) if others > 0 else 0.0
    return unnamed * -(touched * suspect * math.log2(suspect) + spread)


@dataclass(frozen=True, slots=True)
class Exposure:
    """What an adversary with a share of the relays gets.

    who: where the share comes from, an assumption or the largest group that there is. linked: the chance that it links
    client and model node by timing; linked_with_model: the same if the model node is its own. entropy: normalised, of
    who asked.
    """

    who: str
    share: float
    linked: float
    linked_with_model: float
    entropy: float


@dataclass(frozen=True, slots=True)
class AnonymityLeft:
    """What a directory leaves of the anonymity that is claimed, for `clove status`.

    candidates: the nodes that a client is one of, those listed. is_enough: whether paths can be chosen at
    all under this diversity. warnings: sentences for people, the gravest first; none means that nothing is
    amiss with the directory itself.
    """

    diversity: Diversity
    relays: int
    candidates: int
    networks: int
    operators: int
    is_enough: bool
    exposures: tuple[Exposure, ...]
    warnings: tuple[str, ...]


def anonymity_left(
    directory: Directory,
    *,
    diversity: Diversity,
    is_relay: bool,
    n: int = DEFAULT_PATHS,
    hops: int = DEFAULT_HOPS,
) -> AnonymityLeft:
    """Works out what anonymity paths over this directory give.

    is_relay: whether the client is listed as a relay itself; if not, its guards know it for a client.
    """
    relays = directory.relays()
    networks = Counter(network for relay in relays for network in networks_of(relay) or {"unknown"})
    operators = Counter(relay.operator.casefold() for relay in relays if relay.operator)
    unnamed = sum(not relay.operator for relay in relays)
    candidates = max(2, len(directory))
    shares = [(f"{share:.0%} of relays, assumed", share) for share in ASSUMED_SHARES]
    if diversity is Diversity.LOCAL:  # under STRICT no set of paths has two relays of one group
        shares += _largest(networks, "network", len(relays)) + _largest(operators, "operator", len(relays))
    entropy = entropy_hidden if is_relay else entropy_known
    exposures = tuple(
        Exposure(
            who,
            share,
            timing_link(share, n=n),
            timing_link_with_model(share, n=n),
            entropy(share, candidates, n=n) if share < 1 else 0.0,
        )
        for who, share in shares
    )
    usable = min(len(networks), len(operators) + unnamed) if diversity is Diversity.STRICT else len(relays)
    return AnonymityLeft(
        diversity=diversity,
        relays=len(relays),
        candidates=len(directory),
        networks=len(networks),
        operators=len(operators) + unnamed,
        is_enough=usable >= n * hops,
        exposures=exposures,
        warnings=tuple(_warnings(diversity, len(relays), len(networks), usable, n * hops, is_relay=is_relay)),
    )


def _largest(groups: Counter[str], what: str, relays: int) -> list[tuple[str, float]]:
    """The share of relays in the largest group, which may well be in one hand."""
    if not groups:
        return []
    name, count = groups.most_common(1)[0]
    return [(f"largest {what}, {name}", min(1.0, count / relays))]


def _warnings(
    diversity: Diversity, relays: int, networks: int, usable: int, needed: int, *, is_relay: bool
) -> Iterable[str]:
    if usable < needed:
        yield f"paths need {needed} relays that may be used together, there are {usable} at most"
    if networks == 1:
        yield "all relays are on one network: whoever runs it sees who asks whom"
    elif diversity is Diversity.LOCAL:
        yield "diversity is relaxed: relays of one network or operator may share a set of paths"
    if relays < 10 * needed:
        yield f"{relays} relays are few to hide among"
    if not is_relay:
        yield "this node relays nothing, so its guards know it for a client"
