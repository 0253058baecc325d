"""Seeded choice among candidates, and the margin by which an auditor judges it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docs.spec import make_sampling_vectors as vectors
from node.engine.sampler import Candidates, SeededPosition, margin, nucleus, sample
from overlay.wire.prompt import SamplerSpec

CASES = json.loads(vectors.FILE.read_text())["choices"]
SEEDED = SeededPosition(bytes(32), bytes(32), 0)
CANDIDATES = Candidates(list(range(100, 108)), [8.0, 7.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0])

specs = st.builds(
    SamplerSpec,
    temperature=st.floats(0, 2),
    top_p=st.floats(0, 1),
    top_k=st.integers(1, 64),
)
positions = st.builds(
    SeededPosition, st.binary(min_size=32, max_size=32), st.just(bytes(32)), st.integers(0, 99)
)


@pytest.mark.parametrize("case", CASES)
def test_vector(case):
    spec = SamplerSpec(temperature=case["temperature"], top_p=case["top_p"], top_k=case["top_k"])
    candidates = Candidates(case["candidate_ids"], case["candidate_logits"])
    nonce = bytes.fromhex(case["nonce"])
    seeded = SeededPosition(nonce, vectors.prompt_hash(case["prompt_ids"]), case["position"])
    assert candidates.ids[sample(candidates, spec, seeded)] == case["token_id"]
    tenth = margin(candidates, spec, seeded, candidates.ids[9], candidates.logits[9])
    assert tenth.hex() == case["margin_of_tenth"]


def test_temperature_zero_takes_the_most_likely():
    assert sample(CANDIDATES, SamplerSpec(temperature=0.0), SEEDED) == 0


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        (SamplerSpec(temperature=1.0), 8),
        (SamplerSpec(temperature=1.0, top_k=3), 3),
        (SamplerSpec(temperature=1.0, top_p=0.0), 1),
        (SamplerSpec(temperature=1.0, top_p=0.5), 1),
        (SamplerSpec(temperature=1.0, top_p=0.7), 2),
        (SamplerSpec(temperature=0.0, top_p=0.7), 1),
    ],
)
def test_candidates_left_by_top_k_and_top_p(spec, kept):
    assert nucleus(CANDIDATES, spec) == kept


@given(specs, positions)
def test_margin_is_zero_for_the_sampled_token_only(spec, seeded):
    taken = sample(CANDIDATES, spec, seeded)
    margins = [
        margin(CANDIDATES, spec, seeded, token, logit)
        for token, logit in zip(CANDIDATES.ids, CANDIDATES.logits, strict=True)
    ]
    assert margins[taken] == 0
    assert all(value >= 0 for value in margins)


@given(specs, positions)
def test_a_cut_token_falls_short_by_its_distance_to_the_last_kept(spec, seeded):
    kept = nucleus(CANDIDATES, spec)
    far = CANDIDATES.logits[kept - 1] - 30.0
    assert margin(CANDIDATES, spec, seeded, 999, far) >= 30.0
