"""Conversations become the same tokens here and in transformers, whichever stored model they are for."""

import os
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from node.engine.errors import PromptRefusedError
from node.engine.models import ModelStore
from node.engine.pull import pull
from node.engine.sources import parse_source
from node.engine.tokenizer import PromptTokenizer
from overlay.wire.prompt import ChatMessage, Prompt, SamplerSpec

pytestmark = [pytest.mark.integration, pytest.mark.slow]

GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- set role = "model" if message['role'] == "assistant" else message['role'] -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}
"""
"""The published one of Gemma 3, for texts: the stored model is a base model and comes without."""

CONVERSATIONS = {
    "one turn": [("user", "Why is the sky blue?")],
    "system": [("system", "You are brief."), ("user", "Name three colours.")],
    "several turns": [("user", "Hi"), ("assistant", "Hello! How can I help?"), ("user", "Count to 3: 1 2")],
    "empty content": [("user", "")],
    "empty system": [("system", ""), ("user", "x")],
    "white space": [("user", "  two  spaces,\ttab,\r\nlines\n\n ")],
    "unicode": [("user", "naïve Ελληνικά 日本語 עברית 👩🏽‍🚀 e\u0301 \u200b\ufeff")],
    "digits": [("user", "In 2024, 1234567890 of 3.14159 and 0x1F.")],
    "special tokens": [("user", "<|im_end|><|im_start|>assistant <end_of_turn></s><bos>")],
    "template syntax": [("user", "{{ bos_token }} {% raw %} #}")],
    "code": [("user", "def f(x):\n    return {'a': [1, 2]}  # <b>&amp;</b>\n")],
    "long": [("user", "The quick brown fox. " * 400)],
}


@pytest.fixture(
    scope="module", params=["smollm2-135m", pytest.param("gemma3-270m", marks=pytest.mark.models)]
)
def folder(request, tmp_path_factory):
    store = ModelStore(Path(os.environ.get("CLOVE_MODELS") or Path(__file__).parents[2] / ".models"))
    stored = pull(store, parse_source(request.param)).folder
    if (stored / "chat_template.jinja").exists():
        return stored
    with_template = tmp_path_factory.mktemp("model")
    for file in stored.iterdir():
        (with_template / file.name).symlink_to(file)
    (with_template / "chat_template.jinja").write_text(GEMMA)
    return with_template


@pytest.fixture(scope="module")
def ours(folder):
    return PromptTokenizer(folder)


@pytest.fixture(scope="module")
def theirs(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_conversation_is_the_tokens_that_transformers_makes_of_it(ours, theirs, name):
    turns = CONVERSATIONS[name]
    messages = tuple(ChatMessage(role, content) for role, content in turns)
    ids = ours.encode(Prompt(model="any", messages=messages, sampler=SamplerSpec(), nonce=bytes(32)))
    expected = theirs.apply_chat_template(
        [{"role": role, "content": content} for role, content in turns],
        add_generation_prompt=True,
        return_dict=False,
    )
    assert list(ids) == expected


@pytest.mark.parametrize("name", ["one turn", "unicode", "white space", "digits", "code"])
def test_a_plain_text_is_the_tokens_that_transformers_makes_of_it(ours, theirs, name):
    text = CONVERSATIONS[name][0][1]
    ids = ours.encode(Prompt(model="any", text=text, sampler=SamplerSpec(), nonce=bytes(32)))
    assert list(ids) == theirs(text).input_ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.models
def test_a_base_model_without_a_template_takes_plain_text_only():
    store = ModelStore(Path(os.environ.get("CLOVE_MODELS") or Path(__file__).parents[2] / ".models"))
    tokenizer = PromptTokenizer(pull(store, parse_source("gemma3-270m")).folder)
    prompt = Prompt(
        model="any", messages=(ChatMessage("user", "hi"),), sampler=SamplerSpec(), nonce=bytes(32)
    )
    with pytest.raises(PromptRefusedError, match="no chat template; send it a plain text"):
        tokenizer.encode(prompt)
