"""Sequences of made-up tokens, and what the runner and the sampler would do to them in a step."""

from node.engine.block_manager import BLOCK_TOKENS, BlockTable
from node.engine.sequence import Sequence
from node.engine.text import AnswerText
from overlay.wire.prompt import SamplerSpec


def make_sequence(request, prompt=5, output=3, forced=None, scope=None, given=0):
    """given: tokens of the answer that were there before, those that `perform` samples."""
    return Sequence(
        request=request,
        prompt_ids=tuple(range(prompt)),
        table=BlockTable(scope),
        prompt_hash=bytes(32),
        sampler=SamplerSpec(),
        nonce=bytes(32),
        max_output=output,
        text=AnswerText(lambda _: ""),
        forced_ids=forced,
        given=given,
        output_ids=[900 + index for index in range(given)],
    )


def perform(scheduler, chunks):
    """Compute and sample; the requests that are over."""
    done = []
    for chunk in chunks:
        sequence = chunk.sequence
        assert chunk.start == sequence.computed
        assert 0 < chunk.count <= sequence.length - sequence.computed
        assert chunk.start + chunk.count <= len(sequence.table.blocks) * BLOCK_TOKENS
    scheduler.computed(chunks)
    for chunk in chunks:
        sequence = chunk.sequence
        if sequence.forced_ids is None and chunk.wanted:
            sequence.output_ids.append(900 + len(sequence.output_ids))
            finished = len(sequence.output_ids) == sequence.max_output
        else:
            finished = sequence.forced_ids is not None and sequence.computed == sequence.length
        if finished:
            scheduler.remove(sequence.request)
            done.append(sequence.request)
    return done
