"""A puzzle's solution counts for one relay, one epoch and one build."""

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.identity import NodeId
from crypto.puzzle import MAX_DIFFICULTY_BITS, check_puzzle, solve_puzzle
from tests.support.entropy import fixed_entropy

ALICE, BOB = NodeId(b"a" * 32), NodeId(b"b" * 32)
X = b"x" * 32


@given(difficulty=st.integers(0, 8), seed=st.text(max_size=4))
@settings(deadline=None, max_examples=30)
def test_solution_is_accepted(difficulty, seed):
    nonce = solve_puzzle(ALICE, 7, X, difficulty, entropy=fixed_entropy(seed))
    assert check_puzzle(ALICE, 7, X, nonce, difficulty)


def test_solution_is_what_the_specification_says():
    nonce = solve_puzzle(ALICE, 7, X, 12, entropy=fixed_entropy("spec"))
    digest = sha256(b"clove-pow" + ALICE + b"\0\0\0\x07" + X + nonce).hexdigest()
    assert digest.startswith("000")


def test_solution_counts_for_nothing_else():
    nonce = solve_puzzle(ALICE, 7, X, 14, entropy=fixed_entropy("elsewhere"))
    assert not check_puzzle(BOB, 7, X, nonce, 14)
    assert not check_puzzle(ALICE, 8, X, nonce, 14)
    assert not check_puzzle(ALICE, 7, b"y" * 32, nonce, 14)


def test_search_goes_on_past_the_largest_nonce():
    nonce = solve_puzzle(ALICE, 7, X, 4, entropy=lambda length: b"\xff" * length)
    assert check_puzzle(ALICE, 7, X, nonce, 4)


def test_every_nonce_solves_no_puzzle():
    assert check_puzzle(ALICE, 7, X, bytes(8), 0)


@pytest.mark.parametrize("difficulty", [-1, MAX_DIFFICULTY_BITS + 1, 255])
def test_difficulty_beyond_the_bound_is_refused(difficulty):
    with pytest.raises(ValueError, match="difficulty"):
        solve_puzzle(ALICE, 7, X, difficulty, entropy=fixed_entropy("hard"))
