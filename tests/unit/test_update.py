import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import DecodeError
from overlay.errors import LocalProtocolError
from overlay.wire.limits import FIRST_FRAGMENT_BYTES
from overlay.wire.update import UPDATE_BYTES, Update, decode_update, encode_update
from tests.support.answers import a_request, updates


@given(updates)
def test_an_update_survives_the_codec_and_always_has_one_size(update):
    data = encode_update(update)
    assert decode_update(data) == update
    assert len(data) == UPDATE_BYTES


@given(st.binary(max_size=600) | st.binary(min_size=UPDATE_BYTES, max_size=UPDATE_BYTES))
def test_decoder_raises_only_decode_error_on_noise(data):
    with pytest.raises(DecodeError):
        decode_update(data)


@given(updates, st.data())
def test_decoder_raises_only_decode_error_on_damage(update, data):
    encoded = bytearray(encode_update(update))
    encoded[data.draw(st.integers(0, UPDATE_BYTES - 1))] ^= data.draw(st.integers(1, 255))
    try:
        changed = decode_update(bytes(encoded))
    except DecodeError:
        return
    assert changed != update


def test_a_sealed_update_fits_one_cell():
    (envelope,) = a_request(n=8).update(0, copies=1)
    assert len(envelope) <= FIRST_FRAGMENT_BYTES


@pytest.mark.parametrize("change", [{"have": -1}, {"have": 2**32}, {"paths": (None,)}])
def test_an_update_out_of_bounds_is_never_sent(change):
    if change.get("paths"):
        path = a_request().current_update(0).paths[0]
        change = {"paths": (dataclasses.replace(path, number=1 << 16),)}
    with pytest.raises(LocalProtocolError):
        encode_update(Update(**{"have": 0, **change}))
