"""Members that lie of themselves or do nonsense: each costs some prompts a moment, and honest ones answer the rest."""

from collections import Counter
from contextlib import suppress

import pytest
import trio
from structlog.testing import capture_logs

from overlay.errors import AnswerError
from overlay.wire.answer import (
    BUSY,
    AnswerAccepted,
    AnswerFailed,
    CheckpointIssued,
    ReceiptIssued,
    TokensGenerated,
)
from overlay.wire.answer_codec import frame_event
from overlay.wire.handover import (
    HAND_ID_BYTES,
    EventsPart,
    HandEnded,
    PromptPart,
    WaitAsked,
    WaitTold,
    encode_handed,
)
from overlay.wire.limits import (
    HAND_MESSAGE_BURST,
    MAX_HAND_PART_BYTES,
    MAX_HANDED_PROMPTS_PER_MEMBER,
)
from overlay.wire.records import pack_record
from tests.fuzz.fuzz_handover import HANDED
from tests.support.entropy import fixed_entropy
from tests.support.group_engine import GroupEngine
from tests.support.liars import LIES, claim_absurd_speed
from tests.support.members import (
    GOSSIP_S,
    Meddler,
    author_of,
    group_id_of,
    group_network,
    group_of,
    until,
    until_told,
)
from tests.support.network import a_prompt, answer_to

WORDS = " ".join(f"word{number}" for number in range(2047))
PROMPTS = 12
HONEST_S = 2.0
LIAR = "m1"


def long_prompt(number):
    """No two begin alike."""
    return a_prompt(f"{number} {WORDS}", tokens=3)


def honest_engine(queued=0):
    """What it tells is what it takes, as it has read nothing of a prompt."""
    engine = GroupEngine(first_s=HONEST_S + queued / 1024)
    engine.gate.set(queued_tokens=queued)
    return engine


def busy_engine():
    engine = GroupEngine()
    engine.gate.set(queued_tokens=20_000)
    return engine


@pytest.mark.parametrize("lie", LIES)
async def test_who_promises_much_and_keeps_little_is_asked_less_and_named_once(autojump_clock, lie):
    engines = [honest_engine(100), GroupEngine(first_s=8.0), honest_engine()]
    async with group_network(*engines) as net:
        await lie(net[LIAR], engines[1], [long_prompt(number) for number in range(PROMPTS)])
        await until_told(net, by=LIAR)
        await trio.sleep(GOSSIP_S)
        with capture_logs() as logs:
            authors = Counter()
            for number in range(PROMPTS):
                prompt = long_prompt(number)
                told = await net.ask(prompt, cache="public")
                assert told.text == answer_to(prompt)
                authors[net.name_of(author_of(told))] += 1
        assert authors[LIAR] <= 1
        assert authors["m0"] + authors["m2"] >= PROMPTS - 1
        assert 1 <= len(engines[1].started) <= PROMPTS // 2
        named = [entry["member"] for entry in logs if entry["event"].startswith("a member does not")]
        assert named == [net[LIAR].node_id.hex()[:16]]


async def test_a_member_that_refuses_all_that_its_words_draw_is_asked_less(autojump_clock):
    engines = [honest_engine(100), GroupEngine(slots=0), honest_engine()]
    async with group_network(*engines) as net:
        await claim_absurd_speed(net[LIAR], engines[1], [])
        tap = Meddler(net[LIAR], lambda _peer, _message: False)
        await until_told(net, by=LIAR)
        for number in range(PROMPTS):
            prompt = long_prompt(number)
            told = await net.ask(prompt, cache="public")
            assert told.text == answer_to(prompt)
        asked = {message.hand for message in tap.seen if isinstance(message, PromptPart)}
        assert len(asked) <= PROMPTS // 2


async def test_an_honest_member_that_was_too_busy_gets_prompts_again_when_it_said(autojump_clock):
    engines = [honest_engine(1000), honest_engine(), honest_engine(2000)]
    async with group_network(*engines) as net:
        liar = answers_with(net, frame_event(AnswerFailed(BUSY, "come again", 5.0)), is_last=True)
        assert net.name_of(author_of(await net.ask(long_prompt(0), cache="public"))) == "m0"
        net[LIAR].switch.groups = net[LIAR].groups
        assert net.name_of(author_of(await net.ask(long_prompt(1), cache="public"))) == "m0"
        assert sum(isinstance(message, PromptPart) and message.is_last for message in liar.seen) == 1
        await trio.sleep(6.0)
        assert net.name_of(author_of(await net.ask(long_prompt(2), cache="public"))) == LIAR


@pytest.mark.parametrize("code", ["prompt_refused", "unknown_model", "busy"])
async def test_a_members_refusal_is_not_taken_for_the_entrys_own(autojump_clock, code):
    engines = [busy_engine(), GroupEngine()]
    async with group_network(*engines) as net:
        answers_with(net, frame_event(AnswerFailed(code, "no", None)))
        prompt = a_prompt()
        told = await net.ask(prompt)
        assert told.text == answer_to(prompt)
        assert author_of(told) == net["m0"].node_id


def answers_with(net, *parts, is_last=False):
    """The liar answers every prompt with these bytes. Returns its ear."""
    switch = net[LIAR].switch

    def answer(peer, message):
        if isinstance(message, PromptPart) and message.is_last:
            for data in parts:
                switch.send_group_message(peer, EventsPart(message.hand, is_last, data))
        return isinstance(message, PromptPart)

    return Meddler(net[LIAR], answer)


TOKEN = frame_event(TokensGenerated("an honest token", 1, (), (0,)))


@pytest.mark.parametrize(
    "parts",
    [
        (b"\0\0\0\2\xff\xff",),
        (b"\0\0\0\2\xff\xff", TOKEN, TOKEN),
        (b"\xff\xff\xff\xff", b"more", TOKEN),
        (b"",),
        (frame_event(ReceiptIssued(b"of nothing")), TOKEN),
        (frame_event(AnswerAccepted()),) * 9,
    ],
)
async def test_an_answer_of_nonsense_is_given_up_and_the_link_stays(autojump_clock, parts):
    engines = [busy_engine(), GroupEngine()]
    async with group_network(*engines) as net:
        ear = answers_with(net, *parts, is_last=parts == (b"",))
        prompt = a_prompt()
        link = net["m0"].switch.links.get(net[LIAR].node_id)
        told = await net.ask(prompt)
        assert told.text == answer_to(prompt)
        assert author_of(told) == net["m0"].node_id
        assert net["m0"].switch.links.get(net[LIAR].node_id) is link
        assert sum(isinstance(message, PromptPart) for message in ear.seen) == 1


async def test_a_members_false_checkpoint_is_not_laid_at_its_entrys_door(autojump_clock):
    engines = [busy_engine(), GroupEngine()]
    async with group_network(*engines) as net:
        answers_with(net, TOKEN, frame_event(CheckpointIssued(b"signed by nobody")))
        told = await net.ask(a_prompt())
        assert told.attempts[0].node_id == net["m0"].node_id
        assert told.attempts[0].error.code == "member_lost"
        assert net["m0"].node_id not in net.client._shunned


async def test_a_flood_of_events_ends_the_answer_and_nothing_else(autojump_clock):
    engines = [busy_engine(), GroupEngine()]
    async with group_network(*engines) as net:
        answers_with(net, *[TOKEN * 20] * 10)
        link = net["m0"].switch.links.get(net[LIAR].node_id)
        with suppress(AnswerError):  # it has more tokens than it asked for
            await net.ask(a_prompt())
        net[LIAR].switch.groups = net[LIAR].groups
        told = await net.ask(a_prompt("And the sea?"))
        assert told.text == answer_to(a_prompt("And the sea?"))
        assert net["m0"].switch.links.get(net[LIAR].node_id) is link


async def test_an_answer_that_never_comes_is_waited_for_so_long_and_no_longer(autojump_clock):
    engines = [busy_engine(), GroupEngine()]
    async with group_network(*engines) as net:
        ear = answers_with(net)
        prompt, started = a_prompt(), trio.current_time()
        told = await net.ask(prompt)
        assert told.text == answer_to(prompt)
        assert author_of(told) == net["m0"].node_id
        assert 3.0 < trio.current_time() - started < 3.5 + 40 * 0.03 + 1.0
        assert isinstance(ear.seen[-1], HandEnded) or any(isinstance(each, HandEnded) for each in ear.seen)


async def test_a_member_that_falls_silent_in_its_answer_costs_its_entry_no_trust(autojump_clock):
    engines = [busy_engine(), GroupEngine(), GroupEngine()]
    engines[2].gate.set(queued_tokens=20_000)

    async def stall(at):
        if at == 10:
            await trio.sleep_forever()

    engines[1].at_token = stall
    async with group_network(*engines) as net:
        prompt, started = a_prompt(), trio.current_time()
        told = await net.ask(prompt)
        assert told.text == answer_to(prompt)
        assert [attempt.node_id for attempt in told.attempts] == [net["m0"].node_id] * 2
        assert told.attempts[0].error.code == "member_lost"
        assert trio.current_time() - started < 10 + 40 * 0.03 + 1.0
        assert engines[1].generating == 0


# --- what comes uncalled for ----------------------------------------------------------------------------


async def linked(net, source, target):
    await net[source].switch.link_to(net[target].node_id)


async def test_a_flood_of_questions_is_answered_at_a_rate(autojump_clock):
    async with group_network(GroupEngine(), GroupEngine()) as net:
        await linked(net, LIAR, "m0")
        hands, entropy = net["m0"].groups.hands, fixed_entropy("flood")
        before = Counter(hands.counters)
        for _ in range(4 * HAND_MESSAGE_BURST):
            question = WaitAsked(group_id_of(net), entropy(HAND_ID_BYTES), ())
            assert net[LIAR].switch.send_group_message(net["m0"].node_id, question)
        await trio.sleep(0.5)
        told = hands.counters - before
        assert told["questions_answered"] + told["questions_over_rate"] == 4 * HAND_MESSAGE_BURST
        assert told["questions_answered"] <= HAND_MESSAGE_BURST + 64
        told = await net.ask(a_prompt())
        assert told.text == answer_to(a_prompt())


@pytest.mark.parametrize("stranger", ["r0", "c"])
async def test_prompts_and_questions_of_strangers_are_refused(autojump_clock, stranger):
    async with group_network(GroupEngine(), GroupEngine()) as net:
        await linked(net, stranger, "m0")
        heard = overhear(net, "m0", stranger)
        switch, hand = net[stranger].switch, bytes(HAND_ID_BYTES)
        data = encode_handed(HANDED)
        switch.send_group_message(
            net["m0"].node_id, PromptPart(group_id_of(net), hand, is_last=True, data=data)
        )
        switch.send_group_message(net["m0"].node_id, WaitAsked(group_id_of(net), hand, ()))
        await trio.sleep(0.5)
        hands = net["m0"].groups.hands
        assert hands.counters["refused"] == 1
        assert hands.counters["of_strangers"] == 1
        assert net["m0"].engine.started == []
        assert heard == [HandEnded(hand)]


def overhear(net, source, target):
    """What a node sends to another of handing over, as it comes."""
    heard = []

    class Ear:
        def group_message(self, peer, message):
            if peer == net[source].node_id and isinstance(message, HandEnded | WaitTold | EventsPart):
                heard.append(message)

        def neighbour_lost(self, peer):
            pass

    net[target].switch.groups = Ear()
    return heard


@pytest.mark.parametrize("data", [b"x", pack_record((1,)), pack_record((1, 0)), encode_handed(HANDED)[:-1]])
async def test_a_malformed_prompt_is_refused_and_the_link_stays(autojump_clock, data):
    async with group_network(GroupEngine(), GroupEngine()) as net:
        await linked(net, LIAR, "m0")
        heard = overhear(net, "m0", LIAR)
        link = net["m0"].switch.links.get(net[LIAR].node_id)
        part = PromptPart(group_id_of(net), bytes(HAND_ID_BYTES), is_last=True, data=data)
        net[LIAR].switch.send_group_message(net["m0"].node_id, part)
        await trio.sleep(0.5)
        assert heard == [HandEnded(part.hand)]
        assert net["m0"].switch.links.get(net[LIAR].node_id) is link
        assert net["m0"].engine.started == []


async def test_half_prompts_are_bounded_by_number_and_by_length(autojump_clock):
    async with group_network(GroupEngine(), GroupEngine()) as net:
        await linked(net, LIAR, "m0")
        heard, entropy = overhear(net, "m0", LIAR), fixed_entropy("halves")
        hands, group = net["m0"].groups.hands, group_id_of(net)
        for _ in range(MAX_HANDED_PROMPTS_PER_MEMBER + 10):
            part = PromptPart(group, entropy(HAND_ID_BYTES), is_last=False, data=b"half")
            net[LIAR].switch.send_group_message(net["m0"].node_id, part)
        await trio.sleep(0.5)
        assert hands.counters["refused"] == len(heard) == 10
        await trio.sleep(20.0)  # those that stand about too long make room again
        long = entropy(HAND_ID_BYTES)
        for _ in range(10):
            part = PromptPart(group, long, is_last=False, data=bytes(MAX_HAND_PART_BYTES))
            net[LIAR].switch.send_group_message(net["m0"].node_id, part)
        await trio.sleep(1.0)
        assert HandEnded(long) in heard


async def test_a_flood_of_loads_that_nobody_asked_for_costs_no_check_of_a_signature(autojump_clock):
    async with group_network(GroupEngine(), GroupEngine()) as net:
        await linked(net, LIAR, "m0")
        hands, entropy, group = net["m0"].groups.hands, fixed_entropy("loads"), group_of(net[LIAR])
        heard = group_of(net["m0"]).machine.load_of(net[LIAR].node_id)
        net[LIAR].engine.gate.set(queued_tokens=7777)
        blob = group.tell_load()
        for _ in range(1000):
            flood = WaitTold(group.id, entropy(HAND_ID_BYTES), blob, 0)
            assert net[LIAR].switch.send_group_message(net["m0"].node_id, flood)
        await until(lambda: hands.counters["told_uncalled_for"] == 1000, 0.5)
        assert group_of(net["m0"]).machine.load_of(net[LIAR].node_id).report == heard.report
        assert net["m0"].switch.links.get(net[LIAR].node_id) is not None


async def test_answers_and_ends_that_nobody_asked_for_are_ignored(autojump_clock):
    async with group_network(GroupEngine(), GroupEngine()) as net:
        await linked(net, LIAR, "m0")
        hand = bytes(HAND_ID_BYTES)
        for message in (
            EventsPart(hand, is_last=True, data=TOKEN),
            HandEnded(hand),
            WaitTold(group_of(net["m0"]).id, hand, b"x", 5),
        ):
            net[LIAR].switch.send_group_message(net["m0"].node_id, message)
        await until(lambda: net["m0"].switch.links.get(net[LIAR].node_id))
        told = await net.ask(a_prompt())
        assert told.text == answer_to(a_prompt())
