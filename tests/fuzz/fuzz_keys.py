"""Fuzz targets for keys, signatures and sealed messages from outside."""

from contextlib import suppress

from crypto.errors import AuthenticationError, DecodeError
from crypto.exchange import OnionKey
from crypto.identity import IdentityKey, NodeId, check_signature, decode_node_id
from crypto.sealed import SealingKey, SealingPublicKey, seal, unseal

_identity = IdentityKey.from_seed(b"f" * 32)
_onion_key = OnionKey.from_bytes(b"f" * 32)
_sealing_key = SealingKey.from_bytes(b"f" * 32)


def fuzz_node_id(data: bytes) -> None:
    """A node id is read as it is or refused."""
    with suppress(DecodeError):
        assert decode_node_id(data) == data


def fuzz_signature(data: bytes) -> None:
    """Nobody signs for a node but itself; a key that is no key signs nothing."""
    with suppress(AuthenticationError):
        check_signature(_identity.node_id, b"fuzz", data[64:], data[:64])
        raise AssertionError("a forged signature was believed")
    with suppress(AuthenticationError):
        check_signature(NodeId(data[:32]), b"fuzz", data[96:], data[32:96])
        raise AssertionError("a forged signature was believed")


def fuzz_sealed(data: bytes) -> None:
    """Nothing opens that wasn't sealed."""
    with suppress(DecodeError, AuthenticationError):
        unseal(_sealing_key, data, info=b"fuzz")
        raise AssertionError("a forged message was opened")


def fuzz_public_keys(data: bytes) -> None:
    """Any bytes as an X25519 key: a secret that isn't zero, or an error of ours."""
    with suppress(AuthenticationError):
        assert any(_onion_key.agree(data))
    with suppress(AuthenticationError):
        seal(SealingPublicKey(data), b"hello", info=b"fuzz")


def fuzz_secret_keys(data: bytes) -> None:
    """Key files hold 32 bytes or are refused."""
    for read in (IdentityKey.from_seed, OnionKey.from_bytes, SealingKey.from_bytes):
        with suppress(DecodeError):
            read(data)
