"""A stored model's tokenizer and chat template: prompt to ids, ids to text."""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from node.engine.chat_template import ChatTemplate
from node.engine.errors import PromptRefusedError, UnsupportedModelError
from node.engine.spelling import TokenSpelling
from overlay.wire.prompt import Prompt

_SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


class PromptTokenizer:
    """Turns prompts into ids the same way on every node, today and tomorrow.

    Raises:
        UnsupportedModelError: a file is missing or can't be read. A chat template is only looked at when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = _read_tokenizer(folder / "tokenizer.json")
        self._spelling = TokenSpelling(self._tokenizer)
        settings = _read_json(folder / "tokenizer_config.json")
        template = _template_text(folder, settings)
        texts = {name: _token_text(settings.get(name)) for name in _SPECIAL_TOKENS}
        known = {name: text for name, text in texts.items() if text is not None}
        self._template = None if template is None else ChatTemplate(template, known)
        self.end_ids = _end_ids(folder)

    @property
    def highest_id(self) -> int:
        """The highest id that a text can become."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=0)

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt's token ids.

        Raises:
            PromptRefusedError: it is empty, or the model has no template for conversations or refuses this one.
        """
        if prompt.text is not None:
            ids = self._encode(prompt.text, add_special_tokens=True)
        else:
            if self._template is None:
                raise PromptRefusedError("this model has no chat template; send it a plain text to complete")
            rendered = self._template.render(prompt.messages)
            ids = self._encode(rendered, add_special_tokens=False)
        if not ids:
            raise PromptRefusedError("the prompt is empty")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of these ids, special tokens left out."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one token stands for; of a special token its name."""
        return self._spelling.bytes_of(token_id)

    def _encode(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        # As a batch of one: it gives the same ids, but lets other Python threads run, where `encode` holds them up
        # for its whole length, which is half a second for the longest prompts.
        (encoded,) = self._tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)
        return tuple(encoded.ids)


def _read_tokenizer(file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:
        raise UnsupportedModelError(f"{file.name} can't be read: {error}") from error


def _read_json(path: Path) -> dict[str, object]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise UnsupportedModelError(f"{path.name} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise UnsupportedModelError(f"{path.name} is no JSON object")
    return content


def _token_text(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _template_text(folder: Path, settings: dict[str, object]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8", errors="replace")
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
