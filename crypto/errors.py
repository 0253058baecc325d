"""What can go wrong in `crypto`.

CryptoError
├── DecodeError          the bytes are malformed; nothing was learnt from them
├── AuthenticationError  well-formed, but a tag, signature, commitment or confirmation does not hold
├── ExpiredError         authentic, but not valid at this time
└── ShortageError        fewer intact pieces than are needed to rebuild
"""


class CryptoError(Exception):
    """Base of every error that this room raises."""


class DecodeError(CryptoError):
    """Bytes from outside are malformed. Drop them; the sender is at fault."""


class AuthenticationError(CryptoError):
    """A tag, signature, commitment or confirmation does not hold. Treat the sender as hostile."""


class ExpiredError(CryptoError):
    """Authentic, but not valid at this time. Ask for a fresh one, or check the clock."""


class ShortageError(CryptoError):
    """Fewer intact pieces than are needed to rebuild. Wait for more."""
