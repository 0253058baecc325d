import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import DecodeError
from crypto.identity import IdentityKey
from node.guard_record import decode_sample, encode_sample
from overlay.routing.guards import Guard, GuardSample

ALICE = IdentityKey.from_seed(bytes(32)).node_id


def test_sample_survives_being_kept():
    sample = GuardSample((Guard(ALICE, 5, 8), Guard(ALICE, 7, 9, 8)))
    assert decode_sample(encode_sample(sample)) == sample


@given(st.binary(max_size=200))
def test_any_bytes_are_a_sample_or_a_decode_error(data):
    with contextlib.suppress(DecodeError):
        decode_sample(data)


@pytest.mark.parametrize(
    "damaged", ["{}", "[1]", '[["00", 1, null]]', "[[1, 1, null]]", '[["zz", 1, null]]', "[[]]"]
)
def test_damaged_sample_is_a_decode_error(damaged):
    with pytest.raises(DecodeError):
        decode_sample(damaged.encode())
