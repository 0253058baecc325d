"""AEAD keys, nonces and labelled derivation."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.aead import ONE_USE_NONCE, AeadKey, counter_nonce, key_stream
from crypto.errors import AuthenticationError
from crypto.exchange import OnionKey
from crypto.kdf import derive
from tests.support.low_order import LOW_ORDER_X25519


@given(plaintext=st.binary(max_size=100), aad=st.binary(max_size=40), bit=st.integers(0, 127))
@settings(deadline=None)
def test_sealed_bytes_open_unchanged_and_not_otherwise(plaintext, aad, bit):
    key = AeadKey(b"k" * 32)
    sealed = key.seal(ONE_USE_NONCE, plaintext, aad)
    assert key.open(ONE_USE_NONCE, sealed, aad) == plaintext
    changed = bytearray(sealed)
    changed[-1 - bit // 8] ^= 1 << bit % 8
    for nonce, data, bound in [
        (ONE_USE_NONCE, bytes(changed), aad),
        (ONE_USE_NONCE, sealed[:-1], aad),
        (ONE_USE_NONCE, b"", aad),
        (ONE_USE_NONCE, sealed, aad + b"x"),
        (counter_nonce(1), sealed, aad),
    ]:
        with pytest.raises(AuthenticationError):
            key.open(nonce, data, bound)


def test_counter_nonces_are_big_endian():
    assert counter_nonce(258) == bytes(10) + b"\x01\x02"


def test_key_stream_is_its_own_inverse_and_keeps_its_position():
    ours, theirs = key_stream(b"k" * 32), key_stream(b"k" * 32)
    assert theirs.update(ours.update(b"one")) == b"one"
    assert theirs.update(ours.update(b"two")) == b"two"


def test_derive_agrees_with_rfc_5869():
    okm = derive(bytes([0x0B] * 22), bytes(range(0xF0, 0xFA)), length=42, salt=bytes(range(13)))
    assert okm.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )


@pytest.mark.parametrize("public", LOW_ORDER_X25519)
def test_points_of_low_order_give_no_secret(public):
    with pytest.raises(AuthenticationError):
        OnionKey.from_bytes(b"s" * 32).agree(bytes.fromhex(public))


def test_no_repr_shows_a_key():
    secret = b"s" * 32
    assert secret.hex() not in repr(OnionKey.from_bytes(secret))
    assert "s" * 32 not in repr(AeadKey(secret))
