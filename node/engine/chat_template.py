"""A model's chat template: a conversation as the one text that the model was trained to continue.

Templates are small Jinja programs that came with the model. They run as transformers runs them, in a sandbox, so that
the same conversation becomes the same tokens; but without a clock: a template that prints the date would make
yesterday's answer impossible to replay.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, UndefinedError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from node.engine.errors import PromptRefusedError
from overlay.wire.prompt import ChatMessage

_CLOCK = "strftime_now"


class _Generation(Extension):
    """`{% generation %}` marks, for training, what the assistant said; here its content is all that counts."""

    tags = {"generation"}  # noqa: RUF012 - as jinja declares it

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """One template. special_texts: what `bos_token` and the like stand for.

    A template that is no Jinja is refused with the first conversation: a plain text can be completed without it.
    """

    def __init__(self, text: str, special_texts: Mapping[str, str]) -> None:
        self._special_texts = dict(special_texts)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        self._problem: Exception | None = None
        try:
            self._template = environment.from_string(text)
        except (TemplateError, RecursionError) as error:
            self._problem = error

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The text before the answer.

        Raises:
            PromptRefusedError: the conversation is empty, or the template is broken or refuses it.
        """
        if not messages:
            raise PromptRefusedError("the conversation is empty")
        if self._problem is not None:
            raise PromptRefusedError(
                f"the model's chat template can't be read ({self._problem}); send it a plain text to complete"
            )
        turns = [{"role": message.role, "content": message.content} for message in messages]
        # What is not there is none, as in transformers: templates ask `if tools is not none`.
        absent = {"tools": None, "documents": None}
        try:
            return self._template.render(
                messages=turns, add_generation_prompt=True, **absent, **self._special_texts
            )
        except UndefinedError as error:
            if _CLOCK in str(error):
                raise PromptRefusedError(
                    "the model's chat template asks for today's date, which would make its answers impossible to "
                    "check; pull the model again with a template that prints a fixed one"
                ) from error
            raise _refusal(error) from error
        except Exception as error:
            raise _refusal(error) from error


def _refusal(error: Exception) -> PromptRefusedError:
    return PromptRefusedError(f"the model's chat template refuses this conversation: {error}")


def _raise_exception(message: str) -> str:
    raise TemplateError(message)


def _to_json(value: Any, **options: Any) -> str:  # noqa: ANN401 - any JSON value
    """Unlike jinja's own, without escapes for HTML."""
    return json.dumps(value, **{"ensure_ascii": False, **options})
