"""Fuzz targets for receipts, fingerprints and the records that users keep."""

from contextlib import suppress

from crypto.errors import CryptoError, DecodeError
from overlay.wire import checkpoint
from tests.support.descriptors import fixed_key
from verify.fingerprint import distance
from verify.receipt import CONTEXT, decode_receipt, sign_receipt
from verify.record_codec import decode_record, encode_record

_BOB = fixed_key("bob")


def fuzz_receipt(data: bytes) -> None:
    """Bytes are one receipt or malformed; what nobody signed is never used."""
    with suppress(CryptoError):
        decode_receipt(data).check()


def fuzz_signed_receipt(data: bytes) -> None:
    """A body that its node did sign has one encoding, or is malformed."""
    blob = _BOB.node_id + _BOB.sign(CONTEXT, _BOB.node_id + data) + data
    with suppress(CryptoError):
        assert sign_receipt(_BOB, decode_receipt(blob).check()) == blob


def fuzz_checkpoint(data: bytes) -> None:
    """Bytes are one checkpoint or malformed; a body that its node did sign has one encoding."""
    with suppress(CryptoError):
        checkpoint.decode_checkpoint(data).check()
    blob = _BOB.node_id + _BOB.sign(checkpoint.CONTEXT, _BOB.node_id + data) + data
    with suppress(CryptoError):
        assert checkpoint.sign_checkpoint(_BOB, checkpoint.decode_checkpoint(blob).check()) == blob


def fuzz_fingerprint(data: bytes) -> None:
    """Two fingerprints have a distance, which is never negative, or are malformed."""
    with suppress(DecodeError):
        assert distance(data[:18], data[18:]) >= 0


def fuzz_record(data: bytes) -> None:
    """A file is a record, which survives another round, or malformed."""
    with suppress(DecodeError):
        record = decode_record(data)
        assert decode_record(encode_record(record)) == record
