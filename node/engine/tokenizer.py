"""A stored model's tokenizer and chat template: prompt to ids, ids to text."""

import json
from collections.abc import Sequence
from pathlib import Path

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from node.engine.errors import PromptRefusedError
from node.engine.spelling import TokenSpelling
from overlay.wire.prompt import ChatMessage, Prompt


class PromptTokenizer:
    """Turns prompts into ids the same way on every node, today and tomorrow.

    Templates run in a sandbox and are given no clock: a template that prints the date would make yesterday's answer
    impossible to replay.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._spelling = TokenSpelling(self._tokenizer)
        settings = _read_json(folder / "tokenizer_config.json")
        self._special_texts = {
            name: _token_text(settings.get(name))
            for name in ("bos_token", "eos_token", "pad_token", "unk_token")
        }
        template = _chat_template(folder, settings)
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise_template_error
        self._template = environment.from_string(template) if template else None
        self.end_ids = _end_ids(folder)

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt's token ids.

        Raises:
            PromptRefusedError: it is empty, or the model has no template for conversations or refuses this one.
        """
        if prompt.text is not None:
            encoded = self._tokenizer.encode(prompt.text)
        else:
            encoded = self._tokenizer.encode(self._render(prompt.messages), add_special_tokens=False)
        if not encoded.ids:
            raise PromptRefusedError("the prompt is empty")
        return tuple(encoded.ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of these ids, special tokens left out."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one token stands for; of a special token its name."""
        return self._spelling.bytes_of(token_id)

    def _render(self, messages: Sequence[ChatMessage]) -> str:
        if self._template is None:
            raise PromptRefusedError("this model has no chat template; send it a plain text to complete")
        if not messages:
            raise PromptRefusedError("the conversation is empty")
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(messages=turns, add_generation_prompt=True, **self._special_texts)
        except TemplateError as error:
            raise PromptRefusedError(
                f"the model's chat template refuses this conversation: {error}"
            ) from error


def _raise_template_error(message: str) -> str:
    raise TemplateError(message)


def _read_json(path: Path) -> dict[str, object]:
    if not path.exists():
        return {}
    content: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _token_text(value: object) -> str:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _chat_template(folder: Path, settings: dict[str, object]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    return template if isinstance(template, str) else None


def _end_ids(folder: Path) -> frozenset[int]:
    """Ids that end an answer, from both places where models declare them."""
    found: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        declared = _read_json(folder / name).get("eos_token_id")
        declared = declared if isinstance(declared, list) else [declared]
        found.update(token for token in declared if isinstance(token, int))
    return frozenset(found)
