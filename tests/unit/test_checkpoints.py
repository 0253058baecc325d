"""When a model node signs while it answers: at once, then every quarter of a second, and nothing twice."""

from contextlib import asynccontextmanager

import pytest
import trio

from node.engine.errors import EngineCrashedError
from node.engine.events import GenerationFinished, ModelCard, PromptPrefilled, TokensDecoded
from node.serving.answer_writer import AnswerWriter
from node.serving.checkpoints import pause_s, signing
from overlay.protocol.witness import Witness
from overlay.wire.answer import AnswerFailed, AnswerFinished, CheckpointIssued, ReceiptIssued, TokensGenerated
from overlay.wire.checkpoint import decode_checkpoint
from overlay.wire.limits import CHECKPOINT_S, MAX_CHECKPOINTS
from overlay.wire.prompt import Task
from tests.support.descriptors import MODEL_ID, UNIX_TIME, fixed_key
from tests.support.entropy import fixed_entropy
from tests.support.receipts import BLINDING, PROMPT, PROMPT_IDS
from tests.support.scripted_engine import FINGERPRINT
from verify.receipt import commit_prompt

BOB = fixed_key("bob")
FLOOD_S = 0.031


class TimedEngine:
    """Gives token `at` at that moment; then ends, or fails."""

    def __init__(self, moments, failure=None):
        self.cards = (ModelCard(MODEL_ID, PROMPT.model, "torch-fp32", 2048),)
        self.moments, self.failure = moments, failure

    @asynccontextmanager
    async def generate(self, prompt, *, cache, session, given_ids):
        yield self._events(len(given_ids))

    async def _events(self, given):
        begun = trio.current_time()
        yield PromptPrefilled(len(PROMPT_IDS), 0, bytes(32), PROMPT_IDS)
        for at, moment in enumerate(self.moments, given):
            await trio.sleep_until(begun + moment)
            yield TokensDecoded((at,), "x", (-0.5,), (FINGERPRINT,))
        if self.failure is not None:
            raise self.failure
        yield GenerationFinished("stop", 5, given + len(self.moments), 0, 0.0, 0.0, 0.0)


async def written(engine, *, emit=None, given=()):
    """What goes out, each with its moment."""
    out, begun = [], trio.current_time()

    async def note(event):
        await trio.lowlevel.checkpoint()
        if emit is not None:
            await emit(event)
        out.append((round(trio.current_time() - begun, 3), event))

    writer = AnswerWriter(engine, BOB, entropy=fixed_entropy("x"), unix_time=lambda: float(UNIX_TIME))
    await writer.write(Task(prompt=PROMPT, blinding=BLINDING, given=given), note)
    return out


def moments(out):
    return [when for when, event in out if isinstance(event, CheckpointIssued)]


def counts(out):
    return [
        decode_checkpoint(event.checkpoint).check().count
        for _, event in out
        if isinstance(event, CheckpointIssued)
    ]


async def test_the_first_tokens_are_signed_at_once_and_the_next_ones_every_quarter_of_a_second(
    autojump_clock,
):
    out = await written(TimedEngine([FLOOD_S * at for at in range(40)]))
    assert moments(out) == pytest.approx([0, 0.25, 0.5, 0.75, 1.0], abs=0.001)
    assert counts(out) == [1, 9, 17, 25, 33]


async def test_the_last_tokens_before_a_pause_are_signed_while_it_lasts(autojump_clock):
    out = await written(TimedEngine([0, 0.1, 0.2, 60.0]))
    assert moments(out) == pytest.approx([0, 0.25], abs=0.001)  # the receipt is behind the fourth
    assert counts(out) == [1, 3]


async def test_all_checkpoints_hold_for_who_gets_them_and_none_comes_after_the_end(autojump_clock):
    given = (7, 8, 9)
    out = await written(TimedEngine([FLOOD_S * at for at in range(40)]), given=given)
    witness = Witness(PROMPT, MODEL_ID, "torch-fp32", given, lambda signer: signer == BOB.node_id)
    for _, event in out:
        witness.receive(event)
    assert witness.signed.count == counts(out)[-1] == 36
    kinds = [type(event) for _, event in out]
    assert kinds[-2:] == [AnswerFinished, ReceiptIssued]
    assert kinds[:2] == [TokensGenerated, CheckpointIssued]
    found = decode_checkpoint(witness.signed.checkpoint).check()
    assert found.commitment == commit_prompt(PROMPT_IDS, BLINDING)
    assert (found.given, found.issued_unix) == (3, UNIX_TIME)


async def test_a_slow_way_out_does_not_put_a_checkpoint_before_its_tokens(autojump_clock):
    async def slowly(_event):
        await trio.sleep(0.2)

    out = await written(TimedEngine([FLOOD_S * at for at in range(20)]), emit=slowly)
    witness = Witness(PROMPT, MODEL_ID, "torch-fp32", (), lambda _signer: True)
    for _, event in out:
        witness.receive(event)
    assert witness.signed is not None


async def test_what_an_engine_says_when_it_fails_is_told_as_ever(autojump_clock):
    out = await written(TimedEngine([0, 0.1], EngineCrashedError("it was killed")))
    assert isinstance(out[-1][1], AnswerFailed)
    assert out[-1][1].code == "engine_down"


class NobodyThereError(Exception):
    pass


@pytest.mark.parametrize("kind", [TokensGenerated, CheckpointIssued])
async def test_a_way_out_that_is_gone_ends_the_answer_with_its_own_error(autojump_clock, kind):
    async def refuse(event):
        if isinstance(event, kind):
            raise NobodyThereError

    with pytest.raises(NobodyThereError):
        await written(TimedEngine([0, 0.1, 0.2]), emit=refuse)


async def test_cancelling_an_answer_ends_it_quietly(autojump_clock):
    with trio.move_on_after(0.3) as scope:
        await written(TimedEngine([0, 0.1, 60.0]))
    assert scope.cancelled_caught


async def test_an_answer_has_so_many_checkpoints_and_no_more(autojump_clock, monkeypatch):
    monkeypatch.setattr("node.serving.checkpoints.MAX_CHECKPOINTS", 3)
    out = await written(TimedEngine([float(at) for at in range(10)]))
    assert len(moments(out)) == 3


async def test_tokens_without_ids_are_passed_on_unsigned(autojump_clock):
    out = []

    async def emit(event):
        out.append(event)

    async with signing(emit, lambda _output: pytest.fail("there is nothing to sign"), ()) as checkpoints:
        await checkpoints.tell(TokensGenerated("x", 1))
        await trio.sleep(1.0)
    assert out == [TokensGenerated("x", 1)]


def test_an_hours_answer_has_fewer_checkpoints_than_the_bound():
    age, issued = 0.0, 0
    while age < 3600:
        assert pause_s(age) >= CHECKPOINT_S
        age, issued = age + pause_s(age), issued + 1
    assert 3000 < issued < MAX_CHECKPOINTS
    assert pause_s(3600) <= 3.6
