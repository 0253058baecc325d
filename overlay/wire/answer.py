"""What comes back from a model node, as values: the events inside a sealed answer."""

from dataclasses import dataclass

BUSY = "busy"
"""The code of a node that has too much to do now."""


@dataclass(frozen=True, slots=True)
class AnswerAccepted:
    """The model node has the whole prompt and will answer it."""


@dataclass(frozen=True, slots=True)
class RankedToken:
    """A token, as the bytes that it stands for, and its natural log-probability, at most 0."""

    token: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The token that was taken, and the likeliest ones in its place, by falling log-probability."""

    taken: RankedToken
    likeliest: tuple[RankedToken, ...] = ()


@dataclass(frozen=True, slots=True)
class TokensGenerated:
    """More of the answer: text (complete code points) and how many tokens it took.

    logprobs: one entry a token, where the prompt asks for them; else none. ids: of these tokens, so that another node
    can go on with the answer; none where the engine doesn't tell them.
    """

    text: str
    count: int
    logprobs: tuple[TokenLogprobs, ...] = ()
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckpointIssued:
    """The signed checkpoint (`overlay.wire.checkpoint`) of all tokens before it, still encoded."""

    checkpoint: bytes


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


AnswerEvent = (
    AnswerAccepted | TokensGenerated | CheckpointIssued | AnswerFinished | ReceiptIssued | AnswerFailed
)
