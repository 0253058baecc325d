"""What is sealed to a model node opens there, for its purpose, and nowhere else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import AuthenticationError, DecodeError
from crypto.sealed import SEALED_OVERHEAD_BYTES, SealingKey, SealingPublicKey, seal, unseal
from tests.support.entropy import fixed_entropy
from tests.support.hpke_reference import hpke_open, hpke_seal

INFO = b"clove-seal/1|test"
alice = SealingKey.generate(fixed_entropy("alice"))
bob = SealingKey.generate(fixed_entropy("bob"))


@given(plaintext=st.binary(max_size=300), info=st.binary(max_size=60))
@settings(deadline=None, max_examples=50)
def test_sealed_message_opens_with_its_key_and_info(plaintext, info):
    sealed = seal(alice.public, plaintext, info=info)
    assert len(sealed) == len(plaintext) + SEALED_OVERHEAD_BYTES
    assert unseal(alice, sealed, info=info) == plaintext


def test_same_message_is_never_sealed_the_same_way():
    assert seal(alice.public, b"m", info=INFO) != seal(alice.public, b"m", info=INFO)


def test_sealed_message_does_not_open_for_another_node():
    with pytest.raises(AuthenticationError):
        unseal(bob, seal(alice.public, b"hello", info=INFO), info=INFO)


def test_sealed_message_does_not_open_for_another_purpose():
    with pytest.raises(AuthenticationError):
        unseal(alice, seal(alice.public, b"hello", info=INFO), info=INFO + b"2")


@given(bit=st.integers(0, (5 + SEALED_OVERHEAD_BYTES) * 8 - 1))
@settings(deadline=None)
def test_any_changed_bit_is_noticed(bit):
    sealed = bytearray(seal(alice.public, b"hello", info=INFO))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(AuthenticationError):
        unseal(alice, bytes(sealed), info=INFO)


@pytest.mark.parametrize("length", [0, 31, 47])
def test_too_short_a_message_is_malformed(length):
    with pytest.raises(DecodeError):
        unseal(alice, bytes(length), info=INFO)


@pytest.mark.parametrize("length", [48, 52])
def test_truncated_message_does_not_open(length):
    with pytest.raises(AuthenticationError):
        unseal(alice, seal(alice.public, b"hello", info=INFO)[:length], info=INFO)


def test_swapped_encapsulations_do_not_open():
    one, two = (seal(alice.public, message, info=INFO) for message in (b"one", b"two"))
    with pytest.raises(AuthenticationError):
        unseal(alice, one[:32] + two[32:], info=INFO)


def test_point_of_low_order_is_refused_on_both_sides():
    with pytest.raises(AuthenticationError):
        seal(SealingPublicKey(bytes(32)), b"hello", info=INFO)
    with pytest.raises(AuthenticationError):
        unseal(alice, bytes(32) + seal(alice.public, b"hello", info=INFO)[32:], info=INFO)


def test_it_is_the_hpke_of_rfc_9180():
    ephemeral = SealingKey.generate(fixed_entropy("ephemeral"))
    assert unseal(alice, hpke_seal(alice.public, b"hello", INFO, ephemeral.to_bytes()), info=INFO) == b"hello"
    assert hpke_open(alice.to_bytes(), seal(alice.public, b"hello", info=INFO), INFO) == b"hello"


def test_key_survives_the_store_and_does_not_show():
    assert SealingKey.from_bytes(alice.to_bytes()).public == alice.public
    assert alice.to_bytes().hex()[:16] not in repr(alice)
    with pytest.raises(DecodeError):
        SealingKey.from_bytes(bytes(31))
