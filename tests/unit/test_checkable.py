"""A value inside Signed or TimeBound can't be had before it is checked."""

import pytest

from crypto.checkable import Signed, TimeBound
from crypto.errors import AuthenticationError, ExpiredError
from crypto.identity import IdentityKey

alice = IdentityKey.from_seed(bytes(range(32)))
mallory = IdentityKey.from_seed(bytes(range(2, 34)))


def signed_by(key, *, signer, message=b"five"):
    return Signed(5, signer.node_id, b"number", message, key.sign(b"number", b"five"))


def test_signed_value_comes_out_when_the_signature_holds():
    assert signed_by(alice, signer=alice).check() == 5


def test_signed_value_of_another_signer_stays_in():
    with pytest.raises(AuthenticationError):
        signed_by(mallory, signer=alice).check()


def test_signed_value_with_another_message_stays_in():
    with pytest.raises(AuthenticationError):
        signed_by(alice, signer=alice, message=b"six").check()


def test_signer_can_be_read_before_the_check_but_the_value_can_not():
    signed = signed_by(alice, signer=alice)
    assert signed.signer == alice.node_id
    assert not hasattr(signed, "value")
    assert "5" not in repr(signed).replace(alice.node_id.hex()[:16], "")


@pytest.mark.parametrize("unix_time", [700, 1000, 1500, 2000, 2300])
def test_time_bound_value_comes_out_within_its_time_and_skew(unix_time):
    assert TimeBound("v", 1000, 2000).check(unix_time) == "v"


@pytest.mark.parametrize("unix_time", [0, 699.9, 2300.1, 9999])
def test_time_bound_value_stays_in_outside_its_time(unix_time):
    with pytest.raises(ExpiredError):
        TimeBound("v", 1000, 2000).check(unix_time)


def test_skew_is_the_callers_choice():
    with pytest.raises(ExpiredError):
        TimeBound("v", 1000, 2000).check(2001, skew_s=0)


def test_both_wrappers_compose():
    inner = TimeBound(7, 10, 20)
    signed = Signed(inner, alice.node_id, b"n", b"m", alice.sign(b"n", b"m"))
    assert signed.check().check(15) == 7
