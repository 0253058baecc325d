"""What can go wrong in `overlay`. Whose fault it is shows in the type.

OverlayError
├── LocalProtocolError   our own code or caller asked for something that the protocol forbids
├── RemoteProtocolError  a peer broke the protocol; close its circuit or link
├── UnreachableError     no address of a peer answered in time
├── NoRouteError         the directory can't give the paths asked for
└── AnswerError          an answer ended early
Malformed bytes raise `crypto.errors.DecodeError` from every decoder.
"""


class OverlayError(Exception):
    """Base of every error that this room raises."""


class LocalProtocolError(OverlayError):
    """Our side asked for something that the protocol forbids in this state. A bug, not a peer's doing."""


class RemoteProtocolError(OverlayError):
    """A peer broke the protocol. Close the circuit or link it came over."""


class UnreachableError(OverlayError):
    """No address of a peer answered in time. Try another peer."""


class NoRouteError(OverlayError):
    """The directory can't give the paths asked for. The message says how many relays are needed and known."""


class AnswerError(OverlayError):
    """An answer ended early. `code` is for programs, `retry_after_s` says when asking again makes sense."""

    def __init__(self, code: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s
