"""Checking a kept answer: all that is wrong with it is said, with the figures; and records are read with care."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import DecodeError
from overlay.wire.answer_terms import UPSTREAM
from overlay.wire.prompt import ChatMessage, Prompt
from tests.support.answers import samplers
from tests.support.checkpoints import make_checkpoint, make_part
from tests.support.descriptors import MODEL_ID, fixed_key
from tests.support.receipts import (
    BLINDING,
    NONCE,
    PROMPT,
    SAMPLER,
    FakeScorer,
    honest_replay,
    make_receipt,
    make_record,
    make_stated_receipt,
    make_stated_record,
)
from verify.answer import check_answer, check_without_model
from verify.errors import ReplayRefusedError, ReplayUnavailableError
from verify.record_codec import MAX_RECORD_BYTES, decode_record, encode_record
from verify.stated import StatedAnswer, commit_answer_text
from verify.verdict import Finding, Outcome, Part

OTHER_MODEL = "m-" + "f" * 40


async def check(record, receipt=None, **replayed):
    return await check_answer(record, FakeScorer(honest_replay(receipt or make_receipt(), **replayed)))


async def test_an_honest_answer_is_accepted():
    verdict = await check(make_record())
    assert verdict.accepted
    assert verdict.figures.tokens == 16


async def test_the_promised_model_is_run_with_what_was_asked():
    scorer = FakeScorer(honest_replay(make_receipt()))
    await check_answer(make_record(), scorer)
    assert scorer.asked == [(replace(PROMPT, model=MODEL_ID), make_receipt().output_ids)]


async def test_changed_text_is_found_and_the_figures_are_still_given():
    verdict = await check(make_record(text="because it is not"))
    assert verdict.findings == {Finding.TEXT}
    assert "from character 14" in verdict.reasons[0].detail
    assert verdict.figures.exceedances == 0


async def test_changed_temperature_is_found_by_the_receipt_and_by_the_replay():
    warm = replace(PROMPT, sampler=replace(SAMPLER, temperature=1.3))
    verdict = await check(make_record(prompt=warm), margins=(0.5,) * 16)
    assert verdict.findings == {Finding.SAMPLER, Finding.MARGINS}
    assert str(verdict.reasons[0]) == "sampler: the receipt says temperature 0.8 instead of 1.3"
    assert verdict.figures.log10_e > 4


async def test_changed_nonce_is_found_by_the_receipt_and_by_the_replay():
    verdict = await check(make_record(prompt=replace(PROMPT, nonce=bytes(32))), margins=(0.5,) * 16)
    assert verdict.findings == {Finding.NONCE, Finding.MARGINS}


async def test_changed_prompt_is_found_by_the_commitment():
    verdict = await check(make_record(), prompt_ids=(1, 2, 3))
    assert verdict.findings == {Finding.PROMPT, Finding.COUNTS}


async def test_changed_blinding_is_found():
    assert (await check(make_record(blinding=bytes(32)))).findings == {Finding.PROMPT}


async def test_a_receipt_by_another_node_is_found_and_the_rest_is_still_checked():
    verdict = await check(make_record(key=fixed_key("mallory"), text="else"))
    assert verdict.findings == {Finding.NODE, Finding.TEXT}


async def test_a_receipt_that_nobody_signed_is_not_looked_into():
    record = make_record()
    scorer = FakeScorer(honest_replay(make_receipt()))
    forged = record.receipt[:-3] + b"\x01" + record.receipt[-2:]  # a step of the last fingerprint
    verdict = await check_answer(replace(record, receipt=forged), scorer)
    assert verdict.findings == {Finding.SIGNATURE}
    assert scorer.asked == []


async def test_a_receipt_that_cannot_be_read_is_a_verdict_and_not_an_error():
    verdict = await check(replace(make_record(), receipt=b"nonsense"))
    assert verdict.findings == {Finding.MALFORMED}


async def test_another_model_or_arithmetic_than_offered_is_found():
    receipt = make_receipt(model_id=OTHER_MODEL, numerics_class="torch-bf16")
    verdict = await check(make_record(receipt), receipt)
    assert verdict.findings == {Finding.MODEL, Finding.NUMERICS}
    assert verdict.notes


@pytest.mark.parametrize(
    ("reason", "ending", "found"),
    [
        ("stop", "eos", set()),
        ("stop", "stop", set()),
        ("length", "length", set()),
        ("stop", "early", {Finding.FINISH}),
        ("stop", "length", {Finding.FINISH}),
        ("length", "early", {Finding.FINISH}),
        ("length", "eos", {Finding.FINISH}),
        ("stop", "overrun", {Finding.FINISH}),
    ],
)
async def test_an_answer_ends_as_its_receipt_says(reason, ending, found):
    receipt = make_receipt(finish_reason=reason)
    assert (await check(make_record(receipt), receipt, ending=ending)).findings == found


async def test_more_tokens_than_asked_for_are_found():
    receipt = make_receipt(25)
    assert (await check(make_record(receipt), receipt)).findings == {Finding.COUNTS}


async def test_tokens_that_the_model_does_not_have_are_a_verdict():
    verdict = await check_answer(make_record(), FakeScorer(ReplayRefusedError("no token 4294967295")))
    assert verdict.findings == {Finding.REPLAY}
    assert verdict.figures is None


async def test_without_the_model_there_is_no_verdict():
    with pytest.raises(ReplayUnavailableError):
        await check_answer(make_record(), FakeScorer(ReplayUnavailableError("pull it first")))


# --- answers of upstream engines --------------------------------------------------------------------


async def check_stated(record):
    """The verdict on an answer that can't be replayed; no model is asked for it."""
    scorer = FakeScorer(AssertionError("there is nothing to replay"))
    verdict = await check_answer(record, scorer)
    assert verdict == check_without_model(record)
    return verdict


async def test_an_honest_upstream_answer_is_unproven_and_says_why():
    verdict = await check_stated(make_stated_record())
    assert verdict.outcome is Outcome.UNPROVEN
    assert not verdict.accepted
    assert verdict.figures is None
    assert "nothing can be replayed" in verdict.notes[0]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"text": "because it is not"}, {Finding.TEXT}),
        ({"blinding": bytes(32)}, {Finding.PROMPT, Finding.TEXT}),
        ({"prompt": replace(PROMPT, messages=(ChatMessage("user", "who?"),))}, {Finding.PROMPT}),
        ({"prompt": replace(PROMPT, nonce=bytes(32))}, {Finding.NONCE}),
        ({"prompt": replace(PROMPT, sampler=replace(SAMPLER, temperature=1.3))}, {Finding.SAMPLER}),
        ({"prompt": replace(PROMPT, model="llama-8b")}, {Finding.MODEL}),
        ({"model_id": MODEL_ID}, {Finding.MODEL}),
        ({"key": fixed_key("mallory")}, {Finding.NODE}),
    ],
)
async def test_what_an_upstream_receipt_does_not_bear_out_is_rejected(changes, found):
    verdict = await check_stated(make_stated_record(**changes))
    assert verdict.findings == found
    assert verdict.outcome is Outcome.REJECTED


async def test_a_node_is_bound_to_the_text_that_it_said():
    other = StatedAnswer(16, commit_answer_text("because it is not", BLINDING))
    verdict = await check_stated(make_stated_record(make_stated_receipt(stated=other)))
    assert verdict.findings == {Finding.TEXT}


async def test_an_upstream_answer_where_a_replayable_one_was_offered_is_rejected():
    verdict = await check_stated(make_stated_record(numerics_class="torch-fp32"))
    assert verdict.findings == {Finding.NUMERICS}


async def test_a_replayable_receipt_for_what_an_upstream_engine_offered_is_rejected():
    verdict = await check_stated(replace(make_record(), numerics_class=UPSTREAM))
    assert verdict.findings == {Finding.NUMERICS}


def test_an_answer_that_can_be_replayed_has_no_verdict_without_the_model():
    assert check_without_model(make_record()) is None


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
turns = st.lists(
    st.builds(ChatMessage, st.sampled_from(["system", "user", "assistant"]), texts), min_size=1, max_size=4
)
prompts = st.builds(
    Prompt,
    model=texts,
    messages=turns.map(tuple),
    sampler=samplers,
    nonce=st.binary(min_size=32, max_size=32),
) | st.builds(Prompt, model=texts, text=texts, sampler=samplers, nonce=st.just(NONCE))


@given(prompts, texts)
def test_record_survives_a_round_trip(prompt, text):
    record = make_record(prompt=prompt, text=text)
    assert decode_record(encode_record(record)) == record
    assert decode_record(encode_record(record).encode()) == record


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(json_values)
def test_record_decoder_raises_only_decode_error(value):
    with pytest.raises(DecodeError):
        decode_record(json.dumps(value))


@given(st.data())
def test_a_field_of_another_kind_is_refused_or_read(data):
    fields = json.loads(encode_record(make_record()))
    where = data.draw(st.sampled_from(["", "prompt", "sampler"]))
    part = {"": fields, "prompt": fields["prompt"], "sampler": fields["prompt"]["sampler"]}[where]
    key = data.draw(st.sampled_from(sorted(part)))
    part[key] = data.draw(json_values)
    try:
        record = decode_record(json.dumps(fields))
    except DecodeError:
        return
    encode_record(record)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        '{"a":' * 100_000,
        "NaN",
        "1" * 5000,
        '{"format": "clove-answer/2", "format": "clove-answer/2"}',
        b"\xff\xfe",
        "\ud800",
        b" " * (MAX_RECORD_BYTES + 1),
    ],
)
def test_hostile_json_is_a_decode_error(text):
    with pytest.raises(DecodeError):
        decode_record(text)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"temperature": 0.8', '"temperature": NaN', "NaN"),
        ('"temperature": 0.8', '"temperature": -1', "temperature"),
        ('"temperature": 0.8', '"temperature": true', "temperature"),
        ('"top_k": 40', '"top_k": 65', "top_k"),
        ('"top_k": 40', '"top_k": 40.0', "top_k"),
        ('"role": "user"', '"role": "root"', "role"),
        ('"why?"', '"\\ud800"', "content"),
        ('"text": "because', '"extra": 1, "text": "because', "extra"),
        ('"receipt": "', '"receipt": "*', "receipt"),
        ('"blinding": "', '"blinding": "zz', "blinding"),
        ('"presence_penalty": 0.0', '"presence_penalty": -2.5', "presence_penalty"),
        ('"min_tokens": 0', '"min_tokens": 25', "min_tokens"),
        ('"logit_bias": []', '"logit_bias": [[2, 1], [1, 1]]', "rising id"),
        ('"logit_bias": []', '"logit_bias": [[2, 1, 0]]', "pairs"),
        ('"logit_bias": []', '"logit_bias": {"2": 1}', "logit_bias"),
        ('"logprobs": null', '"logprobs": 21', "logprobs"),
        ("clove-answer/4", "clove-answer/2", "format"),
        ('"given": 0', '"given": -1', "given"),
    ],
)
def test_a_refused_record_names_the_field(old, new, named):
    text = encode_record(make_record())
    assert old in text
    with pytest.raises(DecodeError, match=named):
        decode_record(text.replace(old, new))


async def test_a_record_edited_by_hand_may_say_1_for_1_0():
    record = decode_record(encode_record(make_record()).replace('"temperature": 0.8', '"temperature": 1'))
    assert record.prompt.sampler.temperature == 1.0
    assert (await check(record)).findings == {Finding.SAMPLER}


# --- answers that one node began and another went on with -----------------------------------------------


def continued(given=6, **changes):
    whole = make_receipt()
    own = {"logprobs": whole.logprobs[given:], "fingerprints": whole.fingerprints[given:]}
    return replace(make_record(make_receipt(given=given, **{**own, **changes})), given=given)


async def test_an_answer_that_another_node_went_on_with_is_accepted():
    record = continued()
    verdict = await check_answer(record, FakeScorer(honest_replay(make_receipt())))
    assert verdict.findings == frozenset()
    assert verdict.figures.tokens == 10


async def test_tokens_that_an_earlier_node_made_up_are_found_and_are_not_held_against_the_later_one():
    replayed = honest_replay(make_receipt(), margins=(3.0,) * 6 + (0.0,) * 10)
    verdict = await check_answer(continued(), FakeScorer(replayed))
    assert verdict.findings == {Finding.GIVEN}
    assert "6 of tokens 1 to 6, which an earlier node gave and nobody signed," in verdict.reasons[0].detail
    assert verdict.figures.exceedances == 0


async def test_a_node_that_made_up_its_own_part_is_found():
    replayed = honest_replay(make_receipt(), margins=(0.0,) * 6 + (3.0,) * 10)
    verdict = await check_answer(continued(), FakeScorer(replayed))
    assert verdict.findings == {Finding.MARGINS}


async def test_a_node_can_not_pass_its_own_tokens_for_given_ones():
    record = replace(continued(), given=0)
    verdict = await check_answer(record, FakeScorer(honest_replay(make_receipt())))
    assert verdict.findings == {Finding.COUNTS}


# --- who signed which part --------------------------------------------------------------------------

ALICE, BOB, CAROL = (fixed_key(name).node_id for name in ("alice", "bob", "carol"))


def in_parts(*parts, given=6):
    return replace(continued(given), parts=parts)


async def check_parts(record, wrong=()):
    margins = tuple(3.0 if at in wrong else 0.0 for at in range(16))
    replayed = honest_replay(make_receipt(), margins=margins)
    return await check_answer(record, FakeScorer(replayed))


async def test_each_part_names_who_signed_it_and_what_nobody_did():
    record = in_parts(
        make_part(6, make_checkpoint(4)), make_part(9, make_checkpoint(9, 6), node="carol"), given=9
    )
    verdict = await check_parts(record)
    assert verdict.accepted
    assert verdict.parts == (
        Part(1, 4, ALICE, "checkpoint", 0),
        Part(5, 6, ALICE, None, 0),
        Part(7, 9, CAROL, "checkpoint", 0),
        Part(10, 16, BOB, "receipt", 0),
    )


async def test_an_answer_of_one_node_has_no_parts():
    assert (await check(make_record())).parts == ()


async def test_who_signed_wrong_tokens_is_named_by_its_checkpoint():
    record = in_parts(
        make_part(6, make_checkpoint(5)), make_part(12, make_checkpoint(12, 6), node="carol"), given=12
    )
    verdict = await check_parts(record, wrong=(7, 8, 9))
    assert verdict.findings == {Finding.GIVEN}
    (reason,) = verdict.reasons
    assert reason.detail.startswith(f"3 of tokens 7 to 12, which {CAROL.hex()[:16]} signed,")
    assert [part.exceedances for part in verdict.parts] == [0, 0, 3, 0]


async def test_wrong_tokens_after_the_last_checkpoint_are_not_held_against_who_signed_it():
    verdict = await check_parts(in_parts(make_part(6, make_checkpoint(3))), wrong=(3, 4, 5))
    (reason,) = verdict.reasons
    assert reason.detail.startswith(f"3 of tokens 4 to 6, which {ALICE.hex()[:16]} gave and nobody signed,")


async def test_wrong_tokens_that_are_too_few_in_each_part_are_found_together():
    parts = (make_part(1, make_checkpoint(1)), make_part(6, make_checkpoint(6, 1), node="carol"))
    verdict = await check_parts(in_parts(*parts), wrong=(0, 1))
    assert verdict.findings == {Finding.GIVEN}
    assert "2 of the first 6 tokens" in verdict.reasons[0].detail


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (make_part(6, make_checkpoint(5), key=fixed_key("mallory")), "is signed by"),
        (make_part(6, make_checkpoint(5, nonce=bytes(32))), "another model"),
        (make_part(6, make_checkpoint(5, model_id=OTHER_MODEL)), "another model"),
        (make_part(6, make_checkpoint(5, 1)), "tokens 2 to 5"),
        (make_part(6, make_checkpoint(7)), "tokens 1 to 7"),
        (make_part(6, make_checkpoint(5, output_hash=bytes(32))), "other tokens"),
        (make_part(6, make_checkpoint(5, commitment=bytes(32))), "another prompt"),
        (replace(make_part(6, make_checkpoint(5)), checkpoint=b"nonsense"), "can't be read"),
        (replace(make_part(6, make_checkpoint(5)), blinding=bytes(32)), "another prompt"),
    ],
)
async def test_a_checkpoint_that_does_not_hold_is_found_and_signs_nothing(part, said):
    verdict = await check_parts(in_parts(part), wrong=(0, 1, 2))
    assert verdict.findings == {Finding.CHECKPOINT, Finding.GIVEN}
    assert said in verdict.reasons[0].detail
    assert "nobody signed" in verdict.reasons[1].detail
    assert [each.signed_by for each in verdict.parts] == [None, "receipt"]


async def test_a_changed_byte_of_a_checkpoint_is_found():
    good = make_part(6, make_checkpoint(5))
    forged = good.checkpoint[:-1] + bytes([good.checkpoint[-1] ^ 1])
    verdict = await check_parts(in_parts(replace(good, checkpoint=forged)))
    assert "not signed by the node that it names" in verdict.reasons[0].detail


async def test_a_record_from_before_checkpoints_is_still_checked():
    fields = json.loads(encode_record(continued()))
    assert fields.pop("parts") == []
    old = decode_record(json.dumps({**fields, "format": "clove-answer/3"}))
    assert old == continued()
    verdict = await check_parts(old)
    assert verdict.parts == (Part(1, 6, None, None, 0), Part(7, 16, BOB, "receipt", 0))


def test_parts_survive_a_round_trip():
    record = in_parts(make_part(4, make_checkpoint(3)), make_part(6, None, node="carol"))
    assert decode_record(encode_record(record)) == record


@pytest.mark.parametrize(
    "untils", [(0,), (7,), (4, 4), (5, 3), tuple(range(1, 10)), (True,), ("1",)], ids=str
)
def test_parts_out_of_order_or_number_are_refused(untils):
    fields = json.loads(encode_record(in_parts(make_part(6, None))))
    fields["parts"] = [{**fields["parts"][0], "until": until} for until in untils]
    with pytest.raises(DecodeError, match="parts"):
        decode_record(json.dumps(fields))
