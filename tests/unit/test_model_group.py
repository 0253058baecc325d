"""A node's view of its model group: what was sent counts until it is taken, and blocks are where prompts went."""

import dataclasses

import pytest

from node.engine.events import CacheReport, EngineLoad
from node.serving.model_group import SESSION_S, TOLD_SOON_S, Membership, ModelGroup, block_key
from overlay.wire.group import BLOCK_TOKENS, GroupId, LoadReport
from overlay.wire.group_codec import decode_load, sign_load
from overlay.wire.group_messages import GroupVector
from overlay.wire.prompt import Task
from tests.support.descriptors import fixed_key
from tests.support.group_engine import IDLE_ENGINE, WordMeter
from tests.support.groups import IDLE, SPEED
from tests.support.network import NETWORK, a_prompt
from tests.support.scripted_engine import CARD

ALICE, BOB, CAROL = (fixed_key(name) for name in ("alice", "bob", "carol"))
TEXT = " ".join(f"word{number}" for number in range(4 * BLOCK_TOKENS + 1))
HAND, OTHER_HAND = b"the hand", b"another "


def a_group(load: EngineLoad | None = IDLE_ENGINE, **changes) -> ModelGroup:
    group = ModelGroup(
        Membership(ALICE, NETWORK, CARD), WordMeter(), lambda: load, incarnation=1, now=0.0, **changes
    )
    group.set_members([key.node_id for key in (ALICE, BOB, CAROL)])
    return group


def hear(group, key, *, seq=1, now=0.0, speed=None, **load):
    """A member tells its load."""
    report = LoadReport(key.node_id, 1, seq, speed or SPEED, dataclasses.replace(IDLE, **load))
    blob = sign_load(key.sign, group.id, report)
    assert group.machine.learn_load(key.node_id, blob, now)


def a_task(text=TEXT, *, cache="session", session=bytes(16), given=()):
    return Task(prompt=a_prompt(text), blinding=bytes(32), cache=cache, session=session, given=given)


def of(estimates, key):
    return next(each for each in estimates if each.member == key.node_id)


async def test_what_was_sent_counts_until_it_is_taken():
    group = a_group()
    hear(group, BOB)
    measured = await group.measure(a_task(cache="none", session=b""))
    idle = of(group.estimate(measured, 1.0), BOB).wait.total_s
    start_s = SPEED.mixed_step_s - SPEED.mixed_tokens * SPEED.prefill_token_s
    group.note_sent(BOB.node_id, HAND, measured, 0, 1.0)
    group.note_sent(BOB.node_id, OTHER_HAND, measured, 16, 1.0)
    ahead = of(group.estimate(measured, 1.0), BOB).wait.ahead_s
    assert ahead == pytest.approx((2 * measured.tokens - 16) * SPEED.prefill_token_s + start_s)
    group.note_taken(BOB.node_id, HAND)
    group.note_taken(BOB.node_id, b"unknown!")
    ahead = of(group.estimate(measured, 1.0), BOB).wait.ahead_s
    assert ahead == pytest.approx((measured.tokens - 16) * SPEED.prefill_token_s + start_s)
    group.note_taken(BOB.node_id, OTHER_HAND)
    assert of(group.estimate(measured, 1.0), BOB).wait.total_s == idle


async def test_prompts_that_were_sent_take_the_free_slots():
    group = a_group()
    hear(group, BOB, free_slots=0, answer_s=5.0)
    hear(group, CAROL, free_slots=1)
    measured = await group.measure(a_task("a b c"))
    assert of(group.estimate(measured, 1.0), BOB).wait.slot_s == 5.0
    assert of(group.estimate(measured, 1.0), CAROL).wait.slot_s == 0.0


async def test_what_stays_here_is_not_counted_twice_since_the_own_load_is_live():
    group = a_group()
    measured = await group.measure(a_task(cache="none", session=b""))
    before = of(group.estimate(measured, 0.0), ALICE)
    group.note_sent(ALICE.node_id, b"", measured, 0, 0.0)
    assert of(group.estimate(measured, 0.0), ALICE) == before


async def test_a_liar_is_estimated_by_what_it_was_late_by():
    group = a_group()
    hear(group, BOB)
    hear(group, CAROL, queued_tokens=500)
    measured = await group.measure(a_task())
    assert of(group.estimate(measured, 1.0), BOB).cost_s < of(group.estimate(measured, 1.0), CAROL).cost_s
    for _ in range(3):
        group.promises.delivered(BOB.node_id, 0.0, 10.0, 1.0)
    lying = of(group.estimate(measured, 1.0), BOB)
    assert lying.wait.late_s == group.promises.late_s(BOB.node_id, 1.0) > 1.0
    assert lying.cost_s > of(group.estimate(measured, 1.0), CAROL).cost_s
    asked = group.estimate_answer(BOB.node_id, 0, measured, 1.0)
    assert asked is not None  # its answer to a question, too
    assert asked.wait.late_s == lying.wait.late_s


async def test_a_sessions_next_turn_is_expected_where_the_last_one_went_and_nowhere_else():
    group = a_group()
    hear(group, BOB)
    hear(group, CAROL)
    turn = await group.measure(a_task())
    group.note_sent(BOB.node_id, HAND, turn, 0, 0.0)
    group.note_taken(BOB.node_id, HAND)
    later = await group.measure(a_task(TEXT + " and so on"))
    estimates = group.estimate(later, 60.0)
    assert of(estimates, BOB).cached_tokens == 4 * BLOCK_TOKENS
    assert of(estimates, CAROL).cached_tokens == of(estimates, ALICE).cached_tokens == 0
    another = await group.measure(a_task(session=b"another session!"))
    assert of(group.estimate(another, 60.0), BOB).cached_tokens == 0
    assert of(group.estimate(later, 2 * SESSION_S + 60.0), BOB).cached_tokens == 0


async def test_a_public_prompt_is_cached_where_its_blocks_were_told():
    group = a_group()
    hear(group, BOB)
    public = await group.measure(a_task(cache="public", session=b""))
    others_group = ModelGroup(
        Membership(BOB, NETWORK, CARD), WordMeter(), lambda: None, incarnation=1, now=0.0
    )
    others_group.cache_changed(CacheReport(CARD.model_id, b"key", begins=True, stored=public.chain[:3]))
    group.machine.receive_message(BOB.node_id, news_of(others_group, 2.0), 2.0)
    assert of(group.estimate(public, 2.0), BOB).cached_tokens == 3 * BLOCK_TOKENS
    others_group.cache_changed(CacheReport(CARD.model_id, b"key", begins=False, evicted=public.chain[1:2]))
    group.machine.receive_message(BOB.node_id, news_of(others_group, 4.0), 4.0)
    assert of(group.estimate(public, 4.0), BOB).cached_tokens == BLOCK_TOKENS
    session = await group.measure(a_task())
    assert of(group.estimate(session, 4.0), BOB).cached_tokens == 0


def news_of(group, now):
    """What a group's own member has written by now, as another gets it."""
    group.set_members([BOB.node_id, ALICE.node_id])
    group.machine.handle_deadline(now)
    wanted = GroupVector(group.id, {}, {}, is_reply=False)
    return group.machine.receive_message(ALICE.node_id, wanted, now)[0].message


def test_blocks_of_another_group_or_network_have_other_names():
    one, other = GroupId(bytes(16)), GroupId(bytes(range(16)))
    keys = {block_key(network, group) for network in (b"one", b"two") for group in (one, other)}
    assert len(keys) == 4
    assert {len(key) for key in keys} == {32}


async def test_tokens_of_the_answer_so_far_are_to_be_read_too():
    group = a_group()
    plain, going_on = await group.measure(a_task()), await group.measure(a_task(given=(1, 2, 3)))
    assert (going_on.tokens, going_on.chain) == (plain.tokens + 3, plain.chain)


async def test_a_prompt_that_shares_nothing_has_no_chain():
    assert (await a_group().measure(a_task(cache="none", session=b""))).chain == ()


async def test_a_node_whose_engine_has_said_nothing_tells_nothing_and_is_no_candidate():
    group = a_group(None)
    hear(group, BOB)
    assert group.tell_load() is None
    measured = await group.measure(a_task())
    assert [each.member for each in group.estimate(measured, 0.0)] == [BOB.node_id]


async def test_only_members_whose_load_is_known_count_as_others():
    group = a_group()
    assert list(group.others) == []
    hear(group, BOB)
    assert list(group.others) == [BOB.node_id]
    group.set_members([ALICE.node_id, CAROL.node_id])
    assert list(group.others) == []


async def test_who_has_no_reputation_left_is_not_asked():
    group = a_group(weigh=lambda member: 0.0 if member == BOB.node_id else 1.0)
    hear(group, BOB)
    hear(group, CAROL)
    measured = await group.measure(a_task())
    assert {each.member for each in group.estimate(measured, 0.0)} == {ALICE.node_id, CAROL.node_id}
    assert group.estimate_answer(BOB.node_id, 0, measured, 0.0) is None


async def test_nobody_is_believed_to_hold_more_than_the_prompt_has():
    group = a_group()
    hear(group, BOB)
    measured = await group.measure(a_task())
    told = group.estimate_answer(BOB.node_id, 8192, measured, 0.0)
    assert told is not None
    assert told.cached_tokens == 4 * BLOCK_TOKENS


async def test_a_public_prompt_is_expected_where_it_went_only_until_its_holder_must_have_told():
    group = a_group()
    hear(group, BOB)
    prompt = await group.measure(dataclasses.replace(a_task(), cache="public", session=b""))
    group.note_sent(BOB.node_id, HAND, prompt, 0, 0.0)
    assert of(group.estimate(prompt, TOLD_SOON_S - 1.0), BOB).cached_tokens > 0
    assert of(group.estimate(prompt, 2 * TOLD_SOON_S + 1.0), BOB).cached_tokens == 0


async def test_of_a_member_that_left_nothing_is_expected_when_it_is_back():
    group = a_group()
    hear(group, BOB)
    turn = await group.measure(a_task())
    group.note_sent(BOB.node_id, HAND, turn, 0, 0.0)
    members = set(group.machine.members)
    group.set_members(members - {BOB.node_id})
    group.set_members(members)
    hear(group, BOB)
    assert of(group.estimate(turn, 1.0), BOB).cached_tokens == 0


def test_what_an_engine_has_measured_is_told():
    engine = dataclasses.replace(IDLE_ENGINE, queued_tokens=70, decoding=2, decoding_s=5.0, mixed_step_s=0.5)
    blob = a_group(engine).tell_load()
    report = decode_load(blob, a_group().id).check()
    assert (report.load.queued_tokens, report.load.decoding, report.load.decoding_s) == (70, 2, 5.0)
    assert (report.speed.mixed_step_s, report.speed.mixed_tokens) == (0.5, IDLE_ENGINE.mixed_tokens)
    assert report.speed.prefill_token_s == IDLE_ENGINE.prefill_token_s


@pytest.mark.parametrize(
    "measured",
    [
        {"mixed_step_s": 3600.0, "prefill_token_s": 3600.0, "attended_s": 3600.0},  # the machine was asleep
        {"prefill_token_s": 0.0, "attended_s": 0.0, "mixed_step_s": 0.0},  # nothing took any time
        {"free_slots": 0, "wait_s": 1e9, "decoding_s": 1e9},
        {"queued_tokens": 1 << 40, "decoding": 1 << 20, "free_slots": 1 << 20},
    ],
)
def test_what_an_engine_has_measured_is_told_within_bounds_however_odd_it_is(measured):
    group = a_group(dataclasses.replace(IDLE_ENGINE, **measured))
    assert group.tell_load() is not None
