"""The sampling noise: as specified, the same everywhere, and truly Gumbel."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.seeded import gumbel_noise, prompt_hash, token_seed
from docs.spec import make_sampling_vectors as vectors

CASES = json.loads(vectors.FILE.read_text())["noise"]
NONCE = bytes(range(32))
PROMPT = prompt_hash((1, 2, 3))


def test_file_is_what_the_script_makes():
    assert vectors.FILE.read_text() == vectors.make()


@pytest.mark.parametrize("case", CASES)
def test_vector(case):
    assert prompt_hash(case["prompt_ids"]).hex() == case["prompt_hash"]
    seed = token_seed(bytes.fromhex(case["nonce"]), prompt_hash(case["prompt_ids"]), case["position"])
    assert seed.hex() == case["seed"]
    noise = gumbel_noise(seed, case["token_ids"])
    assert [value * vectors.GRID for value in noise] == case["noise_2_24"]


def test_noise_belongs_to_the_token_and_not_to_its_rank():
    seed = token_seed(NONCE, PROMPT, 7)
    forward = dict(zip(range(64), gumbel_noise(seed, range(64)), strict=True))
    backward = dict(zip(range(63, -1, -1), gumbel_noise(seed, range(63, -1, -1)), strict=True))
    assert forward == backward


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_noise_is_finite_for_every_position_and_token(position, token):
    (noise,) = gumbel_noise(token_seed(NONCE, PROMPT, position), [token])
    assert -4 < noise < 37


def test_nonce_prompt_and_position_each_change_the_noise():
    seeds = {
        token_seed(NONCE, PROMPT, 0),
        token_seed(NONCE, PROMPT, 1),
        token_seed(bytes(32), PROMPT, 0),
        token_seed(NONCE, prompt_hash((1, 2)), 0),
    }
    assert len(seeds) == 4


def test_argmax_of_noisy_logits_draws_from_softmax():
    logits = [0.0, 1.0, 2.0]
    total = sum(map(math.exp, logits))
    counts = [0, 0, 0]
    draws = 6000
    for position in range(draws):
        noise = gumbel_noise(token_seed(NONCE, PROMPT, position), (10, 11, 12))
        counts[max(range(3), key=lambda i: logits[i] + noise[i])] += 1
    expected = [draws * math.exp(logit) / total for logit in logits]
    chi_squared = sum((got - want) ** 2 / want for got, want in zip(counts, expected, strict=True))
    assert chi_squared < 13.8  # two degrees of freedom, one in a thousand


@pytest.mark.parametrize(
    ("nonce", "hashed", "position"),
    [(b"", PROMPT, 0), (NONCE, b"", 0), (NONCE, PROMPT, -1), (NONCE, PROMPT, 2**32)],
)
def test_seed_of_ill_sized_values_is_refused(nonce, hashed, position):
    with pytest.raises(ValueError, match=r"32 bytes|u32"):
        token_seed(nonce, hashed, position)
