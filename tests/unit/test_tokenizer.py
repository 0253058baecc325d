"""Prompts to ids: templates in a sandbox, the same on every day, and refusals that say why."""

import json

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from node.engine.errors import PromptRefusedError
from node.engine.tokenizer import PromptTokenizer
from overlay.wire.prompt import ChatMessage, Prompt, SamplerSpec

WORDS = ("?", "user", "assistant", "system", "hi", "there", "START", "END")
TEMPLATE = "{{ bos_token }}{% for m in messages %} {{ m.role }} {{ m.content }} END{% endfor %} assistant"


@pytest.fixture
def folder(tmp_path):
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"eos_token_id": 7}')
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": {"content": "START"}}')
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    return tmp_path


def chat(*turns):
    messages = tuple(ChatMessage(role, content) for role, content in turns)
    return Prompt(model="m", messages=messages, sampler=SamplerSpec(), nonce=bytes(32))


def words(ids):
    return " ".join(WORDS[token] for token in ids)


def test_a_conversation_goes_through_the_template(folder):
    ids = PromptTokenizer(folder).encode(chat(("system", "hi"), ("user", "there")))
    assert words(ids) == "START system hi END user there END assistant"


def test_a_plain_text_is_taken_as_it_is(folder):
    prompt = Prompt(model="m", text="hi there", sampler=SamplerSpec(), nonce=bytes(32))
    assert words(PromptTokenizer(folder).encode(prompt)) == "hi there"


def test_a_template_in_the_tokenizer_s_settings_counts_too(folder):
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "START", "chat_template": TEMPLATE})
    )
    assert words(PromptTokenizer(folder).encode(chat(("user", "hi")))) == "START user hi END assistant"


def test_without_a_template_a_conversation_is_refused(folder):
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(PromptRefusedError, match="no chat template"):
        PromptTokenizer(folder).encode(chat(("user", "hi")))


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ strftime_now('%d') }}", "undefined"),
    ],
)
def test_a_template_that_objects_or_reaches_too_far_refuses_the_prompt(folder, template, why):
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(PromptRefusedError, match=why):
        PromptTokenizer(folder).encode(chat(("user", "hi")))


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_prompt_is_refused(folder, text):
    with pytest.raises(PromptRefusedError, match="empty"):
        PromptTokenizer(folder).encode(Prompt(model="m", text=text, sampler=SamplerSpec(), nonce=bytes(32)))
    with pytest.raises(PromptRefusedError, match="empty"):
        PromptTokenizer(folder).encode(chat())


def test_end_tokens_come_from_both_configurations(folder):
    (folder / "generation_config.json").write_text('{"eos_token_id": [6, 5]}')
    assert PromptTokenizer(folder).end_ids == {5, 6, 7}
