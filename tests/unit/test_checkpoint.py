"""Checkpoints: one encoding each, signed for this purpose alone, small; and held against what came."""

import json
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import AuthenticationError, CryptoError, DecodeError
from crypto.identity import IdentityKey
from docs.spec import make_vectors_checkpoint as made
from overlay.errors import LocalProtocolError, RemoteProtocolError
from overlay.protocol import witness as witness_module
from overlay.protocol.witness import Witness
from overlay.wire.answer import CheckpointIssued, TokensGenerated
from overlay.wire.answer_terms import SamplerTerms
from overlay.wire.checkpoint import Checkpoint, OutputHash, decode_checkpoint, sign_checkpoint
from overlay.wire.limits import MAX_CHECKPOINT_BYTES
from tests.support.answers import samplers
from tests.support.checkpoints import IDS, make_checkpoint
from tests.support.descriptors import MODEL_ID, fixed_key
from tests.support.receipts import PROMPT, SAMPLER, make_receipt
from verify.receipt import decode_receipt, sign_receipt

ALICE, MALLORY = fixed_key("alice"), fixed_key("mallory")
VECTORS = json.loads(made.FILE.read_text())
token_ids = st.lists(st.integers(0, 2**32 - 1), max_size=40)
hashes = st.binary(min_size=32, max_size=32)


@st.composite
def checkpoints(draw):
    count = draw(st.integers(1, 1 << 17))
    return Checkpoint(
        model_id=draw(st.from_regex(r"m-[0-9a-f]{40}", fullmatch=True)),
        numerics_class=draw(st.sampled_from(["torch-fp32", "n" * 32])),
        sampler=SamplerTerms.of(draw(samplers)),
        nonce=draw(hashes),
        commitment=draw(hashes),
        given=draw(st.integers(0, count - 1)),
        count=count,
        output_hash=draw(hashes),
        issued_unix=draw(st.integers(0, 2**40 - 1)),
    )


# --- bytes ------------------------------------------------------------------------------------------


@given(checkpoints())
def test_checkpoint_survives_a_round_trip_and_is_small(checkpoint):
    data = sign_checkpoint(ALICE, checkpoint)
    signed = decode_checkpoint(data)
    assert len(data) <= MAX_CHECKPOINT_BYTES
    assert signed.signer == ALICE.node_id
    assert signed.check() == checkpoint


@given(st.binary(max_size=500))
def test_decoder_raises_only_decode_error(data):
    with pytest.raises(DecodeError):
        decode_checkpoint(data)


@given(st.binary(max_size=300))
def test_a_body_that_was_signed_has_one_encoding_or_is_malformed(body):
    with suppress(CryptoError):
        found = decode_checkpoint(made.signed(body)).check()
        assert sign_checkpoint(made.BOB, found) == made.signed(body)


@given(st.data())
def test_a_changed_byte_is_malformed_or_not_signed(data):
    blob = bytearray(sign_checkpoint(ALICE, make_checkpoint(6)))
    at = data.draw(st.integers(0, len(blob) - 1))
    blob[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CryptoError):
        decode_checkpoint(bytes(blob)).check()


def test_a_receipt_is_no_checkpoint_and_the_other_way_about():
    with pytest.raises(DecodeError):
        decode_checkpoint(sign_receipt(ALICE, make_receipt(0)))
    with pytest.raises(DecodeError):
        decode_receipt(sign_checkpoint(ALICE, make_checkpoint(6)))


@pytest.mark.parametrize(
    "changes",
    [{"count": 0}, {"given": 6}, {"numerics_class": "upstream"}, {"nonce": b"short"}, {"issued_unix": -1}],
)
def test_what_is_out_of_bounds_is_not_signed(changes):
    with pytest.raises(LocalProtocolError):
        sign_checkpoint(ALICE, replace(make_checkpoint(6), **changes))


@given(token_ids, token_ids)
def test_a_hash_of_tokens_as_they_come_is_that_of_all(first, rest):
    output = OutputHash(first)
    output.add(rest)
    assert output.count == len(first) + len(rest)
    assert output.digest() == OutputHash([*first, *rest]).digest()


def test_vectors_are_what_this_code_makes_and_takes():
    assert made.FILE.read_text() == made.make()
    for case in VECTORS["output_hashes"]:
        assert OutputHash(case["ids"]).digest().hex() == case["output_hash"]
    for case in VECTORS["valid"]:
        found = decode_checkpoint(bytes.fromhex(case["checkpoint"])).check()
        key = IdentityKey.from_seed(bytes.fromhex(case["identity_seed"]))
        assert sign_checkpoint(key, found).hex() == case["checkpoint"]
        assert (found.given, found.count) == (case["given"], case["count"])
        assert found.output_hash.hex() == case["output_hash"]
        assert found.sampler.temperature == case["temperature"]


@pytest.mark.parametrize("case", VECTORS["invalid"], ids=lambda case: case["name"])
def test_an_invalid_vector_is_refused_where_it_says(case):
    error = {"decode": DecodeError, "authentication": AuthenticationError}[case["error"]]
    with pytest.raises(error):
        decode_checkpoint(bytes.fromhex(case["checkpoint"])).check()


# --- a witness --------------------------------------------------------------------------------------


def a_witness(given=0, *, may_sign=lambda _signer: True):
    return Witness(PROMPT, MODEL_ID, "torch-fp32", IDS[:given], may_sign)


def tokens(begin, end):
    return TokensGenerated("x", end - begin, ids=IDS[begin:end])


def issued(count, given=0, *, key=ALICE, **changes):
    return CheckpointIssued(sign_checkpoint(key, make_checkpoint(count, given, **changes)))


def feed(witness, *events):
    for event in events:
        witness.receive(event)
    return witness


def test_the_last_checkpoint_is_kept():
    last = issued(5)
    witness = feed(a_witness(), tokens(0, 1), issued(1), tokens(1, 3), tokens(3, 5), last, tokens(5, 9))
    assert (witness.signed.signer, witness.signed.count) == (ALICE.node_id, 5)
    assert witness.signed.checkpoint == last.checkpoint


def test_tokens_that_were_given_are_in_the_hash():
    witness = feed(a_witness(4), tokens(4, 6), issued(6, 4))
    assert witness.signed.count == 6


@pytest.mark.parametrize(
    "event",
    [
        issued(2),
        issued(4),
        issued(3, output_hash=bytes(32)),
        issued(3, given=1),
        issued(3, nonce=bytes(32)),
        issued(3, model_id="m-" + "f" * 40),
        issued(3, numerics_class="torch-bf16"),
        issued(3, sampler=SamplerTerms.of(replace(SAMPLER, temperature=0.7))),
        CheckpointIssued(b"nonsense"),
        CheckpointIssued(MALLORY.node_id + issued(3).checkpoint[32:]),
    ],
    ids=["fewer", "more", "hash", "given", "nonce", "model", "class", "sampler", "nonsense", "name"],
)
def test_a_checkpoint_of_something_else_is_the_nodes_fault(event):
    witness = feed(a_witness(), tokens(0, 3))
    with pytest.raises(RemoteProtocolError):
        witness.receive(event)
    assert witness.signed is None


@pytest.mark.parametrize(
    "event", [issued(3), issued(4, key=MALLORY), issued(4, commitment=bytes(32))], ids=str
)
def test_a_checkpoint_agrees_with_the_one_before_and_adds_to_it(event):
    witness = feed(a_witness(), tokens(0, 3), issued(3))
    if event != issued(3):
        feed(witness, tokens(3, 4))
    with pytest.raises(RemoteProtocolError):
        witness.receive(event)
    assert witness.signed.count == 3


def test_a_checkpoint_before_any_token_of_its_own_is_a_fault():
    with pytest.raises(RemoteProtocolError):
        a_witness(4).receive(issued(4, 3))


def test_tokens_without_ids_can_not_be_signed_for():
    witness = feed(a_witness(), TokensGenerated("x", 1))
    with pytest.raises(RemoteProtocolError):
        witness.receive(issued(1))


def test_what_a_stranger_signs_is_no_fault_and_is_not_kept():
    witness = feed(a_witness(may_sign=lambda signer: signer != MALLORY.node_id), tokens(0, 3))
    feed(witness, issued(3, key=MALLORY))
    assert witness.signed is None


def test_more_checkpoints_than_an_answer_may_have_are_a_fault(monkeypatch):
    monkeypatch.setattr(witness_module, "MAX_CHECKPOINTS", 2)
    witness = feed(a_witness(), tokens(0, 1), issued(1), tokens(1, 2), issued(2), tokens(2, 3))
    with pytest.raises(RemoteProtocolError):
        witness.receive(issued(3))
