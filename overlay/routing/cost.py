"""How long a prompt would wait for its first token at each member of a group, in seconds. Pure.

    wait = ahead + reading

*ahead*: what the member has to read before it can begin, at its own measured speed. *reading*: the prompt's uncached
tokens, what they attend to, and a step of the running answers for every chunk, since answers go on between chunks.
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
    ahead = (load.queued_tokens + sent.tokens) * _token_s(speed, load)
    attended = uncached * (tokens - uncached / 2)
    reading = uncached * _token_s(speed, load) + attended * speed.attended_s
    is_full = load.free_slots <= sent.prompts
    return Wait(ahead, load.answer_s if is_full else 0.0, reading)


def _token_s(speed: Speed, load: Load) -> float:
    """Seconds of a prompt token, the steps of running answers included that take turns with chunks."""
    chunk = speed.mixed_tokens if load.decoding else speed.chunk_tokens
    pressure = speed.decode_step_s / chunk if load.decoding else 0.0
    return speed.prefill_token_s + pressure
