"""Messages, evidence, genesis files and logs of the committee: there and back, and nothing else gets in."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import AuthenticationError, DecodeError
from tests.fuzz import fuzz_committee
from tests.support.committee import Bench, genesis_of, keys_of
from verify.committee.evidence import (
    Equivocation,
    decode_equivocation,
    encode_equivocation,
    equivocation_of,
)
from verify.committee.genesis import Genesis, decode_genesis, encode_genesis
from verify.committee.log import LogWriter, frame, read_log, unframe
from verify.committee.message_codec import decode_message, encode_message
from verify.committee.messages import (
    MAX_HEIGHT,
    MAX_ROUND,
    MAX_VALUE_BYTES,
    NIL,
    NO_ROUND,
    Certificate,
    Kind,
    Proposal,
    Statement,
    Votes,
    Wanted,
    sign_statement,
    value_id,
)
from verify.committee.recall import new_log
from verify.committee.standing import Entered, Opened, Said, Standing, Validated

GENESIS, KEYS = genesis_of(4), keys_of(4)
NODE_ID = KEYS[0].node_id

heights, rounds = st.integers(1, MAX_HEIGHT), st.integers(0, MAX_ROUND)
values, signatures = st.binary(max_size=64), st.binary(min_size=64, max_size=64)
signed = st.dictionaries(st.integers(0, 255), signatures, min_size=1, max_size=64).map(
    lambda found: tuple(sorted(found.items()))
)


@st.composite
def proposals(draw):
    height, round_, value = draw(heights), draw(rounds), draw(values)
    valid_round = draw(st.integers(NO_ROUND, round_ - 1))
    proof = Statement(Kind.PREVOTE, height, valid_round, value_id(value))
    statement = Statement(Kind.PROPOSAL, height, round_, value_id(value), valid_round)
    prevotes = None if valid_round == NO_ROUND else Votes(proof, draw(signed))
    return Proposal(statement, value, prevotes, draw(signatures))


@st.composite
def votes(draw, kinds=(Kind.PREVOTE, Kind.PRECOMMIT)):
    voted = draw(st.just(NIL) | values.map(value_id))
    return Votes(Statement(draw(st.sampled_from(kinds)), draw(heights), draw(rounds), voted), draw(signed))


@st.composite
def certificates(draw, kind=Kind.PRECOMMIT, height=None):
    value = draw(values)
    at = draw(heights) if height is None else height
    return Certificate(value, Votes(Statement(kind, at, draw(rounds), value_id(value)), draw(signed)))


@given(proposals() | votes() | certificates() | heights.map(Wanted))
def test_message_reads_and_writes(message):
    assert decode_message(encode_message(message)) == message


@st.composite
def records(draw):
    height = draw(st.integers(1, MAX_HEIGHT - 1))
    decided = None if height == 1 else draw(certificates(height=height - 1))
    later = st.lists(
        rounds.map(Entered)
        | proposals().map(Said)
        | votes().map(Said)
        | certificates(Kind.PREVOTE).map(Validated),
        max_size=6,
    )
    return [Opened(height, decided, draw(st.booleans())), *draw(later)]


def standing_of(found):
    standing = Standing.of(found[0])
    for record in found[1:]:
        standing.apply(record)
    return standing


@given(records())
def test_log_gives_back_the_standing_that_its_records_made(found):
    data = LogWriter(GENESIS, NODE_ID).begin(found)
    read = read_log(data, GENESIS, NODE_ID)
    assert (read.standing, read.torn_bytes, read.damage) == (standing_of(found), 0, "")


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5), st.data())
def test_log_cut_anywhere_loses_its_last_record_only(payloads, data):
    log, check, ends = b"", b"", [0]
    for payload in payloads:
        framed = frame(check, payload)
        log, check = log + framed, framed[-8:]
        ends.append(len(log))
    cut = data.draw(st.integers(0, len(log)))
    whole = max(number for number, end in enumerate(ends) if end <= cut)
    assert unframe(log[:cut]) == (payloads[:whole], cut - ends[whole], "")


@given(st.lists(st.binary(max_size=40), min_size=2, max_size=4), st.data())
def test_log_with_any_bit_flipped_is_damaged_or_torn_never_other(payloads, data):
    log, check = b"", b""
    for payload in payloads:
        framed = frame(check, payload)
        log, check = log + framed, framed[-8:]
    at = data.draw(st.integers(0, 8 * len(log) - 1))
    broken = bytearray(log)
    broken[at // 8] ^= 1 << at % 8
    found, torn_bytes, damage = unframe(bytes(broken))
    assert found == payloads[: len(found)]
    assert len(found) < len(payloads)
    assert damage
    assert torn_bytes == 0


def test_log_without_a_record_in_the_middle_is_damaged():
    writer = LogWriter(GENESIS, NODE_ID)
    parts = [writer.record(record) for record in (Opened(1, None, False), Entered(0), Entered(1))]
    assert read_log(parts[0] + parts[2], GENESIS, NODE_ID).damage
    assert read_log(b"".join(parts) + parts[2], GENESIS, NODE_ID).damage


def test_log_of_another_member_or_network_is_not_trusted():
    log = new_log(GENESIS, NODE_ID)
    assert "another member's" in read_log(log, GENESIS, KEYS[1].node_id).damage
    assert "another network" in read_log(log, genesis_of(4, "other"), NODE_ID).damage


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["enter", "propose", "prevote", "nil", "wait", "restart"]), max_size=14))
def test_standing_after_anything_is_what_its_log_gives_back(inputs):
    bench, round_ = Bench().begin(), 0
    for what in inputs:
        if what == "enter":
            round_ += 1
            bench.enter(round_)
        elif what == "propose" and not bench.is_mine(bench.proposal(round_, b"V").statement):
            bench.propose(round_, b"V")
        elif what in ("prevote", "nil"):
            bench.prevote(round_, b"V" if what == "prevote" else None, (1, 2, 3))
        elif what == "wait":
            bench.wait(0.7)
        elif what == "restart":
            bench.restart()
            bench.begin()
        standing = bench.member.standing
        assert read_log(bench.log, GENESIS, NODE_ID).standing == standing
        rewritten = LogWriter(GENESIS, NODE_ID).begin(standing.records())
        assert read_log(rewritten, GENESIS, NODE_ID).standing == standing


# --- evidence ---


def half(value, kind=Kind.PREVOTE, member=1, round_=0, valid_round=NO_ROUND, genesis=GENESIS):
    statement = Statement(kind, 1, round_, value_id(value), valid_round)
    return statement, sign_statement(KEYS[member], genesis, statement)


@pytest.mark.parametrize("kind", list(Kind))
def test_evidence_convinces_whoever_has_the_genesis(kind):
    member = GENESIS.proposer(1, 0)
    one, other = half(b"V", kind, member), half(b"W", kind, member)
    found = equivocation_of(member, one, other)
    assert found == equivocation_of(member, other, one)
    data = encode_equivocation(GENESIS, found)
    assert decode_equivocation(GENESIS, data) == found
    with pytest.raises(DecodeError, match="another network"):
        decode_equivocation(genesis_of(4, "other"), data)


def test_what_may_be_said_is_no_evidence():
    assert equivocation_of(1, half(b"V"), half(b"V")) is None
    assert equivocation_of(1, half(b"V"), half(b"W", round_=1)) is None
    assert equivocation_of(1, half(b"V"), half(b"W", Kind.PRECOMMIT)) is None


def test_evidence_that_somebody_else_signed_is_refused():
    framed = Equivocation(1, half(b"V"), half(b"W", member=2))
    first, second = sorted((framed.first, framed.second), key=lambda one: one[0].value_id)
    with pytest.raises(AuthenticationError):
        decode_equivocation(GENESIS, encode_equivocation(GENESIS, Equivocation(1, first, second)))


def test_proposals_out_of_turn_are_no_evidence():
    member = (GENESIS.proposer(1, 0) + 1) % 4
    found = equivocation_of(member, half(b"V", Kind.PROPOSAL, member), half(b"W", Kind.PROPOSAL, member))
    with pytest.raises(AuthenticationError, match="turn"):
        decode_equivocation(GENESIS, encode_equivocation(GENESIS, found))


# --- genesis ---


@pytest.mark.parametrize(
    ("count", "quorum", "traitors"),
    [(1, 1, 0), (2, 2, 0), (3, 3, 0), (4, 3, 1), (5, 4, 1), (6, 5, 1), (7, 5, 2), (16, 11, 5), (64, 43, 21)],
)
def test_quorums(count, quorum, traitors):
    genesis = genesis_of(count)
    assert (genesis.quorum, genesis.most_traitors) == (quorum, traitors)
    assert 2 * quorum - count > traitors
    assert count - traitors >= quorum


def test_genesis_reads_and_writes_in_any_order():
    fields = json.loads(encode_genesis(GENESIS))
    fields["members"].reverse()
    assert decode_genesis(json.dumps(fields).encode()) == GENESIS
    assert decode_genesis(json.dumps(fields).encode()).hash == GENESIS.hash
    assert Genesis.of("clove-test", 61, GENESIS.members).hash != GENESIS.hash


def test_everybody_proposes_in_turn():
    for height in (1, 2, 77):
        assert {GENESIS.proposer(height, round_) for round_ in range(4)} == set(range(4))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "clove-genesis/2"}, "not of the format"),
        ({"network": ""}, "network is 1 to 64"),
        ({"network": 1}, "network is not a text"),
        ({"epoch_s": 9}, "epoch_s is 10 to"),
        ({"epoch_s": 60.0}, "epoch_s is not a whole number"),
        ({"epoch_s": True}, "epoch_s is not a whole number"),
        ({"members": []}, "1 to 64 members, not 0"),
        ({"members": "x"}, "members is not a list"),
        ({"members": ["00" * 32]}, "is no member"),
        ({"members": ["00"]}, "64 hex digits"),
        ({"members": [KEYS[0].node_id.hex()] * 2}, "a member twice"),
        ({"members": [key.node_id.hex() for key in keys_of(65)]}, "1 to 64 members, not 65"),
        ({"quorum": 1}, "its fields are"),
    ],
)
def test_wrong_genesis_is_refused_in_words(change, words):
    fields = json.loads(encode_genesis(GENESIS)) | change
    with pytest.raises(DecodeError, match=words):
        decode_genesis(json.dumps(fields).encode())


# --- hostile bytes ---

V, W = half(b"V"), half(b"W")
_BENCH = Bench()
SEEDS = [
    encode_message(_BENCH.proposal(0, b"V")),
    encode_message(_BENCH.proposal(2, b"V", 0)),
    encode_message(_BENCH.votes(Kind.PREVOTE, 0, b"V", (1, 2))),
    encode_message(Certificate(b"V", _BENCH.votes(Kind.PRECOMMIT, 0, b"V", (1, 2, 3)))),
    encode_message(Wanted(7)),
    encode_equivocation(GENESIS, equivocation_of(1, V, W)),
    encode_genesis(GENESIS).encode(),
    new_log(GENESIS, NODE_ID),
]
TARGETS = [
    fuzz_committee.fuzz_committee_message,
    fuzz_committee.fuzz_equivocation,
    fuzz_committee.fuzz_genesis,
    fuzz_committee.fuzz_log,
]


@st.composite
def damaged(draw):
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.binary(max_size=300) | damaged() | st.sampled_from(SEEDS))
def test_fuzz(target, data):
    target(data)


def test_values_too_long_are_refused():
    statement = Statement(Kind.PROPOSAL, 1, 0, value_id(b""))
    with pytest.raises(DecodeError):
        decode_message(encode_message(Proposal(statement, bytes(MAX_VALUE_BYTES + 1), None, bytes(64))))
