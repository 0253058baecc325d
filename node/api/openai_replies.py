"""OpenAI's completion answers: whole bodies and the chunks of a stream, as plain JSON values."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from node.api.openai_logprobs import TextLogprobs, chat_logprobs
from node.api.ports import ModelInfo
from overlay.wire.answer import AnswerFinished, TokensGenerated

Kind = Literal["chat", "text"]


@dataclass(slots=True)
class Reply:
    """One answer in OpenAI's words; collects its parts where it isn't streamed."""

    kind: Kind
    answer_id: str
    model: str
    created_unix: int
    include_usage: bool
    include_logprobs: bool = False
    parts: list[TokensGenerated] = field(default_factory=list)
    text_logprobs: TextLogprobs = field(default_factory=TextLogprobs)

    def opening(self) -> dict[str, Any] | None:
        """The chunk that says whose turn it is; plain completions have none."""
        if self.kind == "text":
            return None
        return self._chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}, **_open()}])

    def tokens(self, event: TokensGenerated) -> dict[str, Any] | None:
        """A chunk of the answer; None where there is nothing to show yet."""
        if not event.text and not (self.include_logprobs and event.logprobs):
            return None
        content: dict[str, Any] = (
            {"text": event.text} if self.kind == "text" else {"delta": {"content": event.text}}
        )
        choice = {"index": 0, **content, "logprobs": self._logprobs([event]), "finish_reason": None}
        return self._chunk([choice])

    def closing(self, finished: AnswerFinished) -> list[dict[str, Any]]:
        """The last chunks: why it ended and, where asked for, the usage."""
        content: dict[str, Any] = {"text": ""} if self.kind == "text" else {"delta": {}}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finished.reason}
        chunks = [self._chunk([choice])]
        if self.include_usage:
            chunks.append({**self._head(streamed=True), "choices": [], "usage": usage(finished)})
        return chunks

    def whole(self, finished: AnswerFinished) -> dict[str, Any]:
        """The body of an answer that isn't streamed."""
        text = "".join(part.text for part in self.parts)
        message = {"role": "assistant", "content": text, "refusal": None}
        content: dict[str, Any] = {"text": text} if self.kind == "text" else {"message": message}
        logprobs = self._logprobs(self.parts)
        choice = {"index": 0, **content, "logprobs": logprobs, "finish_reason": finished.reason}
        return {**self._head(streamed=False), "choices": [choice], "usage": usage(finished)}

    def _logprobs(self, parts: Sequence[TokensGenerated]) -> dict[str, Any] | None:
        if not self.include_logprobs:
            return None
        entries = [entry for part in parts for entry in part.logprobs]
        return self.text_logprobs.part(entries) if self.kind == "text" else chat_logprobs(entries)

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = {**self._head(streamed=True), "choices": choices}
        return {**chunk, "usage": None} if self.include_usage else chunk

    def _head(self, *, streamed: bool) -> dict[str, Any]:
        if self.kind == "text":
            name, prefix = "text_completion", "cmpl"
        else:
            name, prefix = "chat.completion.chunk" if streamed else "chat.completion", "chatcmpl"
        return {
            "id": f"{prefix}-{self.answer_id}",
            "object": name,
            "created": self.created_unix,
            "model": self.model,
        }


def usage(finished: AnswerFinished) -> dict[str, Any]:
    """Token counts, as the model node reported them."""
    return {
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.completion_tokens,
        "total_tokens": finished.prompt_tokens + finished.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": finished.cached_tokens},
    }


def model_list(models: Sequence[ModelInfo]) -> dict[str, Any]:
    """Body of `GET /v1/models`: the alias is the id to ask with."""
    return {"object": "list", "data": [model_entry(model) for model in models]}


def model_entry(model: ModelInfo) -> dict[str, Any]:
    """One model; `created` is not known and 0, the rest of the fields are ours."""
    return {
        "id": model.alias,
        "object": "model",
        "created": 0,
        "owned_by": "clovenet",
        "model_id": model.model_id,
        "numerics_class": model.numerics_class,
        "context_tokens": model.context_tokens,
        "nodes": model.nodes,
    }


def _open() -> dict[str, Any]:
    return {"logprobs": None, "finish_reason": None}
