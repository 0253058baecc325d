"""Descriptors in a Kademlia table of our own: a low-rate hint for finding nodes, never asked about a path.

py-libp2p's KadDHT does the lookups. Around it: a protocol id of our own, a validator that takes only descriptors whose
signature holds and whose time has not passed, the newest of several, small bounds on what strangers can have us
keep, and reads that ask the network instead of trusting a copy that may be two days old.
"""

from collections.abc import Callable, Sequence

import trio
from libp2p.custom_types import TProtocol
from libp2p.kad_dht import common, value_store
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.id import ID
from libp2p.records.validator import NamespacedValidator, Validator
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from crypto.errors import CryptoError, DecodeError
from crypto.identity import NodeId
from overlay.transport.addresses import dialable, peer_id_bytes
from overlay.transport.libp2p_faults import contained
from overlay.transport.libp2p_host import Libp2pTransport
from overlay.wire.descriptor import Descriptor, decode_descriptor
from overlay.wire.limits import MAX_DHT_RECORDS

NAMESPACE = "clove"
LOOKUP_TIMEOUT_S = 20.0
ADDRESS_TTL_S = 3600


class DescriptorValidator(Validator):  # type: ignore[misc]
    """Judges records under /clove/: the descriptor that the key names, signed by that node and still good."""

    def __init__(self, unix_time: Callable[[], float]) -> None:
        self._unix_time = unix_time

    def validate(self, key: str, value: bytes) -> None:
        """Raises CryptoError for what must be neither kept nor believed."""
        self._read(key, value)

    def select(self, key: str, values: Sequence[bytes]) -> int:
        """Returns the index of the newest; of equal ones the last, so that a record may be put again."""
        ages = [(self._read(key, value).seq, value, index) for index, value in enumerate(values)]
        return max(ages)[2]

    def _read(self, key: str, value: bytes) -> Descriptor:
        signed = decode_descriptor(value)
        if key != record_key(signed.signer):
            raise DecodeError("record: not under its signer's key")
        return signed.check().check(self._unix_time())


def record_key(node_id: NodeId) -> str:
    """Returns the key under which a node's descriptor is kept."""
    return f"/{NAMESPACE}/{node_id.hex()}"


class Dht:
    """A node's part in the table. `network` keeps the tables of different networks apart."""

    def __init__(
        self,
        transport: Libp2pTransport,
        *,
        network: bytes,
        unix_time: Callable[[], float],
    ) -> None:
        self._allow_private = transport.allow_private
        self._host = transport.host
        self._validator = DescriptorValidator(unix_time)
        self._host.rename_protocol(common.PROTOCOL_ID, TProtocol(f"/clove/kad/1/{network.hex()}"))
        value_store.MAX_VALUE_STORE_SIZE = MAX_DHT_RECORDS
        self._kad = KadDHT(
            self._host,
            DHTMode.SERVER,
            validator=NamespacedValidator({NAMESPACE: self._validator}, strict_validation=True),
            validator_changed=True,
            strict_validation=True,
        )
        # Anybody may claim to provide anything; nothing of ours reads it.
        self._kad.provider_store.add_provider = lambda *_: None

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answers others and keeps the table fresh, until cancelled. The transport must be served too."""
        async with background_trio_service(self._kad):
            task_status.started()
            await trio.sleep_forever()

    async def add_peer(self, node_id: NodeId, addresses: Sequence[str]) -> None:
        """Tells the table of a node that is known to be one. The table starts empty and finds nobody by itself."""
        usable = dialable(addresses, node_id, allow_private=self._allow_private)
        if not usable:
            return
        peer_id = ID(peer_id_bytes(node_id))
        async with contained("adding a peer to the table"):
            # Multiaddr is stricter with names than we are, and a stranger chose them.
            targets = [
                Multiaddr(f"/{address.family}/{address.host}/tcp/{address.port}") for address in usable
            ]
            self._host.get_peerstore().add_addrs(peer_id, targets, ADDRESS_TTL_S)
            await self._kad.add_peer(peer_id, skip_server_mode_check=True)

    async def put(self, record: bytes) -> None:
        """Keeps a descriptor with the nodes nearest to its key, as far as they answer in time.

        Raises DecodeError, AuthenticationError or ExpiredError for a record that nobody would take.
        """
        key = record_key(decode_descriptor(record).signer)
        self._validator.validate(key, record)
        with trio.move_on_after(LOOKUP_TIMEOUT_S):
            async with contained("putting a record"):
                await self._kad.put_value(key, record)

    async def get(self, node_id: NodeId) -> bytes | None:
        """Looks a node's descriptor up; None where nobody has a good one. Asks the network first, always."""
        key = record_key(node_id)
        store = self._kad.value_store
        local = store.get(key.encode())
        found: list[bytes] = []
        if local is not None:
            # get_value would be content with this copy for as long as it lasts.
            store.store.pop(key.encode(), None)
            found.append(local.value)
        with trio.move_on_after(LOOKUP_TIMEOUT_S):
            async with contained("looking a record up"):
                remote = await self._kad.get_value(key)
                if remote is not None:
                    found.append(remote)
        if local is not None and store.get(key.encode()) is None:
            store.put_record(key.encode(), local)
        return self._newest(key, found)

    def _newest(self, key: str, records: Sequence[bytes]) -> bytes | None:
        good = []
        for record in records:
            try:
                self._validator.validate(key, record)
            except CryptoError:
                continue  # the local copy has expired
            good.append(record)
        return good[self._validator.select(key, good)] if good else None
