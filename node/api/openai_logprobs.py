"""Log-probabilities in OpenAI's two shapes: objects in a list for conversations, parallel lists for plain texts."""

import codecs
from collections.abc import Sequence
from typing import Any

from overlay.wire.answer import RankedToken, TokenLogprobs


def chat_logprobs(entries: Sequence[TokenLogprobs]) -> dict[str, Any]:
    """`choices[0].logprobs` of a conversation. `token` is text as far as it can be, `bytes` is exact."""
    content = [
        {**_chat_token(entry.taken), "top_logprobs": [_chat_token(each) for each in entry.likeliest]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def _chat_token(ranked: RankedToken) -> dict[str, Any]:
    text = ranked.token.decode("utf-8", "replace")
    return {"token": text, "logprob": ranked.logprob, "bytes": list(ranked.token)}


class TextLogprobs:
    """`choices[0].logprobs` of a plain text, part by part: offsets go on from one part to the next."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def part(self, entries: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """The next tokens. `text_offset` counts the characters that the tokens before them made whole."""
        return {
            "tokens": [_spell(entry.taken.token) for entry in entries],
            "token_logprobs": [entry.taken.logprob for entry in entries],
            "top_logprobs": [
                {_spell(each.token): each.logprob for each in entry.likeliest} for entry in entries
            ],
            "text_offset": [self._advance(entry.taken.token) for entry in entries],
        }

    def _advance(self, token: bytes) -> int:
        offset = self._offset
        self._offset += len(self._decoder.decode(token))
        return offset


def _spell(token: bytes) -> str:
    """A token as text or, where it is none, as OpenAI spells bytes."""
    try:
        return token.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
