"""Fuzz targets for descriptors and for the membership machine that takes them in."""

from contextlib import suppress

from crypto.errors import CryptoError, DecodeError
from overlay.protocol.effects import CloseLink
from overlay.protocol.membership import SendDirectoryMessage
from overlay.wire.descriptor import CONTEXT, decode_descriptor, sign_descriptor
from overlay.wire.messages import (
    DescriptorsGiven,
    DescriptorsWanted,
    DirectoryDigest,
    DirectoryIndex,
    decode_message,
)
from tests.support.descriptors import UNIX_TIME, fixed_key
from tests.support.mesh import Mesh

_ALICE, _MALLORY = fixed_key("alice"), fixed_key("mallory")


def fuzz_descriptor(data: bytes) -> None:
    """Bytes are one descriptor or malformed; what nobody signed is never used."""
    with suppress(CryptoError):
        decode_descriptor(data).check()


def fuzz_signed_descriptor(data: bytes) -> None:
    """A body that its node did sign has one encoding, or is malformed."""
    blob = _ALICE.sign(CONTEXT, data) + data
    with suppress(CryptoError):
        descriptor = decode_descriptor(blob).check().check(UNIX_TIME)
        assert sign_descriptor(_ALICE, descriptor) == blob


def fuzz_membership(data: bytes) -> None:
    """Whatever a neighbour says, nothing is stored that it did not prove, and it is answered in bounds."""
    mesh = Mesh("bob")
    bob = mesh.machine("bob")
    bob.link_opened(_MALLORY.node_id, mesh.now)
    with suppress(DecodeError):
        message = decode_message(data)
        if isinstance(message, DirectoryDigest | DirectoryIndex | DescriptorsWanted | DescriptorsGiven):
            outputs = bob.receive_message(_MALLORY.node_id, message, mesh.now, mesh.unix_time)
            assert len(outputs) <= 2
            assert all(isinstance(output, SendDirectoryMessage | CloseLink) for output in outputs)
    assert bob.descriptors == ()
