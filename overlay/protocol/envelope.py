"""What is sealed to a model node: the envelope around a clove or an update.

`key epoch 4 | HPKE(0 | clove)` or `key epoch 4 | HPKE(1 | mid 16 | sequence 8 | AEAD(update))`. The epoch
stands outside so that the model node need not try its keys in turn; it says no more than the day.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from crypto.aead import TAG_BYTES, AeadKey, counter_nonce
from crypto.dispersal import MID_BYTES, Clove, decode_clove
from crypto.errors import AuthenticationError, DecodeError
from crypto.identity import NodeId
from crypto.kdf import derive
from crypto.sealed import SealingKey, SealingPublicKey, seal, unseal
from overlay.protocol.answer_cell import AnswerTerms
from overlay.wire.update import UPDATE_BYTES, Update, decode_update, encode_update

EPOCH_BYTES = 4
SEQUENCE_BYTES = 8
_CLOVE, _UPDATE = b"\0", b"\1"
_UPDATE_ENVELOPE_BYTES = 1 + MID_BYTES + SEQUENCE_BYTES + UPDATE_BYTES + TAG_BYTES


@dataclass(frozen=True, slots=True)
class SealingTarget:
    """To whom envelopes are sealed: a model node of a network, with one of its keys."""

    network: bytes
    node_id: NodeId
    epoch: int
    public: SealingPublicKey


@dataclass(frozen=True, slots=True)
class SealedUpdate:
    """An update as it lies in its envelope: authentic only once `open_update` has opened it."""

    mid: bytes
    sequence: int
    sealed: bytes


def seal_info(network: bytes, node_id: NodeId, epoch: int) -> bytes:
    """What an envelope is bound to. All after the network's name is of fixed length."""
    return b"clove-seal/1" + network + node_id + epoch.to_bytes(EPOCH_BYTES, "big")


def seal_clove(target: SealingTarget, clove: Clove) -> bytes:
    """Returns the envelope of one clove."""
    return _seal(target, _CLOVE + clove.encode())


def seal_update(target: SealingTarget, update: SealedUpdate) -> bytes:
    """Returns an envelope of an update, another one at each call."""
    sequence = update.sequence.to_bytes(SEQUENCE_BYTES, "big")
    return _seal(target, _UPDATE + update.mid + sequence + update.sealed)


def _seal(target: SealingTarget, plaintext: bytes) -> bytes:
    info = seal_info(target.network, target.node_id, target.epoch)
    return target.epoch.to_bytes(EPOCH_BYTES, "big") + seal(target.public, plaintext, info=info)


def open_envelope(
    envelope: bytes, *, network: bytes, node_id: NodeId, keys: Mapping[int, SealingKey]
) -> Clove | SealedUpdate:
    """Opens an envelope sealed to us. Raises DecodeError or AuthenticationError."""
    if len(envelope) < EPOCH_BYTES:
        raise DecodeError("envelope: too short")
    epoch = int.from_bytes(envelope[:EPOCH_BYTES], "big")
    key = keys.get(epoch)
    if key is None:
        raise AuthenticationError(f"sealed to a key of epoch {epoch}, which is not held")
    plain = unseal(key, envelope[EPOCH_BYTES:], info=seal_info(network, node_id, epoch))
    if plain[:1] == _CLOVE:
        return decode_clove(plain[1:])
    if plain[:1] == _UPDATE and len(plain) == _UPDATE_ENVELOPE_BYTES:
        mid, rest = plain[1 : 1 + MID_BYTES], plain[1 + MID_BYTES :]
        return SealedUpdate(mid, int.from_bytes(rest[:SEQUENCE_BYTES], "big"), rest[SEQUENCE_BYTES:])
    raise DecodeError("envelope: neither clove nor update")


def update_key(terms: AnswerTerms) -> AeadKey:
    """The key of all updates of one answer; the response secret proves who sends them."""
    label = b"clove-update/1" + terms.serving + struct.pack(">H", terms.attempt)
    return AeadKey(derive(terms.response_secret, label))


def close_update(key: AeadKey, mid: bytes, sequence: int, update: Update) -> SealedUpdate:
    """Encrypts an update. A sequence is used once."""
    sealed = key.seal(counter_nonce(sequence), encode_update(update), mid)
    return SealedUpdate(mid, sequence, sealed)


def open_update(key: AeadKey, update: SealedUpdate) -> Update:
    """Opens an update. Raises AuthenticationError or DecodeError."""
    return decode_update(key.open(counter_nonce(update.sequence), update.sealed, update.mid))
