"""Parts of the forward pass against plain reference computations. Needs torch, but no model."""

import math
from types import SimpleNamespace

import pytest
import torch

from node.engine.attention import KVPool, attend, paged_attention, plan_attention
from node.engine.block_manager import BLOCK_TOKENS, BlockTable
from node.engine.cpu_decoder import attend_rows
from node.engine.fingerprint import encode_fingerprints, projection_matrix
from node.engine.logprobs import log_probabilities, tell_likeliest, to_half
from node.engine.model_runner import adjust_logits, top_candidates
from node.engine.penalties import REMOVED, Penalties
from overlay.wire.prompt import SamplerSpec
from verify.fingerprint import FINGERPRINT_BYTES, decode_fingerprint

pytestmark = pytest.mark.integration

HEADS, GROUPS, DIM, TOTAL = 4, 2, 8, 3 * BLOCK_TOKENS
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


def rows_of(generator, count):
    """Query, key and value of so many tokens, [heads, tokens, dim] each."""
    return [torch.randn(heads, count, DIM, generator=generator) for heads in (HEADS, GROUPS, GROUPS)]


def chunk_of(blocks, start, count):
    return SimpleNamespace(
        sequence=SimpleNamespace(table=BlockTable(blocks=blocks)), start=start, count=count
    )


def run_step(pool, window, *pieces, kernel=False):
    """One layer over chunks with their (query, key, value); the output [tokens, heads, dim]."""
    plan = plan_attention(pool, [chunk for chunk, _ in pieces], window, CPU, has_kernel=kernel)
    flat = [torch.cat(parts, dim=1)[None] for parts in zip(*(rows for _, rows in pieces), strict=True)]
    module = SimpleNamespace(layer_idx=0)
    terms = {"scaling": DIM**-0.5, "plan": plan, "sliding_window": window}
    if not kernel:
        return paged_attention(module, *flat, None, **terms)[0][0]
    keys, values = pool.keys[0], pool.values[0]
    keys[:, plan.slots], values[:, plan.slots] = flat[1][0], flat[2][0]
    qkv = torch.cat(flat, dim=1)[0].transpose(0, 1).contiguous()
    out = torch.empty(len(qkv), HEADS * DIM)
    attend_rows(qkv.numpy(), keys.numpy(), values.numpy(), DIM**-0.5, plan, window, out.numpy())
    return out.view(-1, HEADS, DIM)


def new_pool(blocks):
    pool = KVPool(1, GROUPS, blocks * BLOCK_TOKENS, DIM, torch.float32, CPU)
    pool.keys.fill_(math.nan)  # what was never written must never be read
    pool.values.fill_(math.nan)
    return pool


CUTS = [(48,), (20, 28), (16, 1, 1, 1, 29), (31, 17), (1,) * 48]


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("window", [None, 4, 20])
@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("blocks", [[1, 2, 3], [4, 1, 2], [5, 3, 1]])
def test_attention_in_chunks_beside_strangers_is_attention(window, cuts, blocks, kernel):
    generator = torch.Generator().manual_seed(1)
    mine, pool = rows_of(generator, TOTAL), new_pool(6)
    parts, start = [], 0
    for count in cuts:
        own = [part[:, start : start + count] for part in mine]
        stranger = (chunk_of([0], 0, 3), rows_of(generator, 3))
        piece = (chunk_of(blocks, start, count), own)
        parts.append(run_step(pool, window, stranger, piece, kernel=kernel)[3:])
        start += count
    torch.testing.assert_close(torch.cat(parts), reference_attention(*mine, window))


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("shared", [[1, 2], [4, 2]])
def test_answers_that_share_a_beginning_attend_as_if_alone(window, shared, kernel):
    generator = torch.Generator().manual_seed(3)
    pool = new_pool(9)
    common = rows_of(generator, 2 * BLOCK_TOKENS)
    run_step(pool, window, (chunk_of(shared, 0, 32), common))
    tails = [rows_of(generator, count) for count in (5, 1, 9)]
    tables = [[*shared, 6], [*shared, 3], [*shared, 8]]
    for table, tail in zip(tables, tails, strict=True):
        if (before := tail[0].shape[1] - 1) > 0:
            run_step(pool, window, (chunk_of(table, 32, before), [part[:, :before] for part in tail]))
    decodes = [
        (chunk_of(table, 31 + tail[0].shape[1], 1), [part[:, -1:] for part in tail])
        for table, tail in zip(tables, tails, strict=True)
    ]
    outputs = run_step(pool, window, *decodes, kernel=kernel)
    for output, tail in zip(outputs, tails, strict=True):
        whole = [torch.cat(parts, dim=1) for parts in zip(common, tail, strict=True)]
        torch.testing.assert_close(output, reference_attention(*whole, window)[-1])


@pytest.mark.parametrize("kind", ["plain", "causal", "masked"])
def test_attention_on_other_devices_is_what_the_cpu_gives(kind):
    query, key, value = (part[None] for part in rows_of(torch.Generator().manual_seed(5), 9))
    key, value = (part.repeat_interleave(HEADS // GROUPS, dim=1) for part in (key, value))
    terms = {
        "plain": {},
        "causal": {"is_causal": True},
        "masked": {"mask": torch.rand(9, 9).fill_diagonal_(1.0).gt(0.5).float().log()},
    }[kind]
    fast = attend(query, key, value, 0.3, **terms)
    written_out = attend(OtherDevice(query), key, value, 0.3, **terms)
    torch.testing.assert_close(fast, written_out)


class OtherDevice:
    """A tensor that says it is elsewhere, so that the general way is taken."""

    device = torch.device("cuda")

    def __init__(self, tensor):
        self._tensor = tensor

    def __matmul__(self, other):
        return self._tensor @ other


def test_candidates_are_ordered_and_ties_go_to_the_lower_id():
    logits = torch.zeros(2, 1000)
    logits[0, 500] = 3.0
    logits[0, 7] = 2.0
    logits[1] = torch.arange(1000) / 10.0
    tied, plain = top_candidates(logits)
    assert tied.ids == [500, 7, *range(7), *range(8, 63)]
    assert tied.logits[:3] == [3.0, 2.0, 0.0]
    assert plain.ids == list(range(999, 935, -1))


def test_the_last_candidate_is_the_lowest_id_of_those_that_tie_for_its_place():
    logits = torch.zeros(1, 1000)
    logits[0, 937:] = 1.0  # 63 of them
    (found,) = top_candidates(logits)
    assert found.ids == [*range(937, 1000), 0]


def test_only_rows_that_ask_for_it_are_adjusted_and_raw_logits_stay():
    raw = torch.randn(4, 300, generator=torch.Generator().manual_seed(6))
    kept = raw.clone()
    biased = Penalties.of(SamplerSpec(logit_bias=((7, 100.0),)), (), frozenset())
    waiting = Penalties.of(SamplerSpec(min_tokens=1), (), frozenset({3, 4}))
    adjusted = adjust_logits(raw, [None, biased, waiting, waiting.after(3)])
    assert torch.equal(raw, kept)
    assert torch.equal(adjusted[[0, 3]], raw[[0, 3]])
    assert adjusted[1].argmax() == 7
    assert adjusted[2, [3, 4]].tolist() == [REMOVED, REMOVED]
    changed = (adjusted != raw).nonzero().tolist()
    assert changed == [[1, 7], [2, 3], [2, 4]]
    assert adjust_logits(raw, [None, None, None, waiting.after(3)]) is raw


def test_a_token_far_down_is_a_candidate_once_its_bias_lifts_it():
    raw = torch.arange(1000, dtype=torch.float32)[None]
    lifted = Penalties.of(SamplerSpec(logit_bias=((850, 100.0),)), (), frozenset())
    (found,) = top_candidates(adjust_logits(raw, [lifted]))
    assert found.ids[:51] == [*range(999, 950, -1), 850, 950]


def test_log_probabilities_are_those_of_the_whole_vocabulary():
    logits = torch.randn(3, 500, generator=torch.Generator().manual_seed(4))
    expected = logits.double().log_softmax(dim=-1)[torch.arange(3), torch.tensor([5, 499, 0])]
    assert log_probabilities(logits, [5, 499, 0]) == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_likeliest_tokens_are_told_in_order_with_the_one_taken():
    logits = torch.zeros(300)
    logits[[7, 5, 9]] = torch.tensor([3.0, 2.0, 2.0])
    (logprob,) = log_probabilities(logits[None], [250])
    told = tell_likeliest(logits, (250, logprob), 3, lambda token: str(token).encode())
    assert told.taken.token == b"250"
    assert [each.token for each in told.likeliest] == [b"7", b"5", b"9"]
    logprobs = [each.logprob for each in (*told.likeliest, told.taken)]
    assert logprobs == sorted(logprobs, reverse=True)
    assert all(to_half(logprob) == logprob for logprob in logprobs)
    assert tell_likeliest(logits, (250, logprob), 0, lambda _: b"").likeliest == ()


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
