"""Descriptors through the Kademlia table, between real hosts in one process (six at most: lookups take CPU)."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.peer.id import ID

from crypto.errors import AuthenticationError, CryptoError, DecodeError, ExpiredError
from crypto.identity import IdentityKey
from overlay.transport.addresses import peer_id_bytes
from overlay.transport.dht import DescriptorValidator, Dht, record_key
from overlay.transport.libp2p_host import Libp2pTransport
from overlay.wire.descriptor import Descriptor, sign_descriptor
from tests.support.transports import LOCAL

NOW = 1_800_000_000


@dataclass
class Clock:
    unix_time: float = NOW

    def __call__(self) -> float:
        return self.unix_time


@dataclass
class Node:
    clock: Clock
    network: bytes = b"test"
    key: IdentityKey = field(default_factory=lambda: IdentityKey.from_seed(os.urandom(32)))

    def __post_init__(self) -> None:
        self.transport = Libp2pTransport(self.key.seed, LOCAL, allow_private=True)
        self.dht = Dht(self.transport, network=self.network, unix_time=self.clock)

    def descriptor(self, seq: int, issued_unix: int = NOW) -> bytes:
        return sign_descriptor(self.key, describe(self.key, seq, issued_unix))


def describe(key: IdentityKey, seq: int, issued_unix: int = NOW) -> Descriptor:
    return Descriptor(
        node_id=key.node_id,
        seq=seq,
        issued_unix=issued_unix,
        ttl_s=600,
        addresses=("/ip4/127.0.0.1/tcp/4001",),
        roles=frozenset(),
    )


async def ignore(_connection) -> None:
    await trio.sleep_forever()


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for node in nodes:
                await nursery.start(node.transport.serve, ignore)
                await nursery.start(node.dht.serve)
            for node in nodes:  # each knows its neighbours in a ring only
                at = nodes.index(node)
                for other in (nodes[at - 1], nodes[(at + 1) % len(nodes)]):
                    if other is not node:
                        await node.dht.add_peer(other.transport.node_id, other.transport.addresses)
            yield
            nursery.cancel_scope.cancel()


@pytest.mark.integration
async def test_a_descriptor_is_found_by_nodes_that_never_met_its_owner():
    clock = Clock()
    nodes = [Node(clock) for _ in range(5)]
    async with running(*nodes):
        record = nodes[0].descriptor(1)
        await nodes[0].dht.put(record)
        for seeker in nodes[2:4]:
            assert await seeker.dht.get(nodes[0].key.node_id) == record
        assert await nodes[1].dht.get(IdentityKey.from_seed(os.urandom(32)).node_id) is None


@pytest.mark.integration
async def test_a_read_asks_the_network_though_an_old_copy_is_at_hand():
    clock = Clock()
    alice, bob, carol = (Node(clock) for _ in range(3))
    async with running(alice, bob, carol):
        await alice.dht.put(alice.descriptor(1))
        assert await carol.dht.get(alice.key.node_id) == alice.descriptor(1)
        # Bob alone hears of the newer one; carol still keeps the older.
        key = record_key(alice.key.node_id)
        carol_copy = carol.dht._kad.value_store.get(key.encode())
        await alice.dht.put(alice.descriptor(2))
        carol.dht._kad.value_store.put_record(key.encode(), carol_copy)
        assert await carol.dht.get(alice.key.node_id) == alice.descriptor(2)


@pytest.mark.integration
async def test_an_expired_record_is_neither_put_nor_found():
    clock = Clock()
    alice, bob = Node(clock), Node(clock)
    async with running(alice, bob):
        await alice.dht.put(alice.descriptor(1))
        clock.unix_time += 3600
        assert await bob.dht.get(alice.key.node_id) is None
        with pytest.raises(ExpiredError):
            await alice.dht.put(alice.descriptor(2))


@pytest.mark.integration
async def test_nobody_keeps_a_record_that_its_owner_did_not_sign():
    clock = Clock()
    alice, mallory = Node(clock), Node(clock)
    async with running(alice, mallory):
        forged = mallory.descriptor(9)
        key = record_key(alice.key.node_id)
        await mallory.dht._kad.value_store._store_at_peer(alice.transport.host.get_id(), key.encode(), forged)
        assert alice.dht._kad.value_store.get(key.encode()) is None


@pytest.mark.integration
async def test_the_table_is_our_networks_own():
    clock = Clock()
    ours, other = Node(clock), Node(clock, network=b"other")
    async with running(ours, other):
        spoken = ours.transport.host.get_mux().get_protocols()
        assert not any(str(protocol).startswith("/ipfs/kad") for protocol in spoken)
        await ours.dht.put(ours.descriptor(1))
        assert await other.dht.get(ours.key.node_id) is None


@pytest.mark.integration
async def test_claims_to_provide_something_are_not_kept():
    clock = Clock()
    alice, mallory = Node(clock), Node(clock)
    async with running(alice, mallory):
        for _ in range(3):
            await mallory.dht._kad.provider_store._send_add_provider(
                alice.transport.host.get_id(), os.urandom(34)
            )
        assert not alice.dht._kad.provider_store.providers


@pytest.mark.parametrize("name", ["-", "a..b", "xn--", "a" * 64])
async def test_a_name_that_libp2p_does_not_take_harms_nobody(name):
    alice, mallory = Node(Clock()), Node(Clock())
    await alice.dht.add_peer(mallory.key.node_id, (f"/dns/{name}/tcp/4001",))
    assert ID(peer_id_bytes(mallory.key.node_id)) not in alice.transport.host.get_peerstore().peer_ids()


ALICE, BOB = (IdentityKey.from_seed(bytes([n]) * 32) for n in (1, 2))
KEY = record_key(ALICE.node_id)
validator = DescriptorValidator(Clock())


def test_validator_takes_its_owners_descriptor_only():
    validator.validate(KEY, sign_descriptor(ALICE, describe(ALICE, 1)))
    with pytest.raises(DecodeError):
        validator.validate(KEY, sign_descriptor(BOB, describe(BOB, 1)))
    tampered = bytearray(sign_descriptor(ALICE, describe(ALICE, 1)))
    tampered[-1] ^= 1
    with pytest.raises((AuthenticationError, DecodeError)):
        validator.validate(KEY, bytes(tampered))
    with pytest.raises(ExpiredError):
        validator.validate(KEY, sign_descriptor(ALICE, describe(ALICE, 1, NOW - 3600)))


@given(st.binary(max_size=300))
def test_validator_raises_nothing_but_crypto_errors(value):
    with pytest.raises(CryptoError):
        validator.validate(KEY, value)


def test_the_newest_is_selected_and_an_equal_one_may_be_put_again():
    records = [sign_descriptor(ALICE, describe(ALICE, seq)) for seq in (2, 3, 1)]
    assert validator.select(KEY, records) == 1
    assert validator.select(KEY, [records[0], records[0]]) == 1
