"""Every fuzz target of model groups, run over hypothesis' bytes and damaged honest ones."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.wire.group import Known, LoadReport
from overlay.wire.group_codec import sign_load
from overlay.wire.group_messages import GroupNews, GroupVector
from overlay.wire.messages import encode_message
from tests.fuzz import fuzz_groups
from tests.support.groups import GROUP, IDLE, SPEED, Member

_ALICE = Member("alice")
_ENTRY = _ALICE.entry(3, stored=(b"block  1",), evicted=(b"block  2",))
_LOAD = sign_load(_ALICE.key.sign, GROUP, LoadReport(_ALICE.node_id, 1, 2, SPEED, IDLE))
_KNOWN = {_ALICE.node_id[:8]: Known(1, 2)}
SEEDS = [
    _ENTRY,
    _LOAD,
    _ENTRY[64:],
    _LOAD[64:],
    encode_message(GroupVector(GROUP, _KNOWN, _KNOWN, is_reply=False))[4:],
    encode_message(GroupNews(GROUP, (_ENTRY,), (_LOAD,)))[4:],
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@pytest.mark.parametrize(
    "target",
    [
        fuzz_groups.fuzz_group_blob,
        fuzz_groups.fuzz_signed_entry,
        fuzz_groups.fuzz_signed_load,
        fuzz_groups.fuzz_group_machine,
    ],
)
@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=300) | damaged())
def test_target_holds(target, data):
    target(data)
