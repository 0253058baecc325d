"""Building a circuit in one pass: the client's BUILD, each relay's part in it, the BUILT that comes back.

Theory of operation (byte tables in docs/spec/onion.md). A body has five slots of 128 bytes and a random tail.
Each hop finds its own slot by the first half of its id, opens the record in it, and puts its confirmation
there; it re-encrypts all slots and draws a new tail, so no stretch of the body survives a hop. Slots stand
in random order and unused ones are random, so a hop learns neither its position nor the length of the
path. The last hop turns the body round as BUILT; every hop hides it whole, and only the client can tell whose
confirmation is where.

What a relay may do wrong: change anything (some confirmation then fails to open), answer BUILT early (the
confirmations behind it are missing), or say nothing. All look alike to the client, so the path is blamed, not
a hop.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from crypto.aead import ONE_USE_NONCE, TAG_BYTES, AeadKey, key_stream
from crypto.checkable import CLOCK_SKEW_S
from crypto.entropy import Entropy
from crypto.errors import AuthenticationError, DecodeError
from crypto.exchange import OnionKey, OnionPublicKey
from crypto.identity import NODE_ID_BYTES, NodeId
from crypto.kdf import derive
from crypto.layers import CELL_BODY_BYTES, MAX_HOPS, ClientLayers, DataKeys, RelayLayer, derive_data_keys
from crypto.puzzle import check_puzzle, solve_puzzle

SLOT_BYTES = 128
SLOT_COUNT = 5
SLOTS_BYTES = SLOT_BYTES * SLOT_COUNT
TAIL_BYTES = CELL_BODY_BYTES - SLOTS_BYTES
ID_PREFIX_BYTES = 16
MAX_MINUTES_APART = CLOCK_SKEW_S // 60

_RECORD_SALT = b"clove-onion/1|build"
_RECORD = struct.Struct("!32sBIHHI11s")
_RECORD_ZEROS = bytes(11)
_LAST_HOP = 0x01
_CONFIRMATION = struct.Struct("!BHH75s")
_CONFIRMATION_ZEROS = bytes(75)
_GRANTED = 0
_NO_NODE = bytes(NODE_ID_BYTES)


@dataclass(frozen=True, slots=True)
class Hop:
    """A relay as the client needs to know it to build through it. difficulty: puzzle bits asked for."""

    node_id: NodeId
    onion_public: OnionPublicKey
    onion_epoch: int
    difficulty: int = 0


@dataclass(frozen=True, slots=True)
class BuildTerms:
    """What the client asks of every hop. quota: cells a second; unix_minute: now."""

    lifetime_s: int
    quota: int
    unix_minute: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedBuild:
    """A relay's part of a build.

    At the last hop next_id is None and `body` is the BUILT body, ready to send inward; elsewhere `body` goes
    to `next_id` as BUILD. Put `ephemeral` into the replay cache in either case.
    """

    next_id: NodeId | None
    lifetime_s: int
    quota: int
    ephemeral: bytes
    body: bytes = field(repr=False)
    layer: RelayLayer


@dataclass(frozen=True, slots=True, repr=False)
class _RecordKeys:
    """Keys of one hop's record, from the static-ephemeral secret."""

    record: bytes
    slots: bytes
    built: bytes


@dataclass(frozen=True, slots=True, repr=False)
class _PendingHop:
    """What the client keeps of a hop until BUILT."""

    slot: int
    ephemeral: OnionKey
    static_secret: bytes
    transcript: bytes
    keys: _RecordKeys


def start_build(
    hops: Sequence[Hop], terms: BuildTerms, *, entropy: Entropy
) -> "tuple[PendingCircuit, bytes]":
    """The BUILD body for the first hop, and what to keep until BUILT comes back.

    Raises AuthenticationError where a hop's onion key is of low order; ValueError on a path that isn't 1 to 3
    different relays, or on terms out of range.
    """
    if not 1 <= len(hops) <= MAX_HOPS or len({hop.node_id for hop in hops}) != len(hops):
        raise ValueError(f"a circuit goes over 1 to {MAX_HOPS} different relays")
    slots = sorted(range(SLOT_COUNT), key=lambda _: entropy(8))
    pending = [_start_hop(hop, slot, entropy) for hop, slot in zip(hops, slots, strict=False)]
    next_ids = [*(hop.node_id for hop in hops[1:]), None]
    region = bytearray(entropy(SLOTS_BYTES))
    for hop, state, next_id in reversed(list(zip(hops, pending, next_ids, strict=True))):
        # Going from the last hop to the first, this hop's key stream falls on the slots of all later hops: it
        # is what the hop will remove on the way. Its own slot is written afterwards and stays clear of it.
        region = bytearray(key_stream(state.keys.slots).update(region))
        _slot(region, state.slot)[:] = _seal_record(hop, state, next_id, terms, entropy)
    return PendingCircuit(pending, terms), bytes(region) + entropy(TAIL_BYTES)


class PendingCircuit:
    """The client's side of a circuit between BUILD and BUILT."""

    __slots__ = ("_hops", "_terms")

    def __init__(self, hops: Sequence[_PendingHop], terms: BuildTerms) -> None:
        self._hops = tuple(hops)
        self._terms = terms

    def finish(self, body: bytes) -> ClientLayers:
        """Checks every hop's confirmation in a BUILT body; the circuit's layers.

        Raises DecodeError or AuthenticationError; drop the circuit then, and count it against the whole path.
        """
        if len(body) != CELL_BODY_BYTES:
            raise DecodeError(f"a BUILT body has {CELL_BODY_BYTES} bytes, not {len(body)}")
        for hop in self._hops:
            body = key_stream(hop.keys.built).update(body)
        region = bytearray(body[:SLOTS_BYTES])
        data_keys = []
        for hop in reversed(self._hops):
            region = bytearray(key_stream(hop.keys.slots).update(region))
            data_keys.append(self._open_confirmation(hop, bytes(_slot(region, hop.slot))))
        return ClientLayers(data_keys[::-1])

    def _open_confirmation(self, hop: _PendingHop, slot: bytes) -> DataKeys:
        public, sealed = slot[:32], slot[32:]
        transcript = hop.transcript + public
        keys = derive_data_keys(hop.static_secret + hop.ephemeral.agree(public), transcript)
        opened = AeadKey(keys.confirmation).open(ONE_USE_NONCE, sealed, transcript)
        status, lifetime_s, quota, zeros = _CONFIRMATION.unpack(opened)
        granted = (status, lifetime_s, quota) == (_GRANTED, self._terms.lifetime_s, self._terms.quota)
        if not granted or zeros != _CONFIRMATION_ZEROS:
            raise AuthenticationError("a hop confirmed something other than what was asked")
        return keys

    def __repr__(self) -> str:
        return f"PendingCircuit({len(self._hops)} hops, keys not shown)"


def accept_build(
    body: bytes,
    *,
    node_id: NodeId,
    keys: Sequence[tuple[int, OnionKey]],
    unix_minute: int,
    seen: Callable[[bytes], bool],
    difficulty: int,
    entropy: Entropy,
) -> AcceptedBuild:
    """A relay's whole part in a BUILD.

    keys: (epoch, key), current and previous; the cheap tests come first, Diffie-Hellman last. `seen` tells
    whether an ephemeral key is in the replay cache. Whether `next_id` may be extended to, and whether it is
    the predecessor, is for the caller to check, who alone knows links and directory. Raises DecodeError or
    AuthenticationError.
    """
    if len(body) != CELL_BODY_BYTES:
        raise DecodeError(f"a BUILD body has {CELL_BODY_BYTES} bytes, not {len(body)}")
    slot = _find_slot(body, node_id)
    record = body[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES]
    ephemeral, nonce, sealed = record[16:48], record[48:56], record[56:]
    candidates = [
        (epoch, key) for epoch, key in keys if check_puzzle(node_id, epoch, ephemeral, nonce, difficulty)
    ]
    if not candidates:
        raise AuthenticationError("the puzzle is not solved")
    if seen(ephemeral):
        raise AuthenticationError("this build was seen before")
    opened = _open_record(node_id, candidates, ephemeral, sealed)
    asked = _decode_record(opened.plaintext, node_id, opened.epoch, unix_minute)
    data_keys, confirmation = _confirm(opened, asked, ephemeral, entropy)

    layer = RelayLayer(data_keys, opened.keys.built, is_last=asked.next_id is None)
    region = bytearray(body[:SLOTS_BYTES])
    _slot(region, slot)[:] = confirmation
    # Our own slot is hidden with the rest. Left in clear it would show the next hop an X25519 key, whose top
    # bit is always 0, and so that it isn't the first.
    onward = key_stream(opened.keys.slots).update(region) + entropy(TAIL_BYTES)
    return AcceptedBuild(
        next_id=asked.next_id,
        lifetime_s=asked.lifetime_s,
        quota=asked.quota,
        ephemeral=ephemeral,
        body=layer.wrap_built(onward) if asked.next_id is None else onward,
        layer=layer,
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a record asks of a relay."""

    next_id: NodeId | None
    lifetime_s: int
    quota: int


@dataclass(frozen=True, slots=True, repr=False)
class _OpenedRecord:
    """A record as a relay's key opened it."""

    plaintext: bytes
    epoch: int
    static_secret: bytes
    transcript: bytes
    keys: _RecordKeys


def _start_hop(hop: Hop, slot: int, entropy: Entropy) -> _PendingHop:
    ephemeral = OnionKey.generate(entropy)
    static_secret = ephemeral.agree(hop.onion_public)
    transcript = hop.node_id + hop.onion_public + ephemeral.public
    return _PendingHop(
        slot, ephemeral, static_secret, transcript, _derive_record_keys(static_secret, transcript)
    )


def _seal_record(
    hop: Hop, state: _PendingHop, next_id: NodeId | None, terms: BuildTerms, entropy: Entropy
) -> bytes:
    public = state.ephemeral.public
    flags = _LAST_HOP if next_id is None else 0
    try:
        plaintext = _RECORD.pack(
            next_id or _NO_NODE,
            flags,
            hop.onion_epoch,
            terms.lifetime_s,
            terms.quota,
            terms.unix_minute,
            _RECORD_ZEROS,
        )
    except struct.error as error:
        raise ValueError(f"build terms out of range: {terms}") from error
    nonce = solve_puzzle(hop.node_id, hop.onion_epoch, public, hop.difficulty, entropy=entropy)
    sealed = AeadKey(state.keys.record).seal(ONE_USE_NONCE, plaintext, state.transcript)
    return hop.node_id[:ID_PREFIX_BYTES] + public + nonce + sealed


def _find_slot(body: bytes, node_id: NodeId) -> int:
    prefix = node_id[:ID_PREFIX_BYTES]
    for slot in range(SLOT_COUNT):
        if body.startswith(prefix, slot * SLOT_BYTES):
            return slot
    raise DecodeError("no record for this relay")


def _open_record(
    node_id: NodeId, candidates: Sequence[tuple[int, OnionKey]], ephemeral: bytes, sealed: bytes
) -> _OpenedRecord:
    for epoch, key in candidates:
        static_secret = key.agree(ephemeral)
        transcript = node_id + key.public + ephemeral
        keys = _derive_record_keys(static_secret, transcript)
        try:
            plaintext = AeadKey(keys.record).open(ONE_USE_NONCE, sealed, transcript)
        except AuthenticationError:
            continue  # made for the other epoch's key, perhaps
        return _OpenedRecord(plaintext, epoch, static_secret, transcript, keys)
    raise AuthenticationError("the record opens under no key of this relay")


def _decode_record(plaintext: bytes, node_id: NodeId, epoch: int, unix_minute: int) -> _Asked:
    next_id, flags, named_epoch, lifetime_s, quota, minute, zeros = _RECORD.unpack(plaintext)
    if flags & ~_LAST_HOP or zeros != _RECORD_ZEROS or bool(flags) != (next_id == _NO_NODE):
        raise DecodeError("a build record with unknown flags or stray bytes")
    if next_id == node_id:
        raise DecodeError("a build record that leads back to this relay")
    if named_epoch != epoch:
        raise AuthenticationError("a build record for another key epoch")
    if abs(minute - unix_minute) > MAX_MINUTES_APART:
        raise AuthenticationError("a build record from another time")
    return _Asked(None if flags else NodeId(next_id), lifetime_s, quota)


def _confirm(
    opened: _OpenedRecord, asked: _Asked, ephemeral: bytes, entropy: Entropy
) -> tuple[DataKeys, bytes]:
    """The hop's data keys, and the slot by which only the client can come to the same."""
    fresh = OnionKey.generate(entropy)
    transcript = opened.transcript + fresh.public
    data_keys = derive_data_keys(opened.static_secret + fresh.agree(ephemeral), transcript)
    granted = _CONFIRMATION.pack(_GRANTED, asked.lifetime_s, asked.quota, _CONFIRMATION_ZEROS)
    return data_keys, fresh.public + AeadKey(data_keys.confirmation).seal(ONE_USE_NONCE, granted, transcript)


def _derive_record_keys(static_secret: bytes, transcript: bytes) -> _RecordKeys:
    keys = derive(static_secret, transcript, length=96, salt=_RECORD_SALT)
    return _RecordKeys(keys[:32], keys[32:64], keys[64:])


def _slot(region: bytearray, slot: int) -> memoryview:
    return memoryview(region)[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES]


if _RECORD.size + TAG_BYTES + 56 != SLOT_BYTES or _CONFIRMATION.size + TAG_BYTES + 32 != SLOT_BYTES:
    raise AssertionError("records and confirmations must fill a slot")
