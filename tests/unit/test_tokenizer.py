"""Prompts to ids: templates in a sandbox, the same on every day, and refusals that say why."""

import json

import pytest

from node.engine.errors import PromptRefusedError, UnsupportedModelError
from node.engine.tokenizer import PromptTokenizer
from overlay.wire.prompt import ChatMessage, Prompt, SamplerSpec
from tests.support.tiny_model import WORDS, write_tokenizer

TEMPLATE = "{{ bos_token }}{% for m in messages %} {{ m.role }} {{ m.content }} END{% endfor %} assistant"


@pytest.fixture
def folder(tmp_path):
    write_tokenizer(tmp_path)
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
        ("{{ strftime_now('%d') }}", "asks for today's date"),
        ("{{ nothing.at_all }}", "undefined"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[0].content + 1 }}", "str"),
        ("{% if %}", "can't be read"),
    ],
)
def test_a_template_that_objects_or_reaches_too_far_refuses_the_prompt(folder, template, why):
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(PromptRefusedError, match=why):
        PromptTokenizer(folder).encode(chat(("user", "hi")))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% if strftime_now is defined %}{{ strftime_now('%d') }}{% else %}hi{% endif %}", "hi"),
        ("{% if tools is not none %}START{% endif %} there", "there"),
        ("{% for m in messages %}{% generation %}hi{% endgeneration %}{% break %}{% endfor %}", "hi"),
        ("{{ {'a': '<hi>'} | tojson }}", "? hi ?"),
        ("{% if pad_token is defined %}START{% endif %} hi", "hi"),
    ],
)
def test_a_template_finds_what_transformers_gives_it_but_no_clock(folder, template, text):
    (folder / "chat_template.jinja").write_text(template)
    assert text in words(PromptTokenizer(folder).encode(chat(("user", "x"), ("user", "y"))))


def test_a_broken_template_leaves_plain_text(folder):
    (folder / "chat_template.jinja").write_text("{% if %}")
    prompt = Prompt(model="m", text="hi there", sampler=SamplerSpec(), nonce=bytes(32))
    assert words(PromptTokenizer(folder).encode(prompt)) == "hi there"


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("content", ["", "[]", "{", "\x00"])
def test_a_file_that_can_not_be_read_is_named(folder, file, content):
    (folder / file).write_text(content)
    with pytest.raises(UnsupportedModelError, match=file):
        PromptTokenizer(folder)


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_prompt_is_refused(folder, text):
    with pytest.raises(PromptRefusedError, match="empty"):
        PromptTokenizer(folder).encode(Prompt(model="m", text=text, sampler=SamplerSpec(), nonce=bytes(32)))
    with pytest.raises(PromptRefusedError, match="empty"):
        PromptTokenizer(folder).encode(chat())


def test_end_tokens_come_from_both_configurations(folder):
    (folder / "generation_config.json").write_text('{"eos_token_id": [6, 5]}')
    assert PromptTokenizer(folder).end_ids == {5, 6, 7}
