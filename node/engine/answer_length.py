"""How long answers usually become. Pure.

A prompt only says how long its answer may be at most, which most never reach. The lengths of the last answers are kept,
and what is left of one under way is the mean of what was left of those that went as far. One that has outlived them
all is taken to have as much before it as behind it.
"""

from collections import deque

_REMEMBERED = 64
_FIRST_GUESS = 128


class AnswerLengths:
    """The lengths of the last answers, in tokens."""

    def __init__(self) -> None:
        self._lengths: deque[int] = deque(maxlen=_REMEMBERED)

    def ended(self, tokens: int) -> None:
        """An answer ended, or was given up, after so many tokens."""
        self._lengths.append(tokens)

    def expect(self, produced: int, most: int) -> int:
        """How many tokens will still come, at least 1. most: the bound on the whole answer."""
        longer = [length - produced for length in self._lengths if length > produced]
        if longer:
            left = sum(longer) // len(longer)
        elif self._lengths:
            left = produced
        else:
            left = max(_FIRST_GUESS - produced, produced)
        return max(1, min(left, most - produced))
