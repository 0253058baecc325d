"""The committee's rules, each broken once: what is patched, and which check has to notice."""

from verify.committee import log, member, messages, recall
from verify.committee.genesis import Genesis
from verify.committee.member import CommitteeMember
from verify.committee.messages import NIL, Kind
from verify.committee.standing import Opened, Said, Standing, Step
from verify.committee.tally import Tally
from verify.committee.tendermint import Tendermint
from verify.committee.timing import CommitteeTiming
from verify.committee.voice import Voice


def nothing(*_args, **_kwargs):
    return None


def always(answer):
    return lambda *_args, **_kwargs: answer


# --- locks ---


def unlocking_on_nil(self, voted, precommit=Tendermint._precommit):
    precommit(self, voted)
    if voted == NIL:
        self.standing.locked = None


def never_unlocking(self, proposal):
    return self.standing.locked is None or self.standing.locked_id == proposal.statement.value_id


def unlocking_by_any_round(self, proposal):
    return proposal.statement.valid_round >= 0 or never_unlocking(self, proposal)


def refusing_what_is_locked(self, proposal):
    return self.standing.locked_round <= proposal.statement.valid_round


def locking_late(self, proposal, lock=Tendermint._lock):
    self.standing.step = Step.PREVOTE
    self._voice._may_say = always(True)
    lock(self, proposal)


def keeping_the_first_lock(self, message, say=Standing._say):
    locked = self.locked
    say(self, message)
    self.locked = locked or self.locked


def locking_any_value(self, proposal):
    return self.tally.has_any_quorum(Kind.PREVOTE, self.standing.round) and self._is_valid(proposal)


def eager_prevotes(self, now, on_prevotes=Tendermint._on_prevotes):
    if self.standing.step is Step.PROPOSE and self.tally.has_quorum(Kind.PREVOTE, self.standing.round, NIL):
        self._precommit(NIL)
    return on_prevotes(self, now)


def forgetting_the_valid_value(self):
    value = self._ballots.propose(self.standing.height)
    self._count_own(self._voice.propose(self.standing, value, None))


def locking_in_silence(self, proposal, lock=Tendermint._lock):
    send, self._voice.send = self._voice.send, lambda sent: send(sent) if len(sent.signatures) == 1 else None
    lock(self, proposal)
    self._voice.send = send


def keeping_locks(self, decided, now, *, was_handed=False, close=CommitteeMember._close):
    locked = self._present.standing.locked
    close(self, decided, now, was_handed=was_handed)
    self._present.standing.locked = locked


# --- speaking ---


def sending_first(self, standing, message):
    self.send(message)
    self.record(standing, Said(message))


def writing_nothing(self, standing, message):
    standing.apply(Said(message))
    self.send(message)


def forgetting_the_step(self, message):
    self.said[message.statement.round, message.statement.kind] = message


def forgetting_what_was_said(self):
    return [Opened(self.height, self.decided, self.is_abstaining)]


def forgetting_the_lock(self, records=Standing.records):
    return [
        r for r in records(self) if not (isinstance(r, Said) and r.message.statement.kind is Kind.PRECOMMIT)
    ]


def speaking_without_memory(height, stored, reason):
    return recall.Memory(Standing(height, stored), reason)


def trusting_certificates(self, decided, now, *, was_handed=False, close=CommitteeMember._close):
    close(self, decided, now)


def trusting_damaged_logs(data, unframe=log.unframe):
    payloads, _, _ = unframe(data)
    return payloads, 0, ""


def distrusting_torn_logs(data, unframe=log.unframe):
    payloads, torn_bytes, damage = unframe(data)
    return payloads, torn_bytes, damage or ("it is torn" if torn_bytes else "")


# --- checking and counting ---


def anyones_proposal(genesis, proposal):
    for number in range(len(genesis.members)):
        try:
            return messages.check_statement(genesis, proposal.statement, number, proposal.signature)
        except messages.AuthenticationError:
            continue
    raise messages.AuthenticationError("nobody's")


def proofless_proposals(genesis, proposal):
    said = proposal.statement
    messages.check_statement(genesis, said, genesis.proposer(said.height, said.round), proposal.signature)


def signed_for_any_network(genesis, statement):
    fields = (statement.height, statement.round, statement.valid_round + 1, statement.value_id)
    return messages.pack_record(fields)


def counting_the_last_vote(self, statement, who, signature):
    found = self._note(statement, who, signature)
    if self.keeps(statement.round):
        self._at(statement.round).votes[statement.kind][who] = (statement, signature)
    return found


def taken_along_by_traitors(self, count, reached=Tally.round_reached):
    return reached(self, max(1, count - 1))


def deciding_in_its_round_only(self):
    proposal = self.proposal(self._round)
    return [] if proposal is None else [proposal]


def keeping_everything(self, round_):
    return True


def forgetting_nothing(self, round_):
    self._round = round_


def impatient(self, step, round_):
    return self.propose_s if step is Step.PROPOSE else self.vote_s


def small_quorum(self):
    return 2 * len(self.members) // 3


def large_quorum(self):
    return len(self.members)


def same_contexts():
    return dict.fromkeys(Kind, b"clove-vote/1")


MUTANTS = {
    # what is broken: (patches, the check that fails)
    "a lock binds nobody": (
        [(Tendermint, "_lock_allows", always(True))],
        "a_locked_member_prevotes_nil_for_another_value",
    ),
    "nil unlocks": ([(Tendermint, "_precommit", unlocking_on_nil)], "a_quorum_for_nil_unlocks_nothing"),
    "nothing unlocks": (
        [(Tendermint, "_lock_allows", never_unlocking)],
        "a_later_quorum_of_prevotes_unlocks",
    ),
    "any round unlocks": (
        [(Tendermint, "_lock_allows", unlocking_by_any_round)],
        "an_earlier_quorum_of_prevotes_does_not_unlock",
    ),
    "a locked value needs proof": (
        [(Tendermint, "_lock_allows", refusing_what_is_locked)],
        "a_locked_member_prevotes_its_own_value_without_proof",
    ),
    "a late quorum locks": (
        [(Tendermint, "_lock", locking_late)],
        "a_late_quorum_makes_a_value_valid_and_locks_nothing",
    ),
    "the first lock stays": (
        [(Standing, "_say", keeping_the_first_lock)],
        "a_locked_member_that_precommits_another_value_is_locked_on_that",
    ),
    "any prevotes lock": (
        [(Tendermint, "_may_lock", locking_any_value)],
        "prevotes_for_another_value_lock_nothing",
    ),
    "a lock outlives its height": (
        [(CommitteeMember, "_close", keeping_locks)],
        "a_second_height_begins_with_no_lock",
    ),
    "the valid value is not proposed": (
        [(Tendermint, "_propose", forgetting_the_valid_value)],
        "proposer_proposes_the_latest_valid_value_with_its_prevotes",
    ),
    "a locked quorum is kept secret": (
        [(Tendermint, "_lock", locking_in_silence)],
        "a_quorum_that_is_locked_is_told_to_all",
    ),
    "precommits without a prevote": (
        [(Tendermint, "_on_prevotes", eager_prevotes)],
        "precommits_are_sent_only_after_a_prevote",
    ),
    "everything is valid": (
        [(Tendermint, "_is_valid", always(True))],
        "an_invalid_proposal_is_prevoted_nil",
    ),
    "quorum one too small": (
        [(Genesis, "quorum", property(small_quorum))],
        "fewer_than_a_quorum_lock_nothing",
    ),
    "quorum of all": (
        [(Genesis, "quorum", property(large_quorum))],
        "a_quorum_that_is_locked_is_told_to_all",
    ),
    "sent, then written": ([(Voice, "_say", sending_first)], "a_valid_proposal_is_prevoted_once"),
    "never written": ([(Voice, "_say", writing_nothing)], "nothing_is_said_twice_after_a_restart"),
    "a vote is no step": (
        [(Standing, "_say", forgetting_the_step), (Voice, "_may_say", always(True))],
        "nothing_is_said_twice_after_a_restart",
    ),
    "a log written anew is empty": (
        [(Standing, "records", forgetting_what_was_said)],
        "nothing_is_said_twice_after_a_restart",
    ),
    "a log without the lock": ([(Standing, "records", forgetting_the_lock)], "a_lock_outlives_a_restart"),
    "who forgot speaks": (
        [(recall, "_forgetful", speaking_without_memory)],
        "a_member_whose_log_is_lost_abstains_until_a_height_is_decided_before_its_eyes",
    ),
    "who forgot believes a certificate": (
        [(CommitteeMember, "_close", trusting_certificates)],
        "a_member_whose_log_is_lost_abstains_until_a_height_is_decided_before_its_eyes",
    ),
    "a damaged log is trusted": (
        [(log, "unframe", trusting_damaged_logs)],
        "a_log_that_is_damaged_before_its_end_is_not_trusted",
    ),
    "a torn log is damaged": (
        [(log, "unframe", distrusting_torn_logs)],
        "a_log_whose_end_is_torn_off_gives_back_what_was_synced",
    ),
    "another with the same key": (
        [(CommitteeMember, "_is_alien", always(False))],
        "a_member_whose_key_speaks_elsewhere_falls_silent",
    ),
    "proposals of anybody": (
        [(member, "check_proposal", anyones_proposal)],
        "a_proposal_of_somebody_else_than_the_proposer_closes_the_link",
    ),
    "proposals without proof": (
        [(member, "check_proposal", proofless_proposals)],
        "a_proposal_of_an_earlier_value_without_a_quorum_is_refused",
    ),
    "votes are not checked": (
        [(member, "check_votes", nothing)],
        "a_vote_with_a_false_signature_is_not_counted",
    ),
    "certificates are not checked": (
        [(member, "check_certificate", nothing)],
        "a_certificate_of_less_than_a_quorum_is_refused",
    ),
    "one context for all": (
        [(messages, "_CONTEXTS", same_contexts())],
        "a_signature_of_one_kind_is_none_of_another",
    ),
    "one network for all": (
        [(messages, "_signed_bytes", signed_for_any_network)],
        "what_was_said_in_another_network_is_refused",
    ),
    "the last vote counts": (
        [(Tally, "add_vote", counting_the_last_vote)],
        "two_votes_are_evidence_and_the_first_counts",
    ),
    "no evidence": ([(Tendermint, "_accuse", nothing)], "two_proposals_are_evidence"),
    "traitors take members along": (
        [(Tally, "round_reached", taken_along_by_traitors)],
        "one_more_than_the_traitors_take_a_member_along",
    ),
    "nobody is taken along": (
        [(Tally, "round_reached", always(-1))],
        "one_more_than_the_traitors_take_a_member_along",
    ),
    "only its own round decides": (
        [(Tally, "proposals", deciding_in_its_round_only)],
        "a_decision_of_an_earlier_round_counts",
    ),
    "all rounds are kept": ([(Tally, "keeps", keeping_everything)], "rounds_far_ahead_take_no_memory"),
    "no round is forgotten": ([(Tally, "enter", forgetting_nothing)], "old_rounds_are_forgotten"),
    "rounds end without a quorum": (
        [(Tally, "has_any_quorum", always(True))],
        "a_round_is_not_left_without_a_quorum",
    ),
    "no timeouts": ([(CommitteeTiming, "timeout_s", always(1e9))], "a_silent_proposer_is_given_up"),
    "timeouts that don't grow": ([(CommitteeTiming, "timeout_s", impatient)], "later_rounds_wait_longer"),
    "nothing is repeated": ([(Tendermint, "repeat", nothing)], "what_is_held_is_repeated"),
    "nobody is asked": ([(CommitteeMember, "_ask_next", nothing)], "each_other_member_is_asked_in_turn"),
    "nobody is served": ([(CommitteeMember, "_serve", nothing)], "who_is_behind_is_served_once_in_a_while"),
}
