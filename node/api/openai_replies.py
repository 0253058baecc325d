"""OpenAI's completion answers: whole bodies and the chunks of a stream, as plain JSON values."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from node.api.ports import ModelInfo
from overlay.wire.answer import AnswerFinished

Kind = Literal["chat", "text"]


@dataclass(slots=True)
class Reply:
    """One answer in OpenAI's words; collects the text where it isn't streamed."""

    kind: Kind
    answer_id: str
    model: str
    created_unix: int
    include_usage: bool
    texts: list[str] = field(default_factory=list)

    def opening(self) -> dict[str, Any] | None:
        """The chunk that says whose turn it is; plain completions have none."""
        if self.kind == "text":
            return None
        return self._chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}, **_open()}])

    def tokens(self, text: str) -> dict[str, Any]:
        """A chunk of text."""
        if self.kind == "text":
            return self._chunk([{"index": 0, "text": text, **_open()}])
        return self._chunk([{"index": 0, "delta": {"content": text}, **_open()}])

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
        text = "".join(self.texts)
        message = {"role": "assistant", "content": text, "refusal": None}
        content: dict[str, Any] = {"text": text} if self.kind == "text" else {"message": message}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finished.reason}
        return {**self._head(streamed=False), "choices": [choice], "usage": usage(finished)}

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
