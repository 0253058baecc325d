"""The receipt: what a model node signs with every answer, so that anyone with the weights can replay it.

`node id 32 | signature 64 | body` (`docs/spec/receipt.md`); what is signed is the node id and the body. It
names no user, and its commitment to the prompt is blinded by a secret of the user's: whoever holds a
receipt alone can't test guesses of the prompt. There is exactly one encoding of each value. About 0.3 KB
and 24 bytes a token; an answer that can't be replayed has no tokens in it, but what the node states of it
(`verify.stated`).
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Literal, cast

from crypto.checkable import Signed
from crypto.errors import DecodeError
from crypto.identity import NODE_ID_BYTES, SIGNATURE_BYTES, IdentityKey, decode_node_id
from overlay.errors import LocalProtocolError
from overlay.wire.answer_terms import (
    UPSTREAM,
    SamplerTerms,
    read_model_id,
    read_numerics_class,
    read_sampler_terms,
)
from overlay.wire.limits import MAX_UNIX_TIME
from overlay.wire.prompt import ModelId
from overlay.wire.records import (
    pack_record,
    read_fields,
    read_integer,
    read_octets,
    read_token_ids,
    unpack_record,
)
from verify.fingerprint import FINGERPRINT_BYTES, decode_fingerprint
from verify.stated import MAX_STATED_TOKENS, StatedAnswer

FORMAT = 3
CONTEXT = b"clove-receipt/1"
NONCE_BYTES = 32
COMMITMENT_BYTES = 32
BLINDING_BYTES = 32
MAX_OUTPUT_TOKENS = 1 << 15
MAX_PROMPT_TOKENS = 1 << 24
MAX_RECEIPT_BYTES = 1024 + MAX_OUTPUT_TOKENS * (4 + 2 + FINGERPRINT_BYTES)
_LOWEST_LOGPROB = -65504.0
_PREFIX_BYTES = NODE_ID_BYTES + SIGNATURE_BYTES
_U32_MAX = (1 << 32) - 1
_U64_MAX = (1 << 64) - 1
_COMMITMENT_LABEL = b"clove-receipt/1"
_REASONS: tuple[Literal["stop", "length"], ...] = ("stop", "length")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """An account of one answer.

    nonce: the client's, 32 bytes. commitment: `commit_prompt` of the prompt's ids, or with stated
    `commit_prompt_text`. serial: never used twice
    by a node; two receipts with one serial prove that it lied. output_ids: every sampled token, an end
    token too. logprobs: natural, at temperature 1, rounded to fp16. fingerprints: 18 bytes each
    (`verify.fingerprint`). cached_tokens: how many of the prompt's tokens were not computed afresh. stated: all that
    there is of an answer of the class `upstream`, in the place of ids; None for every other class. given: so many of
    the first ids came with the prompt, begun by another node; logprobs and fingerprints are of the others.
    """

    model_id: ModelId
    numerics_class: str
    sampler: SamplerTerms
    nonce: bytes
    commitment: bytes
    serial: int
    output_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    fingerprints: tuple[bytes, ...]
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    cached_tokens: int
    issued_unix: int
    stated: StatedAnswer | None = None
    given: int = 0


def commit_prompt(prompt_ids: Sequence[int], blinding: bytes) -> bytes:
    """The blinded commitment to a prompt: 32 bytes of BLAKE2b, keyed by the blinding, over u32 LE ids."""
    if len(blinding) != BLINDING_BYTES:
        raise ValueError(f"a blinding has {BLINDING_BYTES} bytes")
    packed = struct.pack(f"<{len(prompt_ids)}I", *prompt_ids)
    return hashlib.blake2b(
        packed, digest_size=COMMITMENT_BYTES, key=blinding, person=_COMMITMENT_LABEL
    ).digest()


def round_logprob(logprob: float) -> float:
    """A log-probability as receipts carry it: fp16, no lower than fp16 goes, never above 0."""
    return cast("float", struct.unpack("<e", struct.pack("<e", min(0.0, max(_LOWEST_LOGPROB, logprob))))[0])


def sign_receipt(key: IdentityKey, receipt: Receipt) -> bytes:
    """Encodes and signs. Raises LocalProtocolError if a value is out of bounds."""
    try:
        body = _encode_body(receipt)
        data = key.node_id + key.sign(CONTEXT, key.node_id + body) + body
        decode_receipt(data)
    except (DecodeError, struct.error, OverflowError, TypeError) as error:
        raise LocalProtocolError(f"this receipt can't be issued: {error}") from error
    return data


def decode_receipt(data: bytes) -> Signed[Receipt]:
    """Reads a receipt; the signature is still to be checked. Raises DecodeError and nothing else."""
    if not _PREFIX_BYTES < len(data) <= MAX_RECEIPT_BYTES:
        raise DecodeError("receipt: wrong length")
    signer = decode_node_id(data[:NODE_ID_BYTES])
    body = data[_PREFIX_BYTES:]
    receipt = _read_body(unpack_record(body))
    if _encode_body(receipt) != body:
        raise DecodeError("receipt: not the canonical encoding")
    return Signed(receipt, signer, CONTEXT, signer + body, data[NODE_ID_BYTES:_PREFIX_BYTES])


def _encode_body(receipt: Receipt) -> bytes:
    count = len(receipt.output_ids)
    stated = receipt.stated
    return pack_record(
        (
            FORMAT,
            receipt.model_id,
            receipt.numerics_class,
            astuple(receipt.sampler),
            receipt.nonce,
            receipt.commitment,
            receipt.serial,
            _REASONS.index(receipt.finish_reason),
            receipt.prompt_tokens,
            receipt.cached_tokens,
            receipt.issued_unix,
            struct.pack(f"<{count}I", *receipt.output_ids),
            struct.pack(f"<{len(receipt.logprobs)}e", *receipt.logprobs),
            b"".join(receipt.fingerprints),
            () if stated is None else (stated.tokens, stated.text_commitment),
            receipt.given,
        )
    )


def _read_body(record: list[object]) -> Receipt:
    elements = read_fields(record, 16)
    version, model_id, numerics, sampler, nonce, commitment, serial = elements[:7]
    reason, prompt_tokens, cached_tokens, issued, ids, logprobs, fingerprints, stated, given_ids = elements[
        7:
    ]
    read_integer(version, FORMAT, FORMAT)
    output_ids = read_token_ids(ids, MAX_OUTPUT_TOKENS)
    given = read_integer(given_ids, 0, len(output_ids))
    own = len(output_ids) - given
    prompt_count = read_integer(prompt_tokens, 0, MAX_PROMPT_TOKENS)
    receipt = Receipt(
        model_id=read_model_id(model_id),
        numerics_class=read_numerics_class(numerics),
        sampler=read_sampler_terms(sampler),
        nonce=read_octets(nonce, NONCE_BYTES, NONCE_BYTES),
        commitment=read_octets(commitment, COMMITMENT_BYTES, COMMITMENT_BYTES),
        serial=read_integer(serial, 0, _U64_MAX),
        output_ids=output_ids,
        logprobs=_read_logprobs(logprobs, own),
        fingerprints=_read_fingerprints(fingerprints, own),
        finish_reason=_REASONS[read_integer(reason, 0, len(_REASONS) - 1)],
        prompt_tokens=prompt_count,
        cached_tokens=read_integer(cached_tokens, 0, prompt_count),
        issued_unix=read_integer(issued, 0, MAX_UNIX_TIME),
        stated=_read_stated(stated),
        given=given,
    )
    _check_class(receipt)
    return receipt


def _check_class(receipt: Receipt) -> None:
    """A node must not be able to pass an answer that nobody can replay for one that has merely no tokens."""
    if (receipt.numerics_class == UPSTREAM) != (receipt.stated is not None):
        raise DecodeError("receipt: an answer is stated for the class upstream, and for no other")
    if receipt.stated is not None and receipt.output_ids:
        raise DecodeError("receipt: an answer is stated or has ids, not both")


def _read_stated(value: object) -> StatedAnswer | None:
    if value == []:
        return None
    tokens, commitment = read_fields(value, 2)
    return StatedAnswer(
        read_integer(tokens, 0, MAX_STATED_TOKENS),
        read_octets(commitment, COMMITMENT_BYTES, COMMITMENT_BYTES),
    )


def _read_logprobs(value: object, count: int) -> tuple[float, ...]:
    packed = read_octets(value, 2 * count, 2 * count)
    logprobs = struct.unpack(f"<{count}e", packed)
    if not all(_LOWEST_LOGPROB <= logprob <= 0.0 for logprob in logprobs):
        raise DecodeError("receipt: a log-probability out of range")
    return logprobs


def _read_fingerprints(value: object, count: int) -> tuple[bytes, ...]:
    packed = read_octets(value, FINGERPRINT_BYTES * count, FINGERPRINT_BYTES * count)
    found = tuple(packed[at : at + FINGERPRINT_BYTES] for at in range(0, len(packed), FINGERPRINT_BYTES))
    for fingerprint in found:
        decode_fingerprint(fingerprint)
    return found
