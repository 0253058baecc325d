"""From token ids to text that may be shown: whole code points only, and never a part of a stop string."""

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"


class ShownText:
    """The part of an answer's text that may be shown: all before the first stop string, as soon as none can begin."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def push(self, text: str, *, flush: bool = False) -> str:
        """Take more text; what may now be shown. flush: nothing follows. After a stop string nothing more comes."""
        if self.stopped:
            return ""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = 0 if flush else self._partial_stop()
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def _partial_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=0)
        for length in range(min(longest - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0


class AnswerText:
    """The text of one answer, fed one token at a time.

    decode turns ids into text; it is only ever given a short window, since the first token of a window may decode
    differently at the start of a text (spaces in sentencepiece, bytes of one character spread over tokens).

    What the first `unsearched` tokens say is shown without a look for stop strings, and is part of none.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = (), unsearched: int = 0
    ) -> None:
        self._decode = decode
        self._shown = ShownText(stops)
        self._unsearched = unsearched
        self._pushed = 0
        self._window: list[int] = []
        self._read = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._shown.stopped

    def push(self, token_id: int) -> str:
        """Take one more token; what may now be shown. After a stop string nothing more comes."""
        self._pushed += 1
        self._window.append(token_id)
        return self._show(self._new_text(flush=False), flush=False)

    def finish(self) -> str:
        """The answer ends here: what was held back and may be shown after all."""
        return self._show(self._new_text(flush=True), flush=True)

    def _show(self, text: str, *, flush: bool) -> str:
        return text if self._pushed <= self._unsearched else self._shown.push(text, flush=flush)

    def _new_text(self, *, flush: bool) -> str:
        known = self._decode(self._window[: self._read])
        whole = self._decode(self._window)
        if len(whole) <= len(known) or (whole.endswith(_REPLACEMENT) and not flush):
            return ""
        self._window = self._window[self._read :]
        self._read = len(self._window)
        return whole[len(known) :]
