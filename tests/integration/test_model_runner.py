"""Parts of the forward pass against plain reference computations. Needs torch, but no model."""

import math
from types import SimpleNamespace

import pytest
import torch

from node.engine.attention import KVCache, RaggedSpan, ragged_attention
from node.engine.fingerprint import encode_fingerprints, projection_matrix
from node.engine.model_engine import to_half
from node.engine.model_runner import top_candidates
from verify.fingerprint import FINGERPRINT_BYTES, decode_fingerprint

pytestmark = pytest.mark.integration

HEADS, GROUPS, DIM, TOTAL = 4, 2, 8, 12
CPU = torch.device("cpu")


def reference_attention(query, key, value, window):
    """Softmax attention of one sequence, written out: [heads, tokens, dim] each."""
    key, value = (part.repeat_interleave(HEADS // GROUPS, dim=0) for part in (key, value))
    scores = query @ key.transpose(1, 2) / math.sqrt(DIM)
    for row in range(scores.shape[1]):
        scores[:, row, row + 1 :] = -math.inf
        if window is not None:
            scores[:, row, : max(0, row - window + 1)] = -math.inf
    return (scores.softmax(dim=-1) @ value).transpose(0, 1)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("cuts", [(12,), (5, 7), (5, 1, 1, 1, 4), (1,) * 12])
def test_attention_in_chunks_beside_strangers_is_attention(window, cuts):
    generator = torch.Generator().manual_seed(1)
    query, key, value = (
        torch.randn(heads, TOTAL, DIM, generator=generator) for heads in (HEADS, GROUPS, GROUPS)
    )
    mine, stranger = (KVCache(1, GROUPS, TOTAL, DIM, torch.float32, CPU) for _ in range(2))
    module = SimpleNamespace(layer_idx=0)
    parts, start = [], 0
    for count in cuts:
        rows = slice(start, start + count)
        noise = [torch.randn(heads, 3, DIM, generator=generator) for heads in (HEADS, GROUPS, GROUPS)]
        flat = [
            torch.cat([other, own[:, rows]], dim=1)[None]
            for other, own in zip(noise, (query, key, value), strict=True)
        ]
        spans = (RaggedSpan(stranger, 0, 3), RaggedSpan(mine, start, count))
        output, _ = ragged_attention(
            module, *flat, None, scaling=DIM**-0.5, spans=spans, sliding_window=window
        )
        parts.append(output[0, 3:])
        start += count
    expected = reference_attention(query, key, value, window)
    torch.testing.assert_close(torch.cat(parts), expected)


def test_candidates_are_ordered_and_ties_go_to_the_lower_id():
    logits = torch.zeros(2, 1000)
    logits[0, 500] = 3.0
    logits[0, 7] = 2.0
    logits[1] = torch.arange(1000) / 10.0
    tied, plain = top_candidates(logits)
    assert tied.ids == [500, 7, *range(7), *range(8, 63)]
    assert tied.logits[:3] == [3.0, 2.0, 0.0]
    assert plain.ids == list(range(999, 935, -1))
    assert tied.log_total == pytest.approx(math.log(998 + math.exp(3) + math.exp(2)))


def test_a_small_vocabulary_gives_all_it_has():
    (found,) = top_candidates(torch.tensor([[1.0, 3.0, 2.0]]))
    assert found.ids == [1, 2, 0]


def test_fingerprints_read_back_as_the_projection():
    hidden = torch.randn(3, 576, generator=torch.Generator().manual_seed(2))
    projection = projection_matrix(576)
    assert set(projection.unique().tolist()) == {-0.25, 0.25}
    for mark, row in zip(encode_fingerprints(hidden, projection), hidden @ projection, strict=True):
        assert len(mark) == FINGERPRINT_BYTES
        error = torch.tensor(decode_fingerprint(mark)) - row
        assert error.abs().max() <= row.abs().max() / 127 * 0.51


def test_a_state_of_zeros_has_a_fingerprint():
    (mark,) = encode_fingerprints(torch.zeros(1, 576), projection_matrix(576))
    assert decode_fingerprint(mark) == (0.0,) * 16


@pytest.mark.parametrize(("logprob", "half"), [(1e-7, 0.0), (-1.0001, -1.0), (-1e9, -65504.0)])
def test_log_probabilities_fit_a_receipt(logprob, half):
    assert to_half(logprob) == half
