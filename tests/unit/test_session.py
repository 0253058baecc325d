"""Which prompts of a client share a session at a model node: those that begin alike, and no others."""

from dataclasses import replace

import pytest

from crypto.identity import NodeId
from overlay.protocol.session import KEY_LIFETIME_S, SessionNames
from overlay.wire.prompt import SESSION_BYTES, ChatMessage, Prompt, SamplerSpec
from tests.support.entropy import fixed_entropy

NODE, OTHER_NODE = NodeId(bytes(32)), NodeId(bytes([1]) * 32)
FIRST = ChatMessage("user", "Why is the sky blue?")
CHAT = Prompt(
    model="small",
    messages=(ChatMessage("system", "Be brief."), FIRST),
    sampler=SamplerSpec(),
    nonce=bytes(32),
)
TEXT = Prompt(model="small", text="Once upon a time " * 100, sampler=SamplerSpec(), nonce=bytes(32))


@pytest.fixture
def names():
    return SessionNames(fixed_entropy("sessions"))


def test_the_next_turn_of_a_conversation_has_its_session(names):
    turns = (*CHAT.messages, ChatMessage("assistant", "Rayleigh."), ChatMessage("user", "And red at dusk?"))
    name = names.name(CHAT, NODE, 0.0)
    assert len(name) == SESSION_BYTES
    assert names.name(replace(CHAT, messages=turns, nonce=bytes([7]) * 32), NODE, 1.0) == name


def test_a_text_that_goes_on_has_its_session(names):
    assert names.name(TEXT, NODE, 0.0) == names.name(replace(TEXT, text=f"{TEXT.text} and more"), NODE, 0.0)


@pytest.mark.parametrize(
    "other",
    [
        replace(CHAT, messages=(ChatMessage("system", "Be long."), FIRST)),
        replace(CHAT, messages=(CHAT.messages[0], ChatMessage("user", "Why is the sea blue?"))),
        replace(CHAT, messages=(ChatMessage("user", "Be brief."), FIRST)),
        replace(CHAT, model="large"),
        replace(TEXT, text="Twice upon a time"),
    ],
)
def test_another_beginning_is_another_session(names, other):
    assert names.name(other, NODE, 0.0) not in (names.name(CHAT, NODE, 0.0), names.name(TEXT, NODE, 0.0))


def test_two_model_nodes_and_two_clients_have_no_name_in_common(names):
    stranger = SessionNames(fixed_entropy("somebody else"))
    found = {names.name(CHAT, NODE, 0.0), names.name(CHAT, OTHER_NODE, 0.0), stranger.name(CHAT, NODE, 0.0)}
    assert len(found) == 3


def test_names_turn_with_the_key(names):
    assert names.name(CHAT, NODE, 0.0) == names.name(CHAT, NODE, KEY_LIFETIME_S - 1)
    assert names.name(CHAT, NODE, 0.0) != names.name(CHAT, NODE, KEY_LIFETIME_S)
