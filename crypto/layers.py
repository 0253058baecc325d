"""The layers of a built circuit: what a client wraps and each relay peels, and back (docs/spec/onion.md).

Theory of operation. Both ends of a hop hold the same DataKeys. No counter and no id travels: the n-th cell of
a direction uses the n-th nonce and the n-th stretch of each key stream, and links keep the order. One lost,
repeated or changed cell therefore breaks the circuit at the next honest hop, which is wanted; the caller
destroys it.

Outbound, a body is `tag 16 | ciphertext 1000` under the hop's `forward` key. The hop opens it to 1000 bytes
and appends 16 bytes of its `padding` stream, so that the next body has the same size and nothing in it
recurs. Those 16 bytes are covered by the next hop's tag, so the client works out beforehand what they will be
(the filler of Sphinx, Danezis and Goldberg 2009): hop h finds a filler of 16(h-1) bytes at the end of its
ciphertext.

Inbound, the last hop seals 1000 bytes under its `backward` key; every earlier hop XORs its `backward` key
stream over the whole body. The client removes the streams and opens.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from crypto.aead import TAG_BYTES, AeadKey, counter_nonce, key_stream
from crypto.errors import DecodeError
from crypto.kdf import derive

CELL_BODY_BYTES = 1016
SEALED_CONTENT_BYTES = CELL_BODY_BYTES - TAG_BYTES
MAX_HOPS = 3
CONTENT_BYTES = SEALED_CONTENT_BYTES - TAG_BYTES * (MAX_HOPS - 1)
INBOUND_CONTENT_BYTES = SEALED_CONTENT_BYTES
MESSAGE_ID_BYTES = 8
REPLY_TOKEN_BYTES = 16

_DATA_SALT = b"clove-onion/1|data"
_REPLY_LABEL = b"clove-onion/1|reply"
_PAD = bytes(TAG_BYTES)
_ZEROS = bytes(SEALED_CONTENT_BYTES)


@dataclass(frozen=True, slots=True, repr=False)
class DataKeys:
    """The keys that a client and one hop share once the circuit is built; 32 bytes each.

    `backward` is an AEAD key at the last hop and an AES-CTR key at the others; a hop's role never changes.
    """

    forward: bytes
    padding: bytes
    backward: bytes
    confirmation: bytes
    reply: bytes


def derive_data_keys(secrets: bytes, transcript: bytes) -> DataKeys:
    """From both shared secrets and `id | B | X | Y`."""
    keys = derive(secrets, transcript, length=160, salt=_DATA_SALT)
    return DataKeys(keys[:32], keys[32:64], keys[64:96], keys[96:128], keys[128:])


class RelayLayer:
    """A relay's state for one circuit. One object per circuit: it keeps the ciphers and their positions."""

    __slots__ = (
        "_backward_seal",
        "_backward_stream",
        "_built_key",
        "_forward",
        "_padding",
        "_peeled",
        "_reply_key",
        "_sealed",
        "is_last",
    )

    def __init__(self, keys: DataKeys, built_key: bytes, *, is_last: bool) -> None:
        self.is_last = is_last
        self._built_key: bytes | None = built_key
        self._forward = AeadKey(keys.forward)
        self._padding = None if is_last else key_stream(keys.padding)
        self._backward_stream = None if is_last else key_stream(keys.backward)
        self._backward_seal = AeadKey(keys.backward) if is_last else None
        self._reply_key = keys.reply
        self._peeled = 0
        self._sealed = 0

    def wrap_built(self, body: bytes) -> bytes:
        """Hides a BUILT body on its way inward; works once, a second call raises ValueError."""
        _check_length(body, CELL_BODY_BYTES)
        if self._built_key is None:
            raise ValueError("a circuit is built once")
        stream, self._built_key = key_stream(self._built_key), None
        return stream.update(body)

    def peel(self, body: bytes) -> bytes:
        """One layer off an outbound cell: the next body at a middle hop, the content (968 bytes) at the last.

        Raises AuthenticationError where the cell was changed, repeated or lost before it; destroy the circuit
        then.
        """
        _check_length(body, CELL_BODY_BYTES)
        opened = self._forward.open(counter_nonce(self._peeled), body[TAG_BYTES:] + body[:TAG_BYTES])
        self._peeled += 1
        if self._padding is None:
            return opened[:CONTENT_BYTES]
        return opened + self._padding.update(_PAD)

    def wrap(self, body: bytes) -> bytes:
        """A layer onto an inbound cell that came from the next hop. Only a hop that isn't the last may."""
        _check_length(body, CELL_BODY_BYTES)
        if self._backward_stream is None:
            raise ValueError("the last hop seals content, it has no body to wrap")
        return self._backward_stream.update(body)

    def seal(self, content: bytes) -> bytes:
        """The innermost layer around inbound content of exactly 1000 bytes. Only the last hop may."""
        _check_length(content, INBOUND_CONTENT_BYTES)
        if self._backward_seal is None:
            raise ValueError("only the last hop of a circuit seals content")
        sealed = self._backward_seal.seal(counter_nonce(self._sealed), content)
        self._sealed += 1
        return sealed[-TAG_BYTES:] + sealed[:-TAG_BYTES]

    def reply_token(self, message_id: bytes) -> bytes:
        """See `ClientLayers.reply_token`; both sides of a circuit come to the same 16 bytes."""
        return _reply_token(self._reply_key, message_id)

    def __repr__(self) -> str:
        return f"RelayLayer(is_last={self.is_last}, keys not shown)"


class ClientLayers:
    """The client's state for one circuit, all hops of it."""

    __slots__ = (
        "_backward_open",
        "_backward_streams",
        "_forwards",
        "_opened",
        "_paddings",
        "_reply_key",
        "_wrapped",
    )

    def __init__(self, hops: Sequence[DataKeys]) -> None:
        if not 1 <= len(hops) <= MAX_HOPS:
            raise ValueError(f"a circuit has 1 to {MAX_HOPS} hops, not {len(hops)}")
        *middle, last = hops
        self._forwards = tuple(AeadKey(keys.forward) for keys in hops)
        self._paddings = tuple(key_stream(keys.padding) for keys in middle)
        self._backward_streams = tuple(key_stream(keys.backward) for keys in middle)
        self._backward_open = AeadKey(last.backward)
        self._reply_key = last.reply
        self._wrapped = 0
        self._opened = 0

    @property
    def hop_count(self) -> int:
        """How many relays the circuit has."""
        return len(self._forwards)

    def wrap(self, content: bytes) -> bytes:
        """The body of the next outbound cell around `content`, which has exactly 968 bytes."""
        _check_length(content, CONTENT_BYTES)
        nonce = counter_nonce(self._wrapped)
        self._wrapped += 1
        filler = b""
        for forward, padding in zip(self._forwards, self._paddings, strict=False):
            # The hop decrypts the filler that it finds, then appends its own 16 bytes. Sealing zeros shows
            # the AEAD's key stream; it stays here, so the nonce is still used for one message only.
            if filler:
                filler = _xor(filler, _stream_tail(forward.seal(nonce, _ZEROS), len(filler)))
            filler += padding.update(_PAD)
        last = self._forwards[-1]
        if filler:
            filler = _xor(filler, _stream_tail(last.seal(nonce, _ZEROS), len(filler)))
        opened = content + _ZEROS[: SEALED_CONTENT_BYTES - CONTENT_BYTES - len(filler)] + filler
        for forward in reversed(self._forwards):
            sealed = forward.seal(nonce, opened)
            body = sealed[-TAG_BYTES:] + sealed[:-TAG_BYTES]
            opened = body[:-TAG_BYTES]
        return body

    def peel(self, body: bytes) -> bytes:
        """The content (1000 bytes) of the next inbound cell, all layers removed.

        Raises AuthenticationError where any hop changed, repeated or lost one; destroy the circuit then.
        """
        _check_length(body, CELL_BODY_BYTES)
        for stream in self._backward_streams:
            body = stream.update(body)
        content = self._backward_open.open(counter_nonce(self._opened), body[TAG_BYTES:] + body[:TAG_BYTES])
        self._opened += 1
        return content

    def reply_token(self, message_id: bytes) -> bytes:
        """What a model node shows to the proxy so that an answer to this message finds the circuit; 16 bytes.

        It comes from a secret of the circuit's last hop, so it never travels on the circuit, and tokens of
        two messages can't be linked by who sees them.
        """
        return _reply_token(self._reply_key, message_id)

    def __repr__(self) -> str:
        return f"ClientLayers({self.hop_count} hops, keys not shown)"


def _check_length(data: bytes, expected: int) -> None:
    if len(data) != expected:
        raise DecodeError(f"expected {expected} bytes, not {len(data)}")


def _stream_tail(sealed_zeros: bytes, length: int) -> bytes:
    return sealed_zeros[SEALED_CONTENT_BYTES - length : SEALED_CONTENT_BYTES]


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(len(left), "big")


def _reply_token(key: bytes, message_id: bytes) -> bytes:
    _check_length(message_id, MESSAGE_ID_BYTES)
    return hmac.digest(key, _REPLY_LABEL + message_id, "sha256")[:REPLY_TOKEN_BYTES]
