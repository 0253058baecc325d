"""Every fuzz target of control messages and addresses, run over hypothesis' bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.wire.messages import CloveDelivered, DescriptorsGiven, DirectoryIndex, Hello, encode_message
from tests.fuzz import fuzz_messages

FRAMES = [
    encode_message(message)
    for message in (
        Hello(1, b"net", 0, 1),
        CloveDelivered(bytes(16), b"sealed"),
        DirectoryIndex(((bytes(32), 1),)),
        DescriptorsGiven((b"one", b"two")),
    )
]
ADDRESSES = [b"/ip4/203.0.113.7/tcp/4001", b"/ip6/::1/tcp/1/p2p/12D3KooW", b"/dns/example.org/tcp/80"]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(FRAMES + [frame[4:] for frame in FRAMES] + ADDRESSES)))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@pytest.mark.parametrize(
    "target", [fuzz_messages.fuzz_message, fuzz_messages.fuzz_stream, fuzz_messages.fuzz_address]
)
@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=300) | damaged())
def test_target_holds(target, data):
    target(data)
