"""A path of relays and a circuit over it, built by the real code on both sides."""

from collections.abc import Sequence
from dataclasses import dataclass

from crypto.entropy import Entropy
from crypto.identity import IdentityKey, NodeId
from crypto.onion import (
    AcceptedBuild,
    BuildTerms,
    ClientLayers,
    Hop,
    OnionKey,
    PendingCircuit,
    RelayLayer,
    accept_build,
    start_build,
)

UNIX_MINUTE = 29_000_000
EPOCH = 20_000
TERMS = BuildTerms(lifetime_s=600, quota=200, unix_minute=UNIX_MINUTE)


@dataclass(frozen=True, slots=True)
class Relay:
    """What a relay holds, and its side of a build."""

    identity: IdentityKey
    onion_key: OnionKey

    @property
    def node_id(self) -> NodeId:
        return self.identity.node_id

    def hop(self, difficulty: int = 0) -> Hop:
        return Hop(self.node_id, self.onion_key.public, EPOCH, difficulty)

    def accept(self, body: bytes, entropy: Entropy, *, seen: frozenset[bytes] = frozenset()) -> AcceptedBuild:
        return accept_build(
            body,
            node_id=self.node_id,
            keys=[(EPOCH, self.onion_key)],
            unix_minute=UNIX_MINUTE,
            seen=seen.__contains__,
            difficulty=0,
            entropy=entropy,
        )


@dataclass(frozen=True, slots=True)
class Circuit:
    """Both ends of a built circuit; `bodies` are what crossed each link while it was built."""

    client: ClientLayers
    relays: tuple[RelayLayer, ...]
    build_bodies: tuple[bytes, ...]
    built_bodies: tuple[bytes, ...]

    def send_outbound(self, content: bytes) -> tuple[bytes, list[bytes]]:
        """The content as the last hop has it, and the body on each link."""
        data = self.client.wrap(content)
        bodies = []
        for relay in self.relays:
            bodies.append(data)
            data = relay.peel(data)
        return data, bodies

    def send_inbound(self, content: bytes) -> tuple[bytes, list[bytes]]:
        """The content as the client has it, and the body on each link, from the last hop's on."""
        bodies = [self.relays[-1].seal(content)]
        for relay in reversed(self.relays[:-1]):
            bodies.append(relay.wrap(bodies[-1]))
        return self.client.peel(bodies[-1]), bodies


def make_relays(count: int, entropy: Entropy) -> list[Relay]:
    return [Relay(IdentityKey.generate(entropy), OnionKey.generate(entropy)) for _ in range(count)]


def carry_build(
    relays: Sequence[Relay], body: bytes, entropy: Entropy
) -> tuple[list[AcceptedBuild], list[bytes]]:
    """Every relay's part in turn; what crossed each link."""
    accepted, bodies = [], []
    for relay in relays:
        bodies.append(body)
        accepted.append(relay.accept(body, entropy))
        body = accepted[-1].body
    return accepted, bodies


def carry_built(accepted: Sequence[AcceptedBuild]) -> list[bytes]:
    """The BUILT body on each link, from the last hop's to the client's."""
    bodies = [accepted[-1].body]
    for build in reversed(accepted[:-1]):
        bodies.append(build.layer.wrap_built(bodies[-1]))
    return bodies


def start(relays: Sequence[Relay], entropy: Entropy) -> tuple[PendingCircuit, bytes]:
    return start_build([relay.hop() for relay in relays], TERMS, entropy=entropy)


def build_circuit(hops: int, entropy: Entropy) -> Circuit:
    relays = make_relays(hops, entropy)
    pending, body = start(relays, entropy)
    accepted, build_bodies = carry_build(relays, body, entropy)
    built_bodies = carry_built(accepted)
    return Circuit(
        client=pending.finish(built_bodies[-1]),
        relays=tuple(build.layer for build in accepted),
        build_bodies=tuple(build_bodies),
        built_bodies=tuple(built_bodies),
    )


def shares_stretch(left: bytes, right: bytes, length: int = 16) -> bool:
    """Whether some string of `length` bytes stands in both.

    Any such string covers a whole block of half its length on a half-length boundary of `left`, so only those
    are looked up; a block alone is not yet a hit.
    """
    half = length // 2
    return any(
        _extends(left, start, right, length)
        for start in range(0, len(left) - half + 1, half)
        if left[start : start + half] in right
    )


def _extends(left: bytes, block: int, right: bytes, length: int) -> bool:
    first = max(0, block - length // 2)
    return any(left[at : at + length] in right for at in range(first, block + 1) if at + length <= len(left))
