"""What the author of a prompt gets of an engine that tells no ids: text, an end, and a receipt of its class."""

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from node.engine.errors import (
    EngineBusyError,
    EngineError,
    UpstreamDeniedError,
    UpstreamDownError,
    UpstreamMalformedError,
)
from node.engine.events import GenerationFinished, ModelCard, TextDecoded
from node.serving.answer_writer import AnswerWriter, explain_failure
from overlay.wire.answer import AnswerFailed, AnswerFinished, ReceiptIssued, TokensGenerated
from overlay.wire.prompt import Task
from tests.support.descriptors import UNIX_TIME, fixed_key
from tests.support.entropy import fixed_entropy
from tests.support.receipts import BLINDING, PROMPT, make_stated_record
from verify.answer import check_without_model
from verify.receipt import decode_receipt
from verify.stated import upstream_model_id
from verify.verdict import Outcome

CARD = ModelCard(upstream_model_id(PROMPT.model), PROMPT.model, "upstream", 2048)


@dataclass
class SpokenEngine:
    """Says these texts, then ends or fails; it serves nothing any more once it has spoken."""

    texts: tuple[str, ...] = ()
    failure: EngineError | None = None
    cards: tuple[ModelCard, ...] = (CARD,)

    @asynccontextmanager
    async def generate(self, prompt, *, cache, session, given_ids):
        yield self._events()

    async def _events(self):
        for text in self.texts:
            yield TextDecoded(text, 1)
        self.cards = ()
        if self.failure is not None:
            raise self.failure
        yield GenerationFinished("stop", 7, len(self.texts), 2, 0.0, 0.0, 0.0)


async def written(engine):
    events = []

    async def emit(event):
        events.append(event)

    writer = AnswerWriter(
        engine, fixed_key("bob"), entropy=fixed_entropy("serial"), unix_time=lambda: float(UNIX_TIME)
    )
    await writer.write(Task(prompt=PROMPT, blinding=BLINDING), emit)
    return events


async def test_the_receipt_of_an_upstream_answer_binds_the_node_to_its_text():
    *texts, end, issued = await written(SpokenEngine(("because ", "it is")))
    assert texts == [TokensGenerated("because ", 1), TokensGenerated("it is", 1)]
    assert end == AnswerFinished("stop", 7, 2, 2)
    assert isinstance(issued, ReceiptIssued)
    receipt = decode_receipt(issued.receipt).check()
    assert (receipt.numerics_class, receipt.output_ids, receipt.stated.tokens) == ("upstream", (), 2)
    record = replace(make_stated_record(text="because it is"), receipt=issued.receipt)
    assert check_without_model(record).outcome is Outcome.UNPROVEN
    changed = replace(record, text="because it was")
    assert check_without_model(changed).outcome is Outcome.REJECTED


async def test_an_answer_that_breaks_off_has_no_receipt():
    *texts, end = await written(SpokenEngine(("because ",), UpstreamDownError("it broke an answer off")))
    assert texts == [TokensGenerated("because ", 1)]
    assert isinstance(end, AnswerFailed)


@pytest.mark.parametrize("kind", [UpstreamDownError, UpstreamDeniedError, UpstreamMalformedError])
def test_who_asked_is_told_of_no_detail_of_the_operators_server(kind):
    failed = explain_failure(kind("http://10.0.0.7:8000 said secret"))
    assert failed.code == "engine_down"
    assert failed.retry_after_s is not None
    assert "10.0.0.7" not in failed.message
    assert "secret" not in failed.message


def test_a_busy_server_says_when_to_come_again():
    assert explain_failure(EngineBusyError(17.0)).retry_after_s == 17.0
