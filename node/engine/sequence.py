"""One request inside the worker: its tokens, how far they have been computed, and when it is over."""

from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

from node.engine.block_manager import BlockTable
from node.engine.penalties import Penalties
from node.engine.text import AnswerText
from overlay.wire.prompt import SamplerSpec


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """Tokens of one request. With forced_ids it is a replay: the answer is given and only scored.

    max_output: most tokens that its answer may have, already cut to what the context leaves.
    given: so many of the answer's tokens were there when it came; another node had begun it.
    penalties: what changes its logits, after the answer's tokens so far; of a replay, before the first one.
    table: where its keys and values are. computed: how many tokens have them.
    chain: hashes of what it has to read, as far as they may be shared.
    cached_tokens: how many of the prompt's were there already when it was first admitted.
    """

    request: int
    prompt_ids: tuple[int, ...]
    prompt_hash: bytes
    sampler: SamplerSpec
    nonce: bytes
    max_output: int
    text: AnswerText
    penalties: Penalties | None = None
    forced_ids: tuple[int, ...] | None = None
    given: int = 0
    output_ids: list[int] = field(default_factory=list)
    table: BlockTable = field(default_factory=BlockTable)
    chain: tuple[bytes, ...] = ()
    computed: int = 0
    cached_tokens: int = 0
    submitted_at: float = 0.0
    started_at: float = 0.0
    prefilled_at: float = 0.0

    @property
    def capacity(self) -> int:
        """Cache positions that it may come to need: the last token sampled is never fed back."""
        answer = len(self.forced_ids) if self.forced_ids is not None else self.max_output
        return len(self.prompt_ids) + max(answer - 1, 0)

    @property
    def is_decoding(self) -> bool:
        """All but its last token is computed, and that one was sampled."""
        return bool(self.output_ids) and self.computed == self.length - 1

    @property
    def length(self) -> int:
        """Tokens known so far that must be computed."""
        if self.forced_ids is not None:
            return len(self.prompt_ids) + max(len(self.forced_ids) - 1, 0)
        return len(self.prompt_ids) + len(self.output_ids)

    def tokens(self, start: int, count: int) -> list[int]:
        """The ids at positions start .. start + count."""
        answer: Tokens[int] = self.output_ids if self.forced_ids is None else self.forced_ids
        split = len(self.prompt_ids)
        end = start + count
        return [*self.prompt_ids[start:end], *answer[max(start - split, 0) : max(end - split, 0)]]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one sequence that a step computes: count of them from position start."""

    sequence: Sequence
    start: int
    count: int

    @property
    def wanted(self) -> int:
        """How many of its last rows predict an answer token and so need logits."""
        end = self.start + self.count
        if self.sequence.forced_ids is None:
            return 1 if end == self.sequence.length else 0
        first_answer_row = len(self.sequence.prompt_ids) - 1
        return min(max(end - first_answer_row, 0), self.count)
