"""Signatures hold for one key, one purpose and one message, and only honest keys count."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import AuthenticationError, DecodeError
from crypto.identity import IdentityKey, NodeId, check_signature, decode_node_id

alice = IdentityKey.from_seed(bytes(range(32)))
bob = IdentityKey.from_seed(bytes(range(1, 33)))

GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
FIELD_PRIME = 2**255 - 19
ORDER_EIGHT = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
SMALL_ORDER_KEYS = [
    bytes(32),
    (1).to_bytes(32, "little"),
    (FIELD_PRIME - 1).to_bytes(32, "little"),
    FIELD_PRIME.to_bytes(32, "little"),
    (FIELD_PRIME + 1).to_bytes(32, "little"),
    bytes.fromhex(ORDER_EIGHT),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
]


def with_sign_bit(key: bytes) -> bytes:
    return key[:31] + bytes([key[31] | 0x80])


def test_same_seed_gives_same_node():
    assert IdentityKey.from_seed(alice.seed).node_id == alice.node_id


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_seed_of_another_length_is_refused(length):
    with pytest.raises(DecodeError):
        IdentityKey.from_seed(bytes(length))


@given(message=st.binary(max_size=200), context=st.binary(min_size=1, max_size=255))
@settings(deadline=None)
def test_signature_holds_for_its_message_and_context(message, context):
    check_signature(alice.node_id, context, message, alice.sign(context, message))


def test_signature_does_not_hold_for_another_context():
    signature = alice.sign(b"descriptor", b"hello")
    with pytest.raises(AuthenticationError):
        check_signature(alice.node_id, b"receipt", b"hello", signature)


def test_context_and_message_can_not_trade_bytes():
    signature = alice.sign(b"ab", b"c")
    with pytest.raises(AuthenticationError):
        check_signature(alice.node_id, b"a", b"bc", signature)


def test_signature_does_not_hold_for_another_node():
    with pytest.raises(AuthenticationError):
        check_signature(bob.node_id, b"x", b"hello", alice.sign(b"x", b"hello"))


@given(bit=st.integers(0, 64 * 8 - 1))
@settings(deadline=None)
def test_signature_with_any_bit_changed_does_not_hold(bit):
    signature = bytearray(alice.sign(b"x", b"hello"))
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(AuthenticationError):
        check_signature(alice.node_id, b"x", b"hello", bytes(signature))


@pytest.mark.parametrize("length", [0, 63, 65])
def test_signature_of_another_length_does_not_hold(length):
    signature = (alice.sign(b"x", b"hello") + b"\0")[:length]
    with pytest.raises(AuthenticationError):
        check_signature(alice.node_id, b"x", b"hello", signature)


def test_signature_made_over_by_adding_the_group_order_does_not_hold():
    signature = alice.sign(b"x", b"hello")
    scalar = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    with pytest.raises(AuthenticationError):
        check_signature(alice.node_id, b"x", b"hello", signature[:32] + scalar.to_bytes(32, "little"))


@pytest.mark.parametrize("key", [*SMALL_ORDER_KEYS, *map(with_sign_bit, SMALL_ORDER_KEYS)])
def test_key_of_small_order_is_no_node_id(key):
    with pytest.raises(DecodeError):
        decode_node_id(key)
    # For the identity this signature fits every message, and a plain Ed25519 verifier takes it.
    with pytest.raises(AuthenticationError):
        check_signature(NodeId(key), b"x", b"anything", (1).to_bytes(32, "little") + bytes(32))


def test_honest_node_id_is_read():
    assert decode_node_id(bytes(alice.node_id)) == alice.node_id


@pytest.mark.parametrize("context", [b"", bytes(256)])
def test_context_must_fit_its_length_byte(context):
    with pytest.raises(ValueError, match="context"):
        alice.sign(context, b"hello")


def test_repr_does_not_show_the_seed():
    assert alice.seed.hex()[:8] not in repr(alice)
    assert alice.node_id.hex()[:16] in repr(alice)
