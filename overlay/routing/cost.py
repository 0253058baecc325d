"""How long a prompt would wait for its first token at each member of a group, in seconds. Pure.

    wait = ahead + reading

*ahead*: what the member has to read before it can begin, at its own measured speed. *reading*: the prompt's uncached
tokens and what they attend to. While answers run, chunks are short and take turns with them; what is left when they are
over is read in long ones, whose beginning costs as much as a short one.
Cached tokens are seconds saved, never a yes or no: a system prompt that everybody holds speaks for nobody.

The view is old. `Sent` is what this node has sent to a member since it last told of itself, which its load does not
show yet.
"""

from dataclasses import dataclass

from overlay.wire.group import Load, Speed


@dataclass(frozen=True, slots=True)
class Sent:
    """Uncached tokens and prompts that went to a member since its load was told."""

    tokens: int = 0
    prompts: int = 0


@dataclass(frozen=True, slots=True)
class Wait:
    """A prediction, term by term, in seconds. late_s: by what the member was late of late (`promises.py`)."""

    ahead_s: float
    slot_s: float
    reading_s: float
    late_s: float = 0.0

    @property
    def is_queued(self) -> bool:
        """Something lies ahead of the prompt."""
        return self.ahead_s + self.slot_s > 0

    @property
    def total_s(self) -> float:
        """Until the first token."""
        return self.ahead_s + self.slot_s + self.reading_s + self.late_s


def predict_wait(speed: Speed, load: Load, sent: Sent, *, tokens: int, cached: int) -> Wait:
    """The wait for the first token of a prompt of so many tokens, of which so many are cached at the member.

    The last token is computed whatever is cached: its logits are what the answer begins with.
    """
    uncached = max(1, tokens - cached)
    queued = load.queued_tokens + sent.tokens
    ahead = _read_s(speed, load, queued)
    attended = uncached * (tokens - uncached / 2)
    reading = _read_s(speed, load, queued + uncached) - ahead + attended * speed.attended_s
    is_full = load.free_slots <= sent.prompts
    return Wait(ahead, load.answer_s if is_full else 0.0, reading)


def _read_s(speed: Speed, load: Load, tokens: int) -> float:
    """Seconds until so many prompt tokens are read, the steps included that running answers take meanwhile.

    By how much a short chunk's token costs more than a long one's, a member tells of a step beside answers; a prompt
    that is read alone pays as much once, for its first tokens are such a chunk.
    """
    if not tokens:
        return 0.0
    token_s = max(speed.prefill_token_s, speed.mixed_step_s / speed.mixed_tokens)
    more_s = token_s - speed.prefill_token_s
    beside = min(float(tokens), load.decoding_s / token_s) if load.decoding else 0.0
    begun = speed.mixed_tokens if beside < tokens else 0
    return tokens * speed.prefill_token_s + more_s * max(beside + begun, speed.mixed_tokens)
