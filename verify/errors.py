"""What can go wrong in `verify`.

VerifyError ├── ReplayUnavailableError  there is no verdict, since the reference model can't be run here and
now └── ReplayRefusedError      the answer can't come from the model that it names Malformed receipts and
records raise `crypto.errors.DecodeError`. A dishonest answer is no error: it is a `Verdict`.
"""


class VerifyError(Exception):
    """Base of every error that this room raises."""


class ReplayUnavailableError(VerifyError):
    """The reference model can't be run here and now; the message says why. Pull the model, or try again."""


class ReplayRefusedError(VerifyError):
    """The model can't have given this answer: a token that it doesn't have, or more of them than fit."""
