"""One streamed answer of an upstream engine: its bytes in, engine events out. No I/O, no clock.

States: running -> over. It is over with `[DONE]`, with a finish reason and the usage that follows it, with a stop
string that the server did not heed, or with more text than was asked for. What comes after that is not looked
at. The bytes may end then, or after a finish reason; if they end before, the server broke off.
"""

from crypto.errors import DecodeError
from node.engine.errors import UpstreamDownError, UpstreamMalformedError
from node.engine.events import FinishReason, TextDecoded
from node.engine.openai_codec import Chunk, Usage, decode_chunk
from node.engine.sse import SseReader
from node.engine.text import ShownText
from overlay.wire.prompt import SamplerSpec

_DONE = "[DONE]"
_STREAM_BYTES = 1 << 16
_TOKEN_BYTES = 1 << 12
"""What a stream may take, and for each token more: servers repeat some 300 bytes with every one."""


class UpstreamAnswer:
    """Reads one answer. `usage` is what the server counted, or as good a guess as there is where it doesn't say."""

    def __init__(self, sampler: SamplerSpec) -> None:
        self._reader = SseReader(_STREAM_BYTES + _TOKEN_BYTES * sampler.max_tokens)
        self._shown = ShownText(sampler.stop)
        self._max_tokens = sampler.max_tokens
        self._pieces = 0
        self._told = 0
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None
        self.is_over = False

    @property
    def has_begun(self) -> bool:
        """Whether any text has come; servers say a first word long before that."""
        return self._pieces > 0

    @property
    def usage(self) -> Usage:
        """Tokens. Without the server's word, a piece of text counts as one, and the prompt's are not known."""
        return self._usage or Usage(0, self._pieces, 0)

    def feed(self, data: bytes) -> list[TextDecoded]:
        """Takes the next bytes.

        Raises:
            UpstreamMalformedError: they are no answer.
            UpstreamDownError: they say that the server gave up.
        """
        try:
            events = self._reader.feed(data)
            shown = [self._take(event) for event in events if not self.is_over]
        except DecodeError as error:
            raise UpstreamMalformedError(str(error)) from error
        return self._tell("".join(shown))

    def finish(self) -> tuple[list[TextDecoded], FinishReason]:
        """There are no more bytes, or it is over: what was held back of the text, and how the answer ended.

        Raises:
            UpstreamDownError: the server broke off.
        """
        if self._reason is None:
            raise UpstreamDownError("it broke an answer off")
        return self._tell(self._shown.push("", flush=True)), self._reason

    def _tell(self, text: str) -> list[TextDecoded]:
        if not text:
            return []
        count, self._told = self._pieces - self._told, self._pieces
        return [TextDecoded(text, count)]

    def _take(self, event: str) -> str:
        if event == _DONE:
            self.is_over = True
            return ""
        chunk = decode_chunk(event)
        if chunk.is_error:
            raise UpstreamDownError("it gave an answer up")
        self._usage = chunk.usage or self._usage
        text = self._take_text(chunk.text)
        if chunk.finish_reason is not None and not self.is_over:
            self._reason = _reason_of(chunk)
        self.is_over = self.is_over or (self._reason is not None and self._usage is not None)
        return text

    def _take_text(self, text: str) -> str:
        if not text:
            return ""
        if self._pieces == self._max_tokens:
            # No piece is less than a token: the server does not count, so we do.
            self._end("length")
            return ""
        self._pieces += 1
        shown = self._shown.push(text)
        if self._shown.stopped:
            self._end("stop")
        return shown

    def _end(self, reason: FinishReason) -> None:
        self._reason = reason
        self.is_over = True


def _reason_of(chunk: Chunk) -> FinishReason:
    match chunk.finish_reason:
        case "stop":
            return "stop"
        case "length":
            return "length"
        case _:  # content_filter, tool_calls, abort, ...: no answer to what was asked
            raise UpstreamDownError("it ended an answer for a reason that is neither stop nor length")
