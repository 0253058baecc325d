"""Receipts: one encoding each, signed, blinded, and of the promised size."""

import json
import re
import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import AuthenticationError, CryptoError, DecodeError
from crypto.identity import IdentityKey
from overlay.errors import LocalProtocolError
from overlay.wire.answer_terms import SamplerTerms
from overlay.wire.prompt import ChatMessage, Prompt, SamplerSpec
from overlay.wire.records import pack_record, unpack_record
from tests.support.answers import samplers
from tests.support.descriptors import fixed_key
from tests.support.receipts import BLINDING, PROMPT_IDS, make_receipt, make_stated_receipt
from verify.fingerprint import decode_fingerprint, distance
from verify.receipt import (
    CONTEXT,
    Receipt,
    commit_prompt,
    decode_receipt,
    round_logprob,
    sign_receipt,
)
from verify.stated import StatedAnswer, commit_answer_text, commit_prompt_text, upstream_model_id

VECTORS = Path(__file__).parents[2] / "docs" / "spec" / "vectors" / "receipt.json"
BOB, MALLORY = fixed_key("bob"), fixed_key("mallory")

logprobs = st.floats(-60_000, 0, allow_nan=False).map(round_logprob)
prints = st.builds(
    lambda scale, steps: struct.pack("<e16b", scale, *steps),
    st.floats(2.0**-14, 60_000, width=16),
    st.lists(st.integers(-127, 127), min_size=16, max_size=16),
)
tokens = st.lists(st.tuples(st.integers(0, 2**32 - 1), logprobs, prints), max_size=20)


@st.composite
def receipts(draw):
    drawn = draw(tokens)
    prompt_tokens = draw(st.integers(0, 1 << 24))
    return Receipt(
        model_id=draw(st.from_regex(r"m-[0-9a-f]{40}", fullmatch=True)),
        numerics_class=draw(st.sampled_from(["torch-fp32", "llama.cpp-q4_1"])),
        sampler=SamplerTerms.of(draw(samplers)),
        nonce=draw(st.binary(min_size=32, max_size=32)),
        commitment=draw(st.binary(min_size=32, max_size=32)),
        serial=draw(st.integers(0, 2**64 - 1)),
        output_ids=tuple(token for token, _, _ in drawn),
        logprobs=tuple(logprob for _, logprob, _ in drawn),
        fingerprints=tuple(fingerprint for _, _, fingerprint in drawn),
        finish_reason=draw(st.sampled_from(["stop", "length"])),
        prompt_tokens=prompt_tokens,
        cached_tokens=draw(st.integers(0, prompt_tokens)),
        issued_unix=draw(st.integers(0, 2**40 - 1)),
    )


statements = st.builds(StatedAnswer, st.integers(0, 1 << 24), st.binary(min_size=32, max_size=32))


def record_of(receipt: Receipt) -> list[object]:
    return unpack_record(sign_receipt(BOB, receipt)[96:])


def signed_record(record: list[object], key: IdentityKey = BOB) -> bytes:
    body = pack_record(tuple(record))
    return key.node_id + key.sign(CONTEXT, key.node_id + body) + body


@given(receipts() | st.builds(lambda stated: make_stated_receipt(stated=stated), statements))
def test_receipt_survives_a_round_trip(receipt):
    signed = decode_receipt(sign_receipt(BOB, receipt))
    assert signed.signer == BOB.node_id
    assert signed.check() == receipt


@given(st.binary(max_size=400))
def test_decoder_raises_only_decode_error(data):
    with pytest.raises(DecodeError):
        decode_receipt(data)


@given(st.data())
def test_a_changed_byte_is_malformed_or_not_signed(data):
    blob = bytearray(sign_receipt(BOB, make_receipt(3)))
    at = data.draw(st.integers(0, len(blob) - 1))
    blob[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CryptoError):
        decode_receipt(bytes(blob)).check()


def test_nobody_puts_their_name_on_anothers_receipt():
    blob = sign_receipt(BOB, make_receipt())
    with pytest.raises(AuthenticationError):
        decode_receipt(MALLORY.node_id + blob[32:]).check()


def test_a_receipt_costs_24_bytes_a_token_and_little_else():
    sizes = {count: len(sign_receipt(BOB, make_receipt(count))) for count in (0, 100, 200)}
    assert sizes[0] < 320
    assert 24 * 100 <= sizes[200] - sizes[100] < 24 * 100 + 8


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (0, 2),
        (0, 4),
        (1, "m-nope"),
        (2, "torch fp32"),
        (3, [0.8, 1.0, 40, 10]),
        (3, [float("nan"), 1.0, 40, 10, 0, 1.0, 0.0, 0.0]),
        (3, [-0.0, 1.0, 40, 10, 0, 1.0, 0.0, 0.0]),
        (3, [1, 1.0, 40, 10, 0, 1.0, 0.0, 0.0]),
        (3, [0.8, 1.0, 65, 10, 0, 1.0, 0.0, 0.0]),
        (3, [0.8, 1.0, 40, 10, 11, 1.0, 0.0, 0.0]),
        (3, [0.8, 1.0, 40, 10, 0, 0.4, 0.0, 0.0]),
        (3, [0.8, 1.0, 40, 10, 0, 1, 0.0, 0.0]),
        (3, [0.8, 1.0, 40, 10, 0, 1.0, -0.0, 0.0]),
        (3, [0.8, 1.0, 40, 10, 0, 1.0, 0.0, 2.1]),
        (4, bytes(31)),
        (6, -1),
        (7, 2),
        (9, 6),
        (11, b"abc"),
        (12, b"\x00\x7e" * 16),
        (12, b"\x00\x3c" * 16),
        (12, b""),
        (13, bytes(18) * 16),
        (13, struct.pack("<e16b", 1.0, *([-128] * 16)) * 16),
        (13, struct.pack("<e16b", float("inf"), *([1] * 16)) * 16),
        (2, "upstream"),
        (14, [4, bytes(32)]),
        (14, None),
        (15, 1),
        (15, 17),
    ],
)
def test_a_signed_but_malformed_field_is_refused(field, value):
    record = record_of(make_receipt())
    record[field] = tuple(value) if isinstance(value, list) else value
    with pytest.raises(DecodeError):
        decode_receipt(signed_record(record))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (2, "torch-fp32"),
        (14, []),
        (14, [4]),
        (14, [-1, bytes(32)]),
        (14, [True, bytes(32)]),
        (14, [4, bytes(31)]),
        (14, [4, bytes(32), 0]),
    ],
)
def test_a_statement_is_whole_and_of_the_class_upstream_only(field, value):
    record = record_of(make_stated_receipt())
    record[field] = tuple(value) if isinstance(value, list) else value
    with pytest.raises(DecodeError):
        decode_receipt(signed_record(record))


def test_an_answer_is_stated_or_has_tokens_and_never_both():
    tokens = make_receipt(1)
    mixed = {name: getattr(tokens, name) for name in ("output_ids", "logprobs", "fingerprints")}
    with pytest.raises(LocalProtocolError, match="not both"):
        sign_receipt(BOB, make_stated_receipt(**mixed))


def test_a_receipt_out_of_bounds_is_not_issued():
    fine = make_receipt()
    for changes in (
        {"nonce": b""},
        {"cached_tokens": fine.prompt_tokens + 1},
        {"logprobs": fine.logprobs[:-1]},
        {"fingerprints": (*fine.fingerprints[:-1], b"")},
        {"output_ids": (1 << 32,) * 16},
        {"output_ids": (-1,) * 16},
        {"logprobs": (-1e9,) * 16},
        {"serial": 1 << 64},
        {"model_id": "\ud800"},
    ):
        with pytest.raises(LocalProtocolError):
            sign_receipt(BOB, replace(fine, **changes))


def test_commitment_binds_the_prompt_and_hides_it_without_the_blinding():
    commitment = commit_prompt(PROMPT_IDS, BLINDING)
    assert commitment == commit_prompt(list(PROMPT_IDS), BLINDING)
    assert commitment != commit_prompt(PROMPT_IDS[:-1], BLINDING)
    assert commitment != commit_prompt(PROMPT_IDS, bytes(32))
    with pytest.raises(ValueError, match="blinding"):
        commit_prompt(PROMPT_IDS, b"short")


def test_commitments_to_texts_bind_them_and_are_told_apart():
    asked = Prompt(model="a", text="why?", sampler=SamplerSpec(), nonce=bytes(32))
    chat = replace(asked, text=None, messages=(ChatMessage("user", "why?"),))
    made = {
        commit_prompt_text(asked, BLINDING),
        commit_prompt_text(chat, BLINDING),
        commit_prompt_text(replace(chat, messages=(ChatMessage("system", "why?"),)), BLINDING),
        commit_prompt_text(asked, bytes(32)),
        commit_answer_text("why?", BLINDING),
        commit_answer_text("why", BLINDING),
    }
    assert len(made) == 6
    assert commit_prompt_text(replace(asked, model="b"), BLINDING) in made
    with pytest.raises(ValueError, match="blinding"):
        commit_answer_text("why?", b"short")


def test_an_upstream_model_is_named_by_its_alias_alone():
    ids = {upstream_model_id(alias) for alias in ("llama-8b", "llama-8c", "")}
    assert len(ids) == 3
    assert all(re.fullmatch(r"m-[0-9a-f]{40}", name) for name in ids)


def test_sampler_terms_leave_out_stop_strings_and_biased_tokens():
    telling = SamplerSpec(stop=("secret",), logit_bias=((49_151, 100.0),))
    assert SamplerTerms.of(telling) == SamplerTerms.of(SamplerSpec())
    assert b"secret" not in sign_receipt(BOB, make_receipt(sampler=SamplerTerms.of(telling)))


@given(samplers)
def test_a_receipt_tells_two_penalties_apart(sampler):
    terms = SamplerTerms.of(sampler)
    assert not terms.differences(terms)
    other = replace(terms, frequency_penalty=1.5 if terms.frequency_penalty < 0 else -1.5)
    assert (
        terms.differences(other)
        == f"frequency_penalty {terms.frequency_penalty} instead of {other.frequency_penalty}"
    )


def test_terms_that_differ_are_named_with_both_values():
    asked = SamplerTerms(0.8, 0.95, 40, 24)
    assert replace(asked, temperature=0.0, min_tokens=2).differences(asked) == (
        "temperature 0.0 instead of 0.8, min_tokens 2 instead of 0"
    )


@given(st.floats(max_value=0, allow_nan=False))
def test_rounded_log_probabilities_stay_as_they_are(logprob):
    rounded = round_logprob(logprob)
    assert round_logprob(rounded) == rounded
    assert -65504 <= rounded <= 0


@given(prints, prints)
def test_distance_is_zero_only_for_equal_projections(one, other):
    assert distance(one, one) == 0.0
    apart = decode_fingerprint(one) != decode_fingerprint(other)
    assert (distance(one, other) > 0) == apart


def test_distance_is_relative():
    for scale in (0.5, 64.0):
        one = struct.pack("<e16b", scale, *([100] * 16))
        other = struct.pack("<e16b", scale, *([99] * 16))
        assert distance(other, one) == pytest.approx(0.01)
    assert distance(one, struct.pack("<e16b", 1.0, *([0] * 16))) == float("inf")


@given(st.binary(max_size=30))
def test_fingerprint_decoder_raises_only_decode_error(data):
    with suppress(DecodeError):
        assert len(decode_fingerprint(data)) == 16


def test_vectors_are_what_this_code_makes_and_takes():
    vectors = json.loads(VECTORS.read_text())
    for case in vectors["commitments"]:
        ids, blinding = case["prompt_ids"], bytes.fromhex(case["blinding"])
        assert commit_prompt(ids, blinding).hex() == case["commitment"]
    for case in vectors["text_commitments"]:
        blinding = bytes.fromhex(case["blinding"])
        if "answer" in case:
            assert commit_answer_text(case["answer"], blinding).hex() == case["commitment"]
            continue
        turns = tuple(ChatMessage(role, content) for role, content in case["messages"])
        asked = Prompt(model="any", text=case["text"], messages=turns, sampler=SamplerSpec(), nonce=bytes(32))
        assert commit_prompt_text(asked, blinding).hex() == case["commitment"]
    for alias, model_id in vectors["upstream_model_ids"].items():
        assert upstream_model_id(alias) == model_id
    for case in vectors["valid"]:
        key = IdentityKey.from_seed(bytes.fromhex(case["identity_seed"]))
        blob = bytes.fromhex(case["receipt"])
        receipt = decode_receipt(blob).check()
        assert sign_receipt(key, receipt) == blob
        assert list(receipt.output_ids) == case["output_ids"]
        assert list(receipt.logprobs) == case["logprobs"]
        assert (receipt.serial, receipt.finish_reason) == (case["serial"], case["finish_reason"])
        stated = receipt.stated and {
            "tokens": receipt.stated.tokens,
            "text_commitment": receipt.stated.text_commitment.hex(),
        }
        assert (stated, receipt.given) == (case["stated"], case["given"])
    for case in vectors["invalid"]:
        error = {"decode": DecodeError, "authentication": AuthenticationError}[case["error"]]
        with pytest.raises(error):
            decode_receipt(bytes.fromhex(case["receipt"])).check()
