import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from node.engine.quantise import quantise_rows

WEIGHTS = arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=st.floats(-100, 100, width=32)
)


@given(WEIGHTS)
def test_a_weight_is_off_by_half_a_step_at_most(weights):
    integers, scales = quantise_rows(weights)
    assert integers.dtype == np.int8
    assert np.abs(integers.astype(int)).max() <= 127
    step = scales[:, None]
    assert (np.abs(integers * step - weights) <= step * 0.5001 + 1e-30).all()


def test_a_row_of_zeros_stays_one():
    integers, scales = quantise_rows(np.zeros((2, 3), np.float32))
    assert not integers.any()
    assert scales.tolist() == [1.0, 1.0]


def test_the_greatest_weight_of_a_row_is_kept():
    weights = np.array([[0.5, -2.0, 1.0]], np.float32)
    integers, scales = quantise_rows(weights)
    assert integers.tolist() == [[32, -127, 64]]
    assert scales[0] * 127 == 2.0
