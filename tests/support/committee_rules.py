"""Each rule of the committee's algorithm, shown on one member. Each is broken once, and has to fail then."""

from tests.support.committee import INVALID, Bench, voted
from verify.committee.effects import (
    Abstaining,
    Broadcast,
    EquivocationFound,
    PeerMisbehaved,
    SendCertificate,
    SendMessage,
)
from verify.committee.message_codec import decode_message, encode_message
from verify.committee.messages import Certificate, Kind, Proposal, Votes, Wanted
from verify.committee.standing import Step

V, W = b"V", b"W"
PREVOTE, PRECOMMIT, PROPOSAL = Kind.PREVOTE, Kind.PRECOMMIT, Kind.PROPOSAL
RULES = []


def rule(check):
    RULES.append(check)
    return check


def locked_in_round_0():
    """Member 0 has locked V in round 0, in a committee of four."""
    bench = Bench().begin().propose(0, V).prevote(0, V, (1, 2))
    assert bench.said(PRECOMMIT, 0) == [voted(V)]
    return bench


def seen(bench, kind):
    return [effect for effect in bench.effects if isinstance(effect, kind)]


def has_nothing(bench, kind, round_):
    return bench.said(kind, round_) == []


@rule
def proposer_proposes_its_own_value_in_its_round_and_no_other():
    bench = Bench(me=1).begin()
    assert bench.said(PROPOSAL, 0) == [voted(b"own 1")]
    assert bench.said(PREVOTE, 0) == [voted(b"own 1")]
    bench.enter(1)
    assert has_nothing(bench, PROPOSAL, 1)


@rule
def proposer_proposes_the_latest_valid_value_with_its_prevotes():
    bench = locked_in_round_0().enter(3)  # round 3 is member 0's
    assert bench.said(PROPOSAL, 3) == [voted(V)]
    own = next(m for m in told(bench) if isinstance(m, Proposal) and m.statement.round == 3)
    assert own.statement.valid_round == 0
    assert [member for member, _ in own.prevotes.signatures] == [0, 1, 2]


def told(bench):
    return [decode_message(effect.message) for effect in seen(bench, Broadcast)]


@rule
def a_valid_proposal_is_prevoted_once():
    bench = Bench().begin().propose(0, V).propose(0, W)
    assert bench.said(PREVOTE, 0) == [voted(V)]


@rule
def an_invalid_proposal_is_prevoted_nil():
    assert Bench().begin().propose(0, INVALID).said(PREVOTE, 0) == [voted(None)]


@rule
def an_invalid_value_is_not_locked_whoever_prevotes_it():
    bench = Bench().begin().propose(0, INVALID).prevote(0, INVALID, (1, 2, 3))
    assert bench.said(PRECOMMIT, 0) in ([], [voted(None)])
    assert bench.member.standing.valid is None
    bench.precommit(0, INVALID, (1, 2, 3))
    assert bench.decided() == []


@rule
def nobody_speaks_before_the_height_is_begun():
    bench = Bench().propose(0, V).prevote(0, V, (1, 2, 3))
    assert bench.sent(PREVOTE) == bench.sent(PRECOMMIT) == []
    bench.begin()
    assert bench.said(PREVOTE, 0) == bench.said(PRECOMMIT, 0) == [voted(V)]


@rule
def a_proposal_of_somebody_else_than_the_proposer_closes_the_link():
    bench = Bench().begin().propose(0, V, by=2)
    assert has_nothing(bench, PREVOTE, 0)
    assert len(seen(bench, PeerMisbehaved)) == 1


@rule
def a_vote_with_a_false_signature_is_not_counted():
    bench = Bench().begin().propose(0, V)
    good = bench.votes(PREVOTE, 0, V, (1, 2))
    forged = Votes(good.statement, (good.signatures[0], (2, bytes(64))))
    bench.hear(forged)
    assert has_nothing(bench, PRECOMMIT, 0)
    assert len(seen(bench, PeerMisbehaved)) == 1


@rule
def a_signature_of_one_kind_is_none_of_another():
    bench = Bench().begin().propose(0, V)
    prevotes, precommits = (bench.votes(kind, 0, V, (1, 2, 3)) for kind in (PREVOTE, PRECOMMIT))
    bench.hear(Votes(precommits.statement, prevotes.signatures))
    assert bench.decided() == []


@rule
def fewer_than_a_quorum_lock_nothing():
    bench = Bench(count=7).begin().propose(0, V).prevote(0, V, (2, 3, 4))
    assert has_nothing(bench, PRECOMMIT, 0)
    bench.prevote(0, V, (5,))
    assert bench.said(PRECOMMIT, 0) == [voted(V)]


@rule
def votes_of_one_member_count_once():
    bench = Bench().begin().propose(0, V).prevote(0, V, (1,)).prevote(0, V, (1,)).prevote(0, V, (1,))
    assert has_nothing(bench, PRECOMMIT, 0)


@rule
def prevotes_for_another_value_lock_nothing():
    bench = Bench().begin().propose(0, V).prevote(0, W, (1, 2, 3))
    assert has_nothing(bench, PRECOMMIT, 0)


@rule
def fewer_than_a_quorum_decide_nothing():
    bench = Bench(count=7).begin().propose(0, V).precommit(0, V, (1, 2, 3, 4))
    assert bench.decided() == []
    bench.precommit(0, V, (5,))
    assert bench.decided() == [V]


@rule
def precommits_of_two_rounds_are_not_added_up():
    bench = Bench().begin().propose(0, V).precommit(0, V, (1, 2)).precommit(1, V, (3,)).propose(1, V, 0)
    assert bench.decided() == []


@rule
def a_locked_member_prevotes_nil_for_another_value():
    bench = locked_in_round_0().enter(1).propose(1, W)
    assert bench.said(PREVOTE, 1) == [voted(None)]


@rule
def a_locked_member_prevotes_its_own_value_without_proof():
    bench = locked_in_round_0().enter(1).propose(1, V)
    assert bench.said(PREVOTE, 1) == [voted(V)]


@rule
def a_quorum_for_nil_unlocks_nothing():
    bench = locked_in_round_0().enter(1)
    bench.propose(1, W).prevote(1, None, (1, 2, 3))
    assert bench.said(PRECOMMIT, 1) == [voted(None)]
    bench.precommit(1, None, (1, 2, 3)).wait(1.1).enter(2).propose(2, W)
    assert bench.said(PREVOTE, 2) == [voted(None)]


@rule
def a_lock_outlives_a_restart():
    bench = locked_in_round_0()
    bench.restart()
    bench.restart()  # from the log as the first one wrote it anew
    bench.begin().enter(1).propose(1, W)
    assert bench.said(PREVOTE, 1) == [voted(None)]


@rule
def a_later_quorum_of_prevotes_unlocks():
    bench = locked_in_round_0().enter(2)
    proof = bench.votes(PREVOTE, 1, W, (1, 2, 3))
    bench.propose(2, W, 1, proof=proof)
    assert bench.said(PREVOTE, 2) == [voted(W)]


@rule
def an_earlier_quorum_of_prevotes_does_not_unlock():
    bench = Bench().begin().enter(1).propose(1, V).prevote(1, V, (1, 2))
    assert bench.said(PRECOMMIT, 1) == [voted(V)]
    bench.enter(2).propose(2, W, 0, proof=bench.votes(PREVOTE, 0, W, (1, 2, 3)))
    assert bench.said(PREVOTE, 2) == [voted(None)]


@rule
def a_proposal_of_an_earlier_value_without_a_quorum_is_refused():
    bench = locked_in_round_0().enter(2)
    bench.propose(2, W, 1, proof=bench.votes(PREVOTE, 1, W, (2, 3)))
    assert has_nothing(bench, PREVOTE, 2)
    assert len(seen(bench, PeerMisbehaved)) == 1


@rule
def a_locked_member_that_precommits_another_value_is_locked_on_that():
    bench = locked_in_round_0().enter(1).propose(1, W).prevote(1, W, (1, 2, 3))
    assert bench.said(PRECOMMIT, 1) == [voted(W)]
    bench.enter(2).propose(2, V)
    assert bench.said(PREVOTE, 2) == [voted(None)]


@rule
def a_late_quorum_makes_a_value_valid_and_locks_nothing():
    bench = Bench().begin().propose(0, V).prevote(0, None, (1, 2, 3))
    assert bench.said(PRECOMMIT, 0) == [voted(None)]
    bench = Bench(count=7).begin().propose(0, V).prevote(0, None, (2, 3)).prevote(0, V, (1, 4)).wait(0.6)
    assert bench.said(PRECOMMIT, 0) == [voted(None)]
    bench.prevote(0, V, (5, 6))
    assert bench.member.standing.valid.value == V
    assert bench.member.standing.locked is None
    assert bench.said(PRECOMMIT, 0) == [voted(None)]
    bench.enter(6)
    assert bench.said(PROPOSAL, 6) == [voted(V)]


@rule
def a_quorum_that_is_locked_is_told_to_all():
    bench = locked_in_round_0()
    relayed = [m for m in told(bench) if isinstance(m, Votes) and m.statement.kind is PREVOTE]
    assert [member for member, _ in relayed[-1].signatures] == [0, 1, 2]


@rule
def precommits_are_sent_only_after_a_prevote():
    bench = Bench().begin().prevote(0, None, (1, 2, 3))
    assert has_nothing(bench, PRECOMMIT, 0)


@rule
def a_silent_proposer_is_given_up():
    bench = Bench().begin().wait(0.9)
    assert has_nothing(bench, PREVOTE, 0)
    assert bench.wait(0.2).said(PREVOTE, 0) == [voted(None)]


@rule
def later_rounds_wait_longer():
    bench = Bench().begin().enter(4).wait(2.9)
    assert has_nothing(bench, PREVOTE, 4)
    assert bench.wait(0.2).said(PREVOTE, 4) == [voted(None)]


@rule
def prevotes_that_agree_on_nothing_are_given_up():
    bench = Bench().begin().propose(0, V).prevote(0, W, (1,)).wait(0.7)
    assert has_nothing(bench, PRECOMMIT, 0)
    bench.prevote(0, None, (2,)).wait(0.4)
    assert has_nothing(bench, PRECOMMIT, 0)
    assert bench.wait(0.2).said(PRECOMMIT, 0) == [voted(None)]


@rule
def precommits_that_agree_on_nothing_start_the_next_round():
    bench = Bench().begin().propose(0, V).precommit(0, None, (1, 2, 3))
    assert bench.wait(0.4).member.standing.round == 0
    assert bench.wait(0.2).member.standing.round == 1


@rule
def a_round_is_not_left_without_a_quorum():
    bench = Bench().begin().propose(0, V).precommit(0, None, (1, 2)).wait(60)
    assert bench.member.standing.round == 0


@rule
def one_more_than_the_traitors_take_a_member_along():
    bench = Bench(count=7).begin().hear(Bench(count=7).votes(PREVOTE, 5, None, (2, 3)))
    assert bench.member.standing.round == 0
    bench.hear(bench.votes(PREVOTE, 9, None, (4,)))
    assert bench.member.standing.round == 5


@rule
def a_decision_of_an_earlier_round_counts():
    bench = Bench().begin().propose(0, V).precommit(0, V, (1, 2)).enter(1)
    assert bench.precommit(0, V, (3,)).decided() == [V]


@rule
def nothing_is_said_twice_after_a_restart():
    bench = Bench().begin().propose(0, V)
    bench.restart()
    bench.begin().propose(0, W).wait(5)
    assert bench.said(PREVOTE, 0) == [voted(V)]
    own = Bench(me=1).begin()
    own.restart()
    own.member._ballots.name = own.member._present._ballots.name = "other"
    own.begin()
    assert own.said(PROPOSAL, 0) == [voted(b"own 1")]


@rule
def a_restart_repeats_what_was_said():
    bench = Bench().begin().propose(0, V)
    bench.effects.clear()
    bench.restart()
    bench.begin().wait(0.1)
    assert bench.said(PREVOTE, 0) == [voted(V)]


@rule
def what_is_held_is_repeated():
    bench = locked_in_round_0().wait(0.1)
    bench.effects.clear()
    bench.wait(2.1)
    again = {(m.statement.kind, m.statement.value_id) for m in told(bench)}
    assert again == {(kind, voted(V)) for kind in Kind}


@rule
def a_second_height_begins_with_no_lock():
    bench = locked_in_round_0().precommit(0, V, (1, 2))
    assert bench.decided() == [V]
    assert bench.member.height == bench.member.standing.height == 2
    bench.height = 2
    bench.begin().propose(0, W)
    assert bench.said(PREVOTE, 0)[-1] == voted(W)


@rule
def a_decision_is_told_and_its_certificate_taken():
    bench = Bench().begin().propose(0, V).precommit(0, V, (1, 2, 3))
    assert [m.statement.kind for m in told(bench) if isinstance(m, Votes)][-1] is PRECOMMIT
    late = Bench().begin()
    late.hear(Certificate(V, late.votes(PRECOMMIT, 3, V, (1, 2, 3))), peer=2)
    assert late.decided() == [V]
    asked = [(e.peer, decode_message(e.message)) for e in seen(late, SendMessage)]
    assert asked[-1] == (late.keys[2].node_id, Wanted(2))


@rule
def a_certificate_of_less_than_a_quorum_is_refused():
    bench = Bench().begin()
    bench.hear(Certificate(V, bench.votes(PRECOMMIT, 0, V, (1, 2))))
    bench.hear(Certificate(V, bench.votes(PRECOMMIT, 0, W, (1, 2, 3))))
    assert bench.decided() == []
    assert len(seen(bench, PeerMisbehaved)) == 2


@rule
def who_is_behind_is_served_once_in_a_while():
    bench = Bench().begin().propose(0, V).precommit(0, V, (1, 2, 3))
    bench.hear(Wanted(1), peer=3).hear(Wanted(1), peer=3).hear(Wanted(2), peer=3)
    assert seen(bench, SendCertificate) == [SendCertificate(bench.keys[3].node_id, 1)]
    bench.wait(1.1).hear(Wanted(1), peer=3)
    assert len(seen(bench, SendCertificate)) == 2


@rule
def each_other_member_is_asked_in_turn():
    bench = Bench().begin().wait(7)
    asked = {effect.peer for effect in seen(bench, SendMessage)}
    assert asked == {key.node_id for key in bench.keys[1:]}


@rule
def messages_of_the_next_height_are_kept():
    bench = Bench().begin()
    bench.propose(0, W, height=2).hear(bench.votes(PREVOTE, 0, W, (1, 2), height=2))
    bench.propose(0, V).precommit(0, V, (1, 2, 3))
    assert bench.decided() == [V]
    bench.begin()
    assert bench.member.standing.step is Step.PRECOMMIT


@rule
def two_votes_are_evidence_and_the_first_counts():
    bench = Bench().begin().propose(0, V).prevote(0, V, (1,)).prevote(0, W, (1,)).prevote(0, None, (1,))
    (found,) = seen(bench, EquivocationFound)
    assert found.evidence.member == 1
    assert {half[0].value_id for half in (found.evidence.first, found.evidence.second)} == {
        voted(V),
        voted(W),
    }
    bench.prevote(0, V, (2,))
    assert bench.said(PRECOMMIT, 0) == [voted(V)]


@rule
def two_proposals_are_evidence():
    bench = Bench().begin().propose(0, V).propose(0, W)
    assert [effect.evidence.member for effect in seen(bench, EquivocationFound)] == [1]


@rule
def a_member_whose_key_speaks_elsewhere_falls_silent():
    bench = Bench().begin()
    bench.hear(bench.votes(PREVOTE, 0, W, (0,)))
    assert len(seen(bench, Abstaining)) == 1
    bench.propose(0, V).wait(5)
    assert has_nothing(bench, PREVOTE, 0)
    bench.restart()
    bench.begin().wait(5)
    assert has_nothing(bench, PREVOTE, 0)


@rule
def a_member_whose_log_is_lost_abstains_until_a_height_is_decided_before_its_eyes():
    bench = Bench()
    bench.log = None
    bench.restart()
    assert len(seen(bench, Abstaining)) == 1
    bench.begin().propose(0, V).prevote(0, V, (1, 2, 3)).wait(3)
    assert bench.sent(PREVOTE) == bench.sent(PRECOMMIT) == []
    bench.hear(Certificate(V, bench.votes(PRECOMMIT, 0, V, (1, 2, 3))))
    bench.height = 2
    bench.begin().propose(0, W)
    assert has_nothing(bench, PREVOTE, 0)  # handed over: it may have spoken at this height, too
    bench.precommit(0, W, (1, 2, 3))
    assert bench.decided() == [V, W]
    bench.height = 3
    bench.begin().propose(0, V)
    assert bench.said(PREVOTE, 0) == [voted(V)]


@rule
def messages_of_others_than_members_are_ignored():
    bench = Bench().begin()
    stranger = Bench(count=7)
    outsiders = [key for key in stranger.keys if key.node_id not in bench.genesis.members]
    data = encode_message(bench.proposal(0, V))
    assert bench.member.receive(outsiders[0].node_id, data, 0.0) == []
    assert has_nothing(bench, PREVOTE, 0)


@rule
def what_was_said_in_another_network_is_refused():
    bench, other = Bench().begin(), Bench()
    other.genesis = type(other.genesis).of("another", 60, other.genesis.members)
    bench.hear(other.proposal(0, V))
    assert has_nothing(bench, PREVOTE, 0)


@rule
def rounds_far_ahead_take_no_memory():
    bench = Bench().begin()
    for round_ in range(3, 300):
        bench.prevote(round_, V, (1,))
    assert len(bench.member._present.tally.all_votes()) == 0
    assert bench.member.standing.round == 0


@rule
def old_rounds_are_forgotten():
    bench = Bench().begin()
    for round_ in range(40):
        bench.enter(round_)
    assert len(bench.member._present.tally._rounds) <= 4


@rule
def a_lone_member_decides_alone():
    assert Bench(count=1).begin().decided() == [b"own 1"]


@rule
def a_log_that_is_damaged_before_its_end_is_not_trusted():
    bench = locked_in_round_0()
    for at in (3, len(bench.log) // 2, len(bench.log) - 1):
        damaged = bytearray(bench.log)
        damaged[at] ^= 1
        again = Bench()
        again.log = bytes(damaged)
        again.restart()
        assert len(seen(again, Abstaining)) == 1


@rule
def a_log_whose_end_is_torn_off_gives_back_what_was_synced():
    bench = Bench().begin()
    synced = bench.log
    bench.propose(0, V)
    for length in range(len(synced), len(bench.log)):
        again = Bench()
        again.log = bench.log[:length]
        again.restart()
        assert seen(again, Abstaining) == []
        assert again.member.standing.step is Step.PROPOSE
        assert again.log == synced
