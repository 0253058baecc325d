"""What comes back from a model node, as values: the events inside a sealed answer."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AnswerAccepted:
    """The model node has the whole prompt and will answer it."""


@dataclass(frozen=True, slots=True)
class TokensGenerated:
    """More of the answer: text (complete code points) and how many tokens it took."""

    text: str
    count: int


@dataclass(frozen=True, slots=True)
class AnswerFinished:
    """The answer is whole. reason is `stop` or `length`; the counts are tokens."""

    reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class ReceiptIssued:
    """The signed receipt (`verify.receipt`), still encoded."""

    receipt: bytes


@dataclass(frozen=True, slots=True)
class AnswerFailed:
    """The model node gave up. code is for programs; retry_after_s is None where asking again is no use."""

    code: str
    message: str
    retry_after_s: float | None = None


AnswerEvent = AnswerAccepted | TokensGenerated | AnswerFinished | ReceiptIssued | AnswerFailed
