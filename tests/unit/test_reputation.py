"""Reputation: more bad never helps, more good never hurts, proofs ban, and all who know the same find the same."""

from hypothesis import given, settings
from hypothesis import strategies as st

from verify.evidence import (
    LATE_MS,
    REFUSED_SHARE,
    Audit,
    Delivery,
    Flaw,
    Proof,
    Service,
    Source,
    in_order,
    weigh,
)
from verify.lower_bound import UNIT
from verify.reputation import (
    BAD_FORGOTTEN,
    FAILURE,
    GOOD_FORGOTTEN,
    NEW_BELOW,
    P_MIN,
    P_NEW,
    Reputation,
    audit_rate,
    explain,
    fold,
    traffic_cap,
)

DATES = st.integers(0, 1000)
IDS = st.integers(0, 2**32).map(lambda number: number.to_bytes(32, "big"))
AUDITS = st.builds(Audit, DATES, IDS, st.sampled_from(("passed", "failed")), st.sampled_from(Source))
PROOFS = st.builds(Proof, DATES, IDS, st.sampled_from(Flaw))
SERVICES = st.builds(
    Service, DATES, IDS, st.sampled_from(Delivery), st.integers(0, 5000), st.integers(0, 30_000)
)
EVIDENCE = st.one_of(AUDITS, PROOFS, SERVICES)
HISTORIES = st.lists(EVIDENCE, max_size=30, unique_by=lambda fact: fact.evidence_id)


def number(count):
    return count.to_bytes(32, "little")


def passes(count, start=0):
    return [Audit(date, number(date), "passed") for date in range(start, start + count)]


def after(facts, reputation=None):
    reputation = reputation or Reputation()
    for fact in facts:
        reputation = reputation.after(fact)
    return reputation


def numbers(reputation):
    return reputation.integrity.score, reputation.service.score, reputation.score


# --- how evidence moves it --------------------------------------------------------------------------


def with_one_more(history, fact):
    """The same history with this fact somewhere, whatever id it had."""
    new = next(number(count) for count in range(100) if number(count) not in {f.evidence_id for f in history})
    fields = {name: getattr(fact, name) for name in fact.__slots__} | {"evidence_id": new}
    return [*history, type(fact)(**fields)]


BAD = st.one_of(
    st.builds(Audit, DATES, IDS, st.just("failed"), st.sampled_from(Source)),
    PROOFS,
    st.builds(Service, DATES, IDS, st.sampled_from((Delivery.REFUSED, Delivery.LOST))),
)
GOOD = st.one_of(
    st.builds(Audit, DATES, IDS, st.just("passed"), st.sampled_from(Source)),
    st.builds(Service, DATES, IDS, st.just(Delivery.DELIVERED), st.just(1000), st.integers(0, 2500)),
)


@given(HISTORIES, BAD)
@settings(deadline=None)
def test_more_bad_evidence_never_raises_a_score_wherever_it_comes(history, fact):
    pairs = zip(numbers(fold(with_one_more(history, fact))), numbers(fold(history)), strict=True)
    assert all(more <= less for more, less in pairs)


@given(HISTORIES, GOOD)
@settings(deadline=None)
def test_more_good_evidence_never_lowers_a_score_wherever_it_comes(history, fact):
    pairs = zip(numbers(fold(with_one_more(history, fact))), numbers(fold(history)), strict=True)
    assert all(more >= less for more, less in pairs)


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 60))
@settings(deadline=None, max_examples=25)
def test_a_failure_late_in_a_long_history_lowers_a_score_too(good, failed, again):
    """Bad evidence is at its highest then, and forgets most."""
    before = after([Audit(0, b"", "failed")] * failed * 10, after(passes(good)))
    once_more = after([Audit(0, b"", "failed")] * (again + 1), before)
    assert once_more.integrity.score <= before.integrity.score
    assert once_more.integrity.bad >= before.integrity.bad


def test_good_is_forgotten_by_one_part_in_200_and_bad_by_one_in_2000():
    state = after([Audit(0, b"", "failed"), *passes(1)])
    assert state.integrity.bad == FAILURE * UNIT * (BAD_FORGOTTEN - 1) // BAD_FORGOTTEN
    assert state.integrity.good == UNIT
    again = after(passes(1), state)
    assert again.integrity.good == UNIT - UNIT // GOOD_FORGOTTEN + UNIT
    assert after(passes(1), after(passes(5000))).integrity.good <= GOOD_FORGOTTEN * UNIT


def test_a_part_of_a_fact_forgets_the_same_part_so_that_it_never_hurts():
    trusted = after(passes(2000))
    own = after([Audit(0, b"", "passed", Source.RELEASED)] * 100, trusted)
    assert own.integrity.good >= trusted.integrity.good


def test_a_newcomer_scores_below_whoever_has_passed_an_audit():
    assert Reputation().integrity.score == 16_952  # 1 - .95^(1/3)
    assert fold(passes(1)).integrity.score > Reputation().integrity.score


def test_a_failed_audit_is_no_proof_and_costs_more_than_a_pass_gains():
    trusted = fold(passes(100))
    failed = after([Audit(0, b"", "failed")], trusted)
    assert not failed.banned
    assert after(passes(20), failed).integrity.score < trusted.integrity.score


def test_passes_that_a_node_may_have_asked_of_itself_count_a_tenth():
    own = [Audit(date, number(date), "passed", Source.RELEASED) for date in range(10)]
    assert fold(own).integrity.score <= fold(passes(1)).integrity.score
    assert weigh(Audit(0, b"", "failed", Source.RELEASED)) == weigh(Audit(0, b"", "failed"))


@given(HISTORIES, PROOFS)
@settings(deadline=None)
def test_one_proof_bans_while_it_stands(history, proof):
    clean = [fact for fact in history if not isinstance(fact, Proof)]
    assert fold(with_one_more(clean, proof)).score == 0
    assert fold(with_one_more(clean, proof)).banned
    assert not fold(clean).banned


def test_integrity_and_service_are_held_apart_and_multiplied():
    served = [Service(date, number(date), Delivery.DELIVERED, 1000, 900) for date in range(100, 200)]
    both = fold([*passes(100), *served])
    assert both.integrity == fold(passes(100)).integrity
    assert both.service == fold(served).service
    assert both.score == both.integrity.score * both.service.score // UNIT


# --- service ----------------------------------------------------------------------------------------


def test_service_is_judged_by_what_was_promised():
    def waited(ms):
        return weigh(Service(0, b"", Delivery.DELIVERED, 1000, ms))

    assert (waited(2500).good, waited(2500).bad) == (UNIT, 0)
    assert (waited(2500 + LATE_MS // 4).good, waited(2500 + LATE_MS // 4).bad) == (UNIT * 3 // 4, UNIT // 4)
    assert waited(10 * LATE_MS) == weigh(Service(0, b"", Delivery.LOST))
    assert weigh(Service(0, b"", Delivery.LOST)).bad == UNIT
    assert weigh(Service(0, b"", Delivery.REFUSED)).bad == REFUSED_SHARE


# --- the fold ---------------------------------------------------------------------------------------


@given(st.lists(EVIDENCE, max_size=20), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_order_and_repetition_of_arrival_change_nothing(evidence, draw):
    shuffled = evidence + evidence[: len(evidence) // 2]
    draw.shuffle(shuffled)
    assert fold(shuffled) == fold(evidence)
    assert in_order(shuffled) == in_order(evidence)


def test_facts_of_one_record_that_read_alike_have_an_order_too():
    facts = [Service(0, number(1), Delivery.LOST, promised_ms) for promised_ms in (1, 2)]
    assert in_order(facts) == in_order(facts[::-1])


def test_one_record_counts_once_the_worse_of_one_date_first():
    passed, failed = Audit(5, number(1), "passed"), Audit(5, number(1), "failed")
    assert in_order([passed, failed, passed]) == [failed]
    proof = Proof(5, number(1), Flaw.FRAUD)
    assert in_order([passed, failed, proof]) == [proof]
    assert in_order([Audit(6, number(1), "passed"), failed]) == [failed]


@given(HISTORIES)
@settings(deadline=None)
def test_state_and_scores_stay_within_bounds(history):
    state = fold(history)
    assert all(0 <= score < UNIT for score in numbers(state))
    for tally, times in ((state.integrity, FAILURE), (state.service, 1)):
        assert 0 <= tally.good <= GOOD_FORGOTTEN * UNIT
        assert 0 <= tally.bad <= times * BAD_FORGOTTEN * UNIT


@given(HISTORIES)
@settings(deadline=None)
def test_explanation_leads_from_a_newcomer_to_the_score_step_by_step(history):
    steps = explain(history)
    states = [Reputation(), *(step.after for step in steps)]
    assert [step.before for step in steps] == states[:-1]
    assert states[-1] == fold(history)
    assert [step.fact for step in steps] == in_order(history)


def test_explanation_says_what_moved_which_score():
    steps = explain(
        [
            Audit(1, number(1), "passed"),
            Service(2, number(2), Delivery.LOST),
            Service(3, number(3), Delivery.DELIVERED, 900, 1200),
            Proof(4, number(4), Flaw.EQUIVOCATION),
        ]
    )
    said = [str(step) for step in steps]
    assert said[0] == "audit passed (canary): integrity 0.0169 -> 0.0976; reputation 0.0002 -> 0.0016"
    assert said[1].startswith("prompt lost: service 0.0169 -> 0.0127; ")
    assert said[2].startswith("first token after 1200 ms, 900 promised: service 0.0127 -> ")
    assert said[3].startswith("equivocation proof: banned while it stands; ")
    assert said[3].endswith(" -> 0.0000")


# --- what follows from it ---------------------------------------------------------------------------


@given(st.integers(0, UNIT), st.integers(0, UNIT))
def test_who_is_trusted_less_is_audited_no_less(one, other):
    low, high = sorted((one, other))
    assert P_MIN <= audit_rate(high) <= audit_rate(low) <= P_NEW


def test_audit_rate_goes_from_a_newcomers_to_the_least():
    assert (audit_rate(0), audit_rate(UNIT)) == (P_NEW, P_MIN)
    assert audit_rate(UNIT // 2) == (P_NEW + P_MIN) // 2


def test_new_nodes_traffic_is_capped():
    assert traffic_cap(NEW_BELOW - 1, 10_000) == 20
    assert traffic_cap(NEW_BELOW - 1, 100) == 5
    assert traffic_cap(0, 3) == 1
    assert traffic_cap(NEW_BELOW, 10_000) is None
    assert traffic_cap(fold(passes(7)).integrity.score, 10_000) == 20
    assert traffic_cap(fold(passes(8)).integrity.score, 10_000) is None
