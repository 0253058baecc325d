"""Every fuzz target of the room, run over hypothesis' bytes."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz import fuzz_clove, fuzz_keys, fuzz_onion

TARGETS = [
    fuzz_clove.fuzz_clove,
    fuzz_clove.fuzz_recover,
    fuzz_clove.fuzz_reassemble,
    fuzz_onion.fuzz_build,
    fuzz_onion.fuzz_build_changed,
    fuzz_onion.fuzz_built,
    fuzz_onion.fuzz_outbound_cell,
    fuzz_onion.fuzz_inbound_cell,
    fuzz_keys.fuzz_node_id,
    fuzz_keys.fuzz_signature,
    fuzz_keys.fuzz_sealed,
    fuzz_keys.fuzz_public_keys,
    fuzz_keys.fuzz_secret_keys,
]
lengths = st.sampled_from([32, 48, 64, 88, 96, 104, 128, 1016])
data = st.one_of(st.binary(max_size=1200), lengths.flatmap(lambda n: st.binary(min_size=n, max_size=n)))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_only_our_errors_escape(target):
    @settings(deadline=None, max_examples=60)
    @example(b"")
    @example(bytes(32))
    @example(bytes(1016))
    @example(b"\x01\x02\x04\x00" + bytes(96))
    @given(data)
    def run(data):
        target(data)

    run()
