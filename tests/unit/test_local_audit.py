"""Which engine an answer is replayed with: one of the answer's own numerics class, where this machine can be one."""

import pytest

from node.engine.settings import NUMERICS
from node.local_audit import _settings_for


@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_an_answer_made_on_a_cpu_is_replayed_on_one_with_the_same_weights(weights):
    settings = _settings_for(NUMERICS[weights], threads=3)
    assert (settings.device, settings.weights, settings.threads) == ("cpu", weights, 3)


@pytest.mark.parametrize("numerics_class", [NUMERICS["bf16"], "llama.cpp-q4_1"])
def test_any_other_is_replayed_by_the_most_exact_engine_there_is(numerics_class):
    settings = _settings_for(numerics_class, threads=0)
    assert (settings.device, settings.weights) == ("auto", "fp32")
