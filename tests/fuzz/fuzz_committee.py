"""Fuzz targets for what members of the committee send and keep."""

from contextlib import suppress

from crypto.errors import CryptoError, DecodeError
from tests.support.committee import genesis_of
from verify.committee.evidence import decode_equivocation, encode_equivocation
from verify.committee.genesis import decode_genesis, encode_genesis
from verify.committee.log import read_log
from verify.committee.message_codec import decode_message, encode_message
from verify.committee.messages import Certificate, Proposal, check_certificate, check_proposal

_GENESIS = genesis_of(4)


def fuzz_committee_message(data: bytes) -> None:
    """Bytes are one message, with one encoding, or malformed; what is forged fails its check and nothing else."""
    with suppress(CryptoError):
        message = decode_message(data)
        assert encode_message(message) == data
        if isinstance(message, Proposal):
            check_proposal(_GENESIS, message)
        elif isinstance(message, Certificate):
            check_certificate(_GENESIS, message)


def fuzz_equivocation(data: bytes) -> None:
    """A file is evidence, with one encoding, or it is not."""
    with suppress(CryptoError):
        assert encode_equivocation(_GENESIS, decode_equivocation(_GENESIS, data)) == data


def fuzz_genesis(data: bytes) -> None:
    """A file is a genesis, which survives another round, or malformed."""
    with suppress(DecodeError):
        genesis = decode_genesis(data)
        assert decode_genesis(encode_genesis(genesis).encode()) == genesis


def fuzz_log(data: bytes) -> None:
    """A log is read, whatever is in it; without a first record it is damaged."""
    read = read_log(data, _GENESIS, _GENESIS.members[0])
    assert read.standing is not None or read.damage
