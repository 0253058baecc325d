"""Server-sent events as OpenAI-compatible servers send them: bytes in, the data of each event out; bounded.

Only what those servers use of the format (WHATWG HTML, section 9.2): lines end with a line feed, before which a
carriage return may stand; `data` counts, other fields and comments are passed over.
"""

from crypto.errors import DecodeError

MAX_LINE_BYTES = 1 << 15
"""A chunk carries one token's text, or a few; none comes near this."""


class SseReader:
    """Cuts one stream into events. Holds at most one unfinished event of MAX_LINE_BYTES.

    max_bytes bounds the whole stream.
    """

    def __init__(self, max_bytes: int) -> None:
        self._room = max_bytes
        self._line = bytearray()
        self._data: list[str] = []
        self._data_bytes = 0

    def feed(self, data: bytes) -> list[str]:
        """Takes the next bytes; the data of every event that is whole now. Raises DecodeError and nothing else."""
        self._room -= len(data)
        if self._room < 0:
            raise DecodeError("event stream: longer than it may be")
        *whole, rest = (self._line + data).split(b"\n")
        if any(len(line) > MAX_LINE_BYTES for line in (*whole, rest)):
            raise DecodeError("event stream: a line longer than it may be")
        self._line = rest
        return [event for line in whole if (event := self._take_line(line)) is not None]

    def _take_line(self, line: bytearray) -> str | None:
        if line.endswith(b"\r"):
            del line[-1]
        if not line:
            event, self._data, self._data_bytes = "\n".join(self._data), [], 0
            return event or None
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data_bytes += len(line)
            if self._data_bytes > MAX_LINE_BYTES:
                raise DecodeError("event stream: an event longer than it may be")
            self._data.append(_decode(value.removeprefix(b" ")))
        return None


def _decode(value: bytearray) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DecodeError("event stream: not UTF-8") from error
