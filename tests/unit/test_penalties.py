"""What an answer's settings make of its logits: exactly what the specification says, after any tokens."""

import json
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from docs.spec import make_sampling_vectors as vectors
from node.engine.penalties import REMOVED, Penalties
from overlay.wire.prompt import SamplerSpec
from tests.support.answers import penalties as penalty_values

CASES = json.loads(vectors.FILE.read_text())["adjusted"]
VOCABULARY = 12
ids = st.integers(0, VOCABULARY - 1)
specs = st.builds(
    SamplerSpec,
    min_tokens=st.integers(0, 6),
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.2, 2.0]),
    presence_penalty=st.just(0.0) | penalty_values,
    frequency_penalty=st.just(0.0) | penalty_values,
    logit_bias=st.dictionaries(ids, st.floats(-100, 100), max_size=4).map(
        lambda found: tuple(sorted(found.items()))
    ),
)


def advance(spec, prompt, answer, ends=frozenset()):
    return reduce(lambda state, token: state and state.after(token), answer, Penalties.of(spec, prompt, ends))


def adjust(state, raw):
    logits = np.array(raw, dtype=np.float32)
    if state is not None:
        logits[state.ids] = state.adjust(logits[state.ids])
    return logits.tolist()


def written_out(spec, prompt, answer, ends, raw):
    """The specification once more, a token at a time in Python's doubles."""
    found = []
    for token, logit in enumerate(raw):
        value = logit + dict(spec.logit_bias).get(token, 0.0)
        if token in (*prompt, *answer):
            value = value / spec.repetition_penalty if value > 0 else value * spec.repetition_penalty
        count = answer.count(token)
        value -= spec.frequency_penalty * count
        value -= spec.presence_penalty if count else 0.0
        removed = token in ends and len(answer) < spec.min_tokens
        found.append(REMOVED if removed else float(np.float32(value)))
    return found


@pytest.mark.parametrize("case", CASES)
def test_vector(case):
    spec = SamplerSpec(
        min_tokens=case["min_tokens"],
        repetition_penalty=case["repetition_penalty"],
        presence_penalty=case["presence_penalty"],
        frequency_penalty=case["frequency_penalty"],
        logit_bias=tuple((token, bias) for token, bias in case["logit_bias"]),
    )
    state = advance(spec, tuple(case["prompt_ids"]), case["output_ids"], frozenset(case["end_ids"]))
    adjusted = adjust(state, [float.fromhex(logit) for logit in case["raw"]])
    assert [logit.hex() for logit in adjusted] == case["adjusted"]


@given(
    specs,
    st.lists(ids, max_size=8).map(tuple),
    st.lists(ids, max_size=8),
    st.frozensets(ids, max_size=2),
    st.lists(st.floats(-50, 50, width=32), min_size=VOCABULARY, max_size=VOCABULARY),
)
def test_adjusted_logits_are_the_specification_s_after_any_answer(spec, prompt, answer, ends, raw):
    state = advance(spec, prompt, answer, ends)
    assert adjust(state, raw) == written_out(spec, prompt, answer, ends, raw)
    if state is not None and state.is_idle:
        assert adjust(state, raw) == raw


def test_settings_that_ask_for_nothing_cost_nothing():
    assert Penalties.of(SamplerSpec(), (1, 2, 3), frozenset({0})) is None


def test_end_tokens_come_back_once_the_least_number_of_tokens_is_there():
    state = Penalties.of(SamplerSpec(min_tokens=2), (), frozenset({3}))
    assert adjust(state.after(0), [0.0] * 4)[3] == REMOVED
    assert state.after(0).after(0).is_idle


def test_no_bias_brings_a_removed_end_token_back():
    state = Penalties.of(SamplerSpec(min_tokens=1, logit_bias=((3, 100.0),)), (), frozenset({3}))
    assert adjust(state, [0.0] * 4)[3] == REMOVED


def test_repetition_counts_the_prompt_and_the_other_penalties_do_not():
    spec = SamplerSpec(repetition_penalty=2.0, presence_penalty=1.0, frequency_penalty=0.5)
    state = Penalties.of(spec, (1, 1, 1), frozenset())
    assert adjust(state, [4.0, 4.0]) == [4.0, 2.0]
    assert adjust(state.after(0).after(0), [4.0, 4.0]) == [0.0, 2.0]


def test_a_penalised_token_never_gains_by_a_negative_logit():
    state = Penalties.of(SamplerSpec(repetition_penalty=2.0), (0,), frozenset())
    assert adjust(state, [-4.0]) == [-8.0]
