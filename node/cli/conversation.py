"""One turn with the daemon: the request's body, the streamed reply, what was kept of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node.cli.daemon import Daemon, RefusedError
from node.errors import DegradedError, NodeError

Turn = dict[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    answer_id: str
    model: str
    text: str
    finish_reason: str | None
    usage: Mapping[str, Any]

    def kept(self, daemon: Daemon) -> dict[str, Any]:
        """Record and account, as the daemon kept them."""
        return daemon.get(f"/api/v1/answers/{self.answer_id}")

    def kept_json(self, daemon: Daemon) -> str:
        """The file that `clove verify` reads."""
        return json.dumps(self.kept(daemon), indent=1, ensure_ascii=False) + "\n"

    def account(self, daemon: Daemon) -> dict[str, Any] | None:
        """What happened for it; None where the daemon kept nothing, since no receipt came with it."""
        try:
            account: dict[str, Any] = self.kept(daemon)["account"]
        except RefusedError as error:
            if error.code == "answer_not_found":
                return None
            raise
        return account

    def as_json(self, daemon: Daemon) -> dict[str, Any]:
        """For `--json`."""
        return {
            "answer_id": self.answer_id,
            "model": self.model,
            "text": self.text,
            "finish_reason": self.finish_reason,
            "usage": dict(self.usage),
            "account": self.account(daemon),
        }


def turns(system: str | None, prompt: str) -> list[Turn]:
    """The conversation that a single question is."""
    opening = [{"role": "system", "content": system}] if system else []
    return [*opening, {"role": "user", "content": prompt}]


def chat_body(
    daemon: Daemon, model: str | None, conversation: Sequence[Turn], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The body of a streamed chat completion; settings that are None are left to the daemon.

    Raises:
        DegradedError: no model was asked for and none is served.
    """
    given = {name: value for name, value in settings.items() if value not in (None, [])}
    return {
        "model": model or first_model(daemon),
        "messages": list(conversation),
        "stream": True,
        "stream_options": {"include_usage": True},
        **given,
    }


def first_model(daemon: Daemon) -> str:
    """The model to ask where none was named."""
    models = daemon.get("/v1/models")["data"]
    if not models:
        raise DegradedError("no node that serves a model is known yet", "see: clove status")
    return str(models[0]["id"])


def ask_once(daemon: Daemon, body: Mapping[str, Any], show: Callable[[str], None]) -> Answer:
    """Send one turn and show its texts as they come.

    Raises:
        NodeError: it was refused, or ended early.
    """
    texts: list[str] = []
    try:
        with daemon.stream(body) as stream:
            for text in stream:
                texts.append(text)
                show(text)
    except NodeError:
        if texts and not texts[-1].endswith("\n"):
            show("\n")  # what went wrong is no part of the answer's last line
        raise
    return Answer(stream.answer_id, str(body["model"]), "".join(texts), stream.finish_reason, stream.usage)
