"""A node's descriptor: what it says of itself, signed by it, as a value and as bytes.

`signature 64 | body`; the body is a record whose second element is the signer's NodeId, so a descriptor
that another id has signed fails its check (`docs/spec/descriptor.md`). There is exactly one encoding of
each value: a body that would be encoded otherwise is malformed. Everything in here that people may see is
printable ASCII.
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple, TypeVar

from crypto.checkable import Signed, TimeBound
from crypto.errors import DecodeError
from crypto.exchange import is_low_order
from crypto.identity import IdentityKey, NodeId, decode_node_id
from overlay.errors import LocalProtocolError
from overlay.wire.limits import MAX_DESCRIPTOR_BYTES, MAX_UNIX_TIME, NODE_ID_BYTES
from overlay.wire.prompt import ModelId
from overlay.wire.records import (
    pack_record,
    read_array,
    read_fields,
    read_integer,
    read_octets,
    read_text,
    unpack_record,
)

FORMAT = 1
CONTEXT = b"clove-descriptor/1"
SIGNATURE_BYTES = 64
PUBLIC_KEY_BYTES = 32
MAX_ADDRESSES = 8
MAX_ADDRESS_BYTES = 256
MAX_KEYS = 3
"""Epoch keys of one kind: the previous, the current and the next."""
MAX_MODELS = 16
MAX_ALIAS_BYTES = 64
MAX_NUMERICS_BYTES = 32
MAX_OPERATOR_BYTES = 64
MAX_CONTEXT_TOKENS = 1 << 24
MAX_DIFFICULTY = 32
MIN_TTL_S = 1
MAX_TTL_S = 7 * 24 * 3600
MAX_EPOCH = (1 << 32) - 1
SEQ_SLACK_S = 300
_DIGEST_LABEL = b"clove-directory/1"
_MODEL_ID = re.compile(r"m-[0-9a-f]{40}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]*")
_PRINTABLE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_T = TypeVar("_T")


class Role(StrEnum):
    """What a node does for others."""

    RELAY = "relay"
    MODEL = "model"
    BOOTSTRAP = "bootstrap"
    VERIFIER = "verifier"


_ROLE_BITS = {Role.RELAY: 1, Role.MODEL: 2, Role.BOOTSTRAP: 4, Role.VERIFIER: 8}


class EpochKey(NamedTuple):
    """An X25519 public key and the epoch (a day's number) it is for."""

    epoch: int
    public: bytes


@dataclass(frozen=True, slots=True)
class ModelOffer:
    """A model that a node serves, the class of its arithmetic and the longest prompt plus answer it takes."""

    model_id: ModelId
    alias: str
    numerics_class: str
    context_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What a node says of itself.

    The greatest seq wins; it is the time of issue in milliseconds, or less. Keys are ordered by epoch, each
    epoch once. A relay has an onion key and a model node a sealing key. operator is a name that the node
    chose ("" for none): nodes of one operator are never used together.
    """

    node_id: NodeId
    seq: int
    issued_unix: int
    ttl_s: int
    addresses: tuple[str, ...]
    roles: frozenset[Role]
    onion_keys: tuple[EpochKey, ...] = ()
    sealing_keys: tuple[EpochKey, ...] = ()
    models: tuple[ModelOffer, ...] = ()
    operator: str = ""
    difficulty: int = 0

    @property
    def expires_unix(self) -> int:
        """The last second at which it is valid."""
        return self.issued_unix + self.ttl_s

    def offer_of(self, model: str) -> ModelOffer | None:
        """The offer with this model id or alias."""
        return next((offer for offer in self.models if model in (offer.model_id, offer.alias)), None)


def sign_descriptor(key: IdentityKey, descriptor: Descriptor) -> bytes:
    """Encodes and signs. Raises LocalProtocolError if a value is out of bounds or the id is not the key's."""
    if descriptor.node_id != key.node_id:
        raise LocalProtocolError("a node signs its own descriptor only")
    body = _encode_body(descriptor)
    data = key.sign(CONTEXT, body) + body
    try:
        decode_descriptor(data)
    except DecodeError as error:
        raise LocalProtocolError(f"this descriptor can't be published: {error}") from error
    return data


def decode_descriptor(data: bytes) -> Signed[TimeBound[Descriptor]]:
    """Reads a descriptor; signature and time are still to be checked. Raises DecodeError and nothing else."""
    if not SIGNATURE_BYTES < len(data) <= MAX_DESCRIPTOR_BYTES:
        raise DecodeError("descriptor: wrong length")
    signature, body = data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:]
    descriptor = _read_body(unpack_record(body))
    if _encode_body(descriptor) != body:
        raise DecodeError("descriptor: not the canonical encoding")
    bound = TimeBound(descriptor, descriptor.issued_unix, descriptor.expires_unix)
    return Signed(bound, descriptor.node_id, CONTEXT, body, signature)


def digest_of(entries: Iterable[tuple[NodeId, int]]) -> bytes:
    """The digest of a set of (node id, sequence number), 32 bytes; their order does not matter."""
    digest = hashlib.sha256(_DIGEST_LABEL)
    for node_id, seq in sorted(entries):
        digest.update(node_id + seq.to_bytes(8, "big"))
    return digest.digest()


def _encode_body(descriptor: Descriptor) -> bytes:
    return pack_record(
        (
            FORMAT,
            descriptor.node_id,
            descriptor.seq,
            descriptor.issued_unix,
            descriptor.ttl_s,
            descriptor.addresses,
            sum(_ROLE_BITS[role] for role in descriptor.roles),
            tuple((key.epoch, key.public) for key in descriptor.onion_keys),
            tuple((key.epoch, key.public) for key in descriptor.sealing_keys),
            tuple(
                (offer.model_id, offer.alias, offer.numerics_class, offer.context_tokens)
                for offer in descriptor.models
            ),
            descriptor.operator,
            descriptor.difficulty,
        )
    )


def _read_body(record: list[object]) -> Descriptor:
    version, node_id, seq, issued, ttl, addresses, roles, onion, sealing, models, operator, difficulty = (
        read_fields(record, 12)
    )
    read_integer(version, FORMAT, FORMAT)
    issued_unix = read_integer(issued, 0, MAX_UNIX_TIME)
    descriptor = Descriptor(
        node_id=decode_node_id(read_octets(node_id, NODE_ID_BYTES, NODE_ID_BYTES)),
        # Bounding seq by the time of issue keeps a node from running it up to where nothing can follow.
        seq=read_integer(seq, 0, (issued_unix + SEQ_SLACK_S) * 1000),
        issued_unix=issued_unix,
        ttl_s=read_integer(ttl, MIN_TTL_S, MAX_TTL_S),
        addresses=_distinct(addresses, MAX_ADDRESSES, _read_address),
        roles=_read_roles(roles),
        onion_keys=_read_keys(onion),
        sealing_keys=_read_keys(sealing),
        models=_distinct(models, MAX_MODELS, _read_offer),
        operator="" if operator == "" else _matching(operator, _PRINTABLE, MAX_OPERATOR_BYTES),
        difficulty=read_integer(difficulty, 0, MAX_DIFFICULTY),
    )
    _check_roles(descriptor)
    return descriptor


def _check_roles(descriptor: Descriptor) -> None:
    if Role.RELAY in descriptor.roles and not descriptor.onion_keys:
        raise DecodeError("descriptor: a relay without an onion key")
    if Role.MODEL in descriptor.roles and not descriptor.sealing_keys:
        raise DecodeError("descriptor: a model node without a sealing key")
    if descriptor.models and Role.MODEL not in descriptor.roles:
        raise DecodeError("descriptor: models at a node that is no model node")


def _read_roles(value: object) -> frozenset[Role]:
    bits = read_integer(value, 0, sum(_ROLE_BITS.values()))
    return frozenset(role for role, bit in _ROLE_BITS.items() if bits & bit)


def _distinct(value: object, max_length: int, read: Callable[[object], _T]) -> tuple[_T, ...]:
    items = tuple(read(item) for item in read_array(value, max_length))
    if len(set(items)) != len(items):
        raise DecodeError("descriptor: the same item twice")
    return items


def _read_keys(value: object) -> tuple[EpochKey, ...]:
    keys = tuple(_read_key(item) for item in read_array(value, MAX_KEYS))
    if any(later.epoch <= earlier.epoch for earlier, later in pairwise(keys)):
        raise DecodeError("descriptor: keys not in the order of their epochs")
    return keys


def _read_key(value: object) -> EpochKey:
    epoch, public = read_fields(value, 2)
    octets = read_octets(public, PUBLIC_KEY_BYTES, PUBLIC_KEY_BYTES)
    if is_low_order(octets):
        # Nothing can be sealed to it: a client would find out only with a prompt in its hand.
        raise DecodeError("descriptor: a key of low order")
    return EpochKey(read_integer(epoch, 0, (1 << 32) - 1), octets)


def _read_offer(value: object) -> ModelOffer:
    model_id, alias, numerics_class, context_tokens = read_fields(value, 4)
    return ModelOffer(
        ModelId(_matching(model_id, _MODEL_ID, 42)),
        _matching(alias, _NAME, MAX_ALIAS_BYTES),
        _matching(numerics_class, _NAME, MAX_NUMERICS_BYTES),
        read_integer(context_tokens, 1, MAX_CONTEXT_TOKENS),
    )


def _read_address(value: object) -> str:
    return _matching(value, _PRINTABLE, MAX_ADDRESS_BYTES)


def _matching(value: object, pattern: re.Pattern[str], max_bytes: int) -> str:
    text = read_text(value, 1, max_bytes)
    if pattern.fullmatch(text) is None:
        raise DecodeError("descriptor: a text with characters that don't belong there")
    return text
