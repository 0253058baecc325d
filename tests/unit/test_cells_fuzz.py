"""Every fuzz target of cells and contents, run over hypothesis' bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import fuzz_cells
from tests.support.stapled import MODEL

seeds = st.binary(max_size=1024) | st.builds(
    lambda command, length, rest: bytes([command, 0]) + length.to_bytes(2, "big") + rest,
    st.integers(0, 8),
    st.integers(0, 996),
    st.sampled_from(
        [b"", b"message8", b"message8\0\0\0\1" + MODEL, b"message8\0\0\0\2" + MODEL + b"x" * 920]
    ),
)


@pytest.mark.parametrize(
    "target", [fuzz_cells.fuzz_cell, fuzz_cells.fuzz_content, fuzz_cells.fuzz_relay, fuzz_cells.fuzz_proxy]
)
@settings(max_examples=60, deadline=None)
@given(data=seeds)
def test_target_holds(target, data):
    target(data)
