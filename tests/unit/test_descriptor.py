"""Descriptors: one encoding each, nothing out of bounds, nobody signs for another."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.checkable import CLOCK_SKEW_S
from crypto.errors import AuthenticationError, CryptoError, DecodeError, ExpiredError
from crypto.exchange import is_low_order
from crypto.identity import IdentityKey, NodeId
from overlay.errors import LocalProtocolError
from overlay.wire.descriptor import (
    CONTEXT,
    Descriptor,
    EpochKey,
    ModelOffer,
    Role,
    decode_descriptor,
    sign_descriptor,
)
from overlay.wire.records import pack_record, unpack_record
from tests.support.descriptors import MODEL_ID, UNIX_TIME, fixed_key, model_node, relay
from tests.support.low_order import LOW_ORDER_X25519

VECTORS = Path(__file__).parents[2] / "docs" / "spec" / "vectors" / "descriptor.json"
ALICE, MALLORY = fixed_key("alice"), fixed_key("mallory")

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
publics = st.binary(min_size=32, max_size=32).filter(lambda public: not is_low_order(public))
keys = st.dictionaries(st.integers(0, 2**32 - 1), publics, min_size=1, max_size=3).map(
    lambda found: tuple(EpochKey(*item) for item in sorted(found.items()))
)
offers = st.builds(
    ModelOffer, st.from_regex(r"m-[0-9a-f]{40}", fullmatch=True), names, names, st.integers(1, 2**24)
)
descriptors = st.builds(
    Descriptor,
    node_id=st.just(ALICE.node_id),
    seq=st.integers(0, UNIX_TIME * 1000),
    issued_unix=st.integers(UNIX_TIME, UNIX_TIME + 10**9),
    ttl_s=st.integers(1, 7 * 24 * 3600),
    addresses=st.lists(names.map(lambda name: f"/memory/{name}"), max_size=8, unique=True).map(tuple),
    roles=st.frozensets(st.sampled_from(list(Role))).map(lambda roles: roles | {Role.MODEL}),
    onion_keys=keys,
    sealing_keys=keys,
    models=st.lists(offers, max_size=16, unique=True).map(tuple),
    operator=st.just("") | names,
    difficulty=st.integers(0, 32),
)


def alices(**changes) -> Descriptor:
    return replace(model_node(1), node_id=ALICE.node_id, **changes)


def signed_record(record: list[object], key: IdentityKey = ALICE) -> bytes:
    body = pack_record(tuple(record))
    return key.sign(CONTEXT, body) + body


def record_of(descriptor: Descriptor) -> list[object]:
    return unpack_record(sign_descriptor(ALICE, descriptor)[64:])


@given(descriptors)
def test_descriptor_survives_a_round_trip(descriptor):
    signed = decode_descriptor(sign_descriptor(ALICE, descriptor))
    assert signed.signer == ALICE.node_id
    assert signed.check().check(descriptor.issued_unix) == descriptor


@given(st.binary(max_size=300))
def test_decoder_raises_only_decode_error(data):
    with pytest.raises(DecodeError):
        decode_descriptor(data)


@given(st.data())
def test_a_changed_byte_is_malformed_or_not_signed(data):
    blob = bytearray(sign_descriptor(ALICE, alices()))
    at = data.draw(st.integers(0, len(blob) - 1))
    blob[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CryptoError):
        decode_descriptor(bytes(blob)).check()


def test_nobody_signs_a_descriptor_for_another():
    with pytest.raises(LocalProtocolError):
        sign_descriptor(MALLORY, alices())
    forged = signed_record(record_of(alices()), MALLORY)
    with pytest.raises(AuthenticationError):
        decode_descriptor(forged).check()


def test_descriptor_is_not_used_before_or_after_its_time():
    bound = decode_descriptor(sign_descriptor(ALICE, alices(ttl_s=60))).check()
    assert bound.check(UNIX_TIME + 60).expires_unix == UNIX_TIME + 60
    for unix_time in (UNIX_TIME - CLOCK_SKEW_S - 1, UNIX_TIME + 60 + CLOCK_SKEW_S + 1):
        with pytest.raises(ExpiredError):
            bound.check(unix_time)


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": (UNIX_TIME + 301) * 1000},
        {"ttl_s": 0},
        {"ttl_s": 8 * 24 * 3600},
        {"addresses": ("/ip4/1.2.3.4/tcp/1",) * 2},
        {"addresses": tuple(f"/memory/{number}" for number in range(9))},
        {"addresses": ("/memory/\x1b[2J",)},
        {"addresses": ("/memory/é",)},
        {"addresses": ("",)},
        {"addresses": ("/" + "a" * 256,)},
        {"roles": frozenset({Role.RELAY})},
        {"roles": frozenset({Role.RELAY}), "models": (), "onion_keys": ()},
        {"sealing_keys": ()},
        {"sealing_keys": (EpochKey(2, bytes(32)), EpochKey(1, bytes(32)))},
        {"sealing_keys": (EpochKey(1, bytes(31)),)},
        {"models": (ModelOffer("m-short", "a", "torch-fp32", 1),)},
        {"models": (ModelOffer(MODEL_ID, "has space", "torch-fp32", 1),)},
        {"models": (ModelOffer(MODEL_ID, "a", "torch-fp32", 0),)},
        {"operator": "evil\nnewline"},
        {"operator": " padded "},
        {"difficulty": 33},
    ],
)
def test_a_value_out_of_bounds_is_not_published(changes):
    with pytest.raises(LocalProtocolError):
        sign_descriptor(ALICE, alices(**changes))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (0, 2),
        (1, bytes(32)),
        (1, b"short"),
        (2, True),
        (2, -1),
        (6, 16),
        (6, 1.0),
        (7, [[1]]),
        (9, None),
        (11, "0"),
    ],
)
def test_a_signed_but_malformed_field_is_refused(field, value):
    record = record_of(alices())
    record[field] = value
    with pytest.raises(DecodeError):
        decode_descriptor(signed_record(record))


def test_another_encoding_of_the_same_value_is_refused():
    blob = sign_descriptor(ALICE, alices())
    body = blob[64:].replace(b"\xc4\x20" + ALICE.node_id, b"\xc5\x00\x20" + ALICE.node_id, 1)
    assert len(body) == len(blob) - 64 + 1
    with pytest.raises(DecodeError, match="canonical"):
        decode_descriptor(ALICE.sign(CONTEXT, body) + body)


def test_offer_is_found_by_id_and_by_alias():
    (offer,) = alices().models
    assert alices().offer_of("smollm2-135m") == alices().offer_of(MODEL_ID) == offer
    assert alices().offer_of("other") is None
    assert relay(1).offer_of("smollm2-135m") is None


def test_vectors_are_what_this_code_makes_and_takes():
    vectors = json.loads(VECTORS.read_text())
    for case in vectors["valid"]:
        key = IdentityKey.from_seed(bytes.fromhex(case["identity_seed"]))
        blob = bytes.fromhex(case["descriptor"])
        descriptor = decode_descriptor(blob).check().check(case["issued_unix"])
        assert (descriptor.node_id, descriptor.seq) == (NodeId(bytes.fromhex(case["node_id"])), case["seq"])
        assert list(descriptor.addresses) == case["addresses"]
        assert sign_descriptor(key, descriptor) == blob
    for case in vectors["invalid"]:
        error = {"decode": DecodeError, "authentication": AuthenticationError, "expired": ExpiredError}
        with pytest.raises(error[case["error"]]):
            decode_descriptor(bytes.fromhex(case["descriptor"])).check().check(vectors["unix_time"])


@pytest.mark.parametrize("point", LOW_ORDER_X25519)
@pytest.mark.parametrize("top_bit", [0, 0x80])
@pytest.mark.parametrize("kind", ["onion_keys", "sealing_keys"])
def test_a_key_of_low_order_is_malformed(point, top_bit, kind):
    public = bytearray.fromhex(point)
    public[-1] |= top_bit
    with pytest.raises(LocalProtocolError, match="low order"):
        sign_descriptor(ALICE, alices(**{kind: (EpochKey(19675, bytes(public)),)}))
