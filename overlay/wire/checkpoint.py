"""The checkpoint: what a model node signs while it answers, so that its part is signed if it never ends.

`node id 32 | signature 64 | body` (`docs/spec/receipt.md`); what is signed is the node id and the body. It states what
a receipt does, in compact form: of the tokens only how many they are and their hash. Who has the tokens, the prompt and
its blinding can show anyone that the node chose them. There is exactly one encoding of each value; about 0.35 KB,
however long the answer is.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from crypto.checkable import Signed
from crypto.errors import DecodeError
from crypto.identity import NODE_ID_BYTES, SIGNATURE_BYTES, IdentityKey, decode_node_id
from overlay.errors import LocalProtocolError
from overlay.wire.answer_terms import (
    MAX_COMPLETION_TOKENS,
    UPSTREAM,
    SamplerTerms,
    read_model_id,
    read_numerics_class,
    read_sampler_terms,
)
from overlay.wire.limits import MAX_CHECKPOINT_BYTES, MAX_UNIX_TIME
from overlay.wire.prompt import ModelId
from overlay.wire.records import pack_record, read_fields, read_integer, read_octets, unpack_record

FORMAT = 1
CONTEXT = b"clove-checkpoint/1"
HASH_BYTES = 32
_PREFIX_BYTES = NODE_ID_BYTES + SIGNATURE_BYTES
_HASH_LABEL = b"clove-checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """An account of the first tokens of one answer.

    nonce and commitment as in the receipt, 32 bytes each. given: so many of the first tokens came with the prompt; the
    signer answers for the others. count: of all tokens so far, at least one of them its own. output_hash: of their ids
    (`OutputHash`).
    """

    model_id: ModelId
    numerics_class: str
    sampler: SamplerTerms
    nonce: bytes
    commitment: bytes
    given: int
    count: int
    output_hash: bytes
    issued_unix: int


class OutputHash:
    """The hash of an answer's tokens as they come: 32 bytes of BLAKE2b over their ids, u32 LE each."""

    __slots__ = ("_hash", "count")

    def __init__(self, ids: Sequence[int] = ()) -> None:
        self.count = 0
        self._hash = hashlib.blake2b(digest_size=HASH_BYTES, person=_HASH_LABEL)
        self.add(ids)

    def add(self, ids: Sequence[int]) -> None:
        """Take in the next tokens."""
        self._hash.update(struct.pack(f"<{len(ids)}I", *ids))
        self.count += len(ids)

    def digest(self) -> bytes:
        """The hash of all tokens so far."""
        return self._hash.digest()


def sign_checkpoint(key: IdentityKey, checkpoint: Checkpoint) -> bytes:
    """Encodes and signs. Raises LocalProtocolError if a value is out of bounds."""
    body = _encode_body(checkpoint)
    data = key.node_id + key.sign(CONTEXT, key.node_id + body) + body
    try:
        decode_checkpoint(data)
    except DecodeError as error:
        raise LocalProtocolError(f"this checkpoint can't be issued: {error}") from error
    return data


def decode_checkpoint(data: bytes) -> Signed[Checkpoint]:
    """Reads a checkpoint; the signature is still to be checked. Raises DecodeError and nothing else."""
    if not _PREFIX_BYTES < len(data) <= MAX_CHECKPOINT_BYTES:
        raise DecodeError("checkpoint: wrong length")
    signer = decode_node_id(data[:NODE_ID_BYTES])
    body = data[_PREFIX_BYTES:]
    checkpoint = _read_body(unpack_record(body))
    if _encode_body(checkpoint) != body:
        raise DecodeError("checkpoint: not the canonical encoding")
    return Signed(checkpoint, signer, CONTEXT, signer + body, data[NODE_ID_BYTES:_PREFIX_BYTES])


def _encode_body(checkpoint: Checkpoint) -> bytes:
    return pack_record(
        (
            FORMAT,
            checkpoint.model_id,
            checkpoint.numerics_class,
            astuple(checkpoint.sampler),
            checkpoint.nonce,
            checkpoint.commitment,
            checkpoint.given,
            checkpoint.count,
            checkpoint.output_hash,
            checkpoint.issued_unix,
        )
    )


def _read_body(record: list[object]) -> Checkpoint:
    elements = read_fields(record, 10)
    version, model_id, numerics, sampler, nonce, commitment, given, count, output_hash, issued = elements
    read_integer(version, FORMAT, FORMAT)
    total = read_integer(count, 1, MAX_COMPLETION_TOKENS)
    numerics_class = read_numerics_class(numerics)
    if numerics_class == UPSTREAM:
        raise DecodeError("checkpoint: of a class without token ids")
    return Checkpoint(
        model_id=read_model_id(model_id),
        numerics_class=numerics_class,
        sampler=read_sampler_terms(sampler),
        nonce=read_octets(nonce, 32, 32),
        commitment=read_octets(commitment, 32, 32),
        given=read_integer(given, 0, total - 1),
        count=total,
        output_hash=read_octets(output_hash, HASH_BYTES, HASH_BYTES),
        issued_unix=read_integer(issued, 0, MAX_UNIX_TIME),
    )
