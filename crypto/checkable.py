"""Values that can't be used before they are checked: signed by someone, valid for a time."""

from typing import Generic, TypeVar

from crypto.errors import ExpiredError
from crypto.identity import NodeId, check_signature

T = TypeVar("T")

CLOCK_SKEW_S = 300
"""By how much the clocks of two nodes may differ."""


class Signed(Generic[T]):
    """A decoded value whose signature nobody has checked yet. `signer` is a claim until then."""

    __slots__ = ("_context", "_message", "_signature", "_value", "signer")

    def __init__(self, value: T, signer: NodeId, context: bytes, message: bytes, signature: bytes) -> None:
        self._value = value
        self.signer = signer
        self._context = context
        self._message = message
        self._signature = signature

    def check(self) -> T:
        """The value. Raises AuthenticationError if `signer` did not sign it."""
        check_signature(self.signer, self._context, self._message, self._signature)
        return self._value

    def __repr__(self) -> str:
        return f"Signed(unchecked, signer={self.signer.hex()[:16]}…)"


class TimeBound(Generic[T]):
    """A value that holds from `not_before_unix` to `not_after_unix`, both included."""

    __slots__ = ("_value", "not_after_unix", "not_before_unix")

    def __init__(self, value: T, not_before_unix: int, not_after_unix: int) -> None:
        self._value = value
        self.not_before_unix = not_before_unix
        self.not_after_unix = not_after_unix

    def check(self, unix_time: float, skew_s: float = CLOCK_SKEW_S) -> T:
        """The value. Raises ExpiredError outside its time, give or take `skew_s` for clocks that differ."""
        if unix_time + skew_s < self.not_before_unix:
            raise ExpiredError(f"not valid for another {self.not_before_unix - unix_time:.0f} s")
        if unix_time - skew_s > self.not_after_unix:
            raise ExpiredError(f"expired {unix_time - self.not_after_unix:.0f} s ago")
        return self._value

    def __repr__(self) -> str:
        return f"TimeBound(unchecked, {self.not_before_unix}..{self.not_after_unix})"
