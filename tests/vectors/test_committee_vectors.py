"""The committee's vectors hold for this code."""

import json
from pathlib import Path

import pytest

from crypto.errors import AuthenticationError, DecodeError
from crypto.identity import IdentityKey
from docs.spec.make_vectors_committee import MESSAGES, make
from verify.committee.evidence import decode_equivocation
from verify.committee.genesis import decode_genesis
from verify.committee.log import unframe
from verify.committee.message_codec import decode_message, encode_message
from verify.committee.messages import (
    Certificate,
    Proposal,
    Votes,
    check_certificate,
    check_proposal,
    check_votes,
    value_id,
)

TEXT = (Path(__file__).parents[2] / "docs/spec/vectors/committee.json").read_text()
VECTORS = json.loads(TEXT)
GENESIS = decode_genesis(VECTORS["genesis"].encode())
ERRORS = {"decode": DecodeError, "authentication": AuthenticationError}


def cases(part):
    return [pytest.param(case, id=case.get("name") or case["kind"]) for case in VECTORS[part]]


def read(data):
    message = decode_message(data)
    match message:
        case Proposal():
            check_proposal(GENESIS, message)
        case Votes():
            check_votes(GENESIS, message)
        case Certificate():
            check_certificate(GENESIS, message)
    return message


def test_vectors_are_what_the_script_makes():
    assert make() == TEXT


def test_genesis_vector():
    seeds = map(bytes.fromhex, VECTORS["identity_seeds"])
    assert GENESIS.members == tuple(IdentityKey.from_seed(seed).node_id for seed in seeds)
    assert GENESIS.hash.hex() == VECTORS["genesis_hash"] != VECTORS["other_network_hash"]
    for place, proposer in VECTORS["proposers"].items():
        assert GENESIS.proposer(*map(int, place.split(", "))) == proposer


def test_value_vector_has_its_id():
    assert value_id(bytes.fromhex(VECTORS["value"])).hex() == VECTORS["value_id"]


@pytest.mark.parametrize("case", cases("messages"))
def test_message_vector_reads_and_writes(case):
    data = bytes.fromhex(case["message"])
    assert read(data) == MESSAGES[case["name"]]
    assert encode_message(MESSAGES[case["name"]]) == data


@pytest.mark.parametrize("case", cases("invalid"))
def test_bad_message_vector_is_refused_at_its_step(case):
    data = bytes.fromhex(case["message"])
    if case["error"] == "authentication":
        decode_message(data)
    with pytest.raises(ERRORS[case["error"]]):
        read(data)


@pytest.mark.parametrize("case", cases("evidence"))
def test_evidence_vector_is_evidence(case):
    found = decode_equivocation(GENESIS, bytes.fromhex(case["file"]))
    assert (found.member, found.first[0].kind.name) == (case["member"], case["kind"])


@pytest.mark.parametrize("case", cases("logs"))
def test_log_vector_is_read_as_far_as_it_is_intact(case):
    payloads, torn_bytes, damage = unframe(bytes.fromhex(case["log"]))
    assert (len(payloads), torn_bytes, bool(damage)) == (
        case["intact"],
        case["torn_bytes"],
        case["is_damaged"],
    )
