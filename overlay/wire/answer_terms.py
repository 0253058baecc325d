"""What a node states wherever it signs for an answer: model, arithmetic, and the sampler that it used."""

import re
from dataclasses import dataclass, fields

from crypto.errors import DecodeError
from overlay.wire.prompt import (
    HIGHEST_REPETITION_PENALTY,
    LOWEST_REPETITION_PENALTY,
    MAX_PENALTY,
    MAX_TOP_K,
    ModelId,
    SamplerSpec,
)
from overlay.wire.records import read_fields, read_integer, read_number, read_text

UPSTREAM = "upstream"
"""The numerics class of answers that nobody can replay: they have no token ids."""
MAX_TEMPERATURE = 2.0
MAX_COMPLETION_TOKENS = 1 << 17
_MODEL_ID = re.compile(r"m-[0-9a-f]{40}")
_NUMERICS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,31}")


@dataclass(frozen=True, slots=True)
class SamplerTerms:
    """The part of a sampler's specification that receipts and checkpoints state.

    Stop strings and biased tokens are the user's own business: they would tell of the prompt.
    """

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    min_tokens: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @classmethod
    def of(cls, sampler: SamplerSpec) -> "SamplerTerms":
        """The terms of a whole specification."""
        # + 0.0: -0.0 becomes 0.0, and there is one encoding of it
        return cls(
            temperature=float(sampler.temperature) + 0.0,
            top_p=float(sampler.top_p) + 0.0,
            top_k=sampler.top_k,
            max_tokens=sampler.max_tokens,
            min_tokens=sampler.min_tokens,
            repetition_penalty=float(sampler.repetition_penalty),
            presence_penalty=float(sampler.presence_penalty) + 0.0,
            frequency_penalty=float(sampler.frequency_penalty) + 0.0,
        )

    def differences(self, asked: "SamplerTerms") -> str:
        """What these terms say otherwise than those asked for, in words; empty where they are the same."""
        pairs = (
            (field.name, getattr(self, field.name), getattr(asked, field.name)) for field in fields(self)
        )
        return ", ".join(f"{name} {mine} instead of {other}" for name, mine, other in pairs if mine != other)


def read_sampler_terms(value: object) -> SamplerTerms:
    """Terms, as the tuple of their fields was packed. Raises DecodeError and nothing else."""
    temperature, top_p, top_k, max_tokens, min_tokens, *penalties = read_fields(value, 8)
    repetition, presence, frequency = penalties
    most = read_integer(max_tokens, 1, MAX_COMPLETION_TOKENS)
    return SamplerTerms(
        read_number(temperature, 0.0, MAX_TEMPERATURE),
        read_number(top_p, 0.0, 1.0),
        read_integer(top_k, 1, MAX_TOP_K),
        most,
        read_integer(min_tokens, 0, most),
        read_number(repetition, LOWEST_REPETITION_PENALTY, HIGHEST_REPETITION_PENALTY),
        read_number(presence, -MAX_PENALTY, MAX_PENALTY),
        read_number(frequency, -MAX_PENALTY, MAX_PENALTY),
    )


def read_model_id(value: object) -> ModelId:
    """A model's id. Raises DecodeError and nothing else."""
    return ModelId(_matching(value, _MODEL_ID))


def read_numerics_class(value: object) -> str:
    """The name of a numerics class. Raises DecodeError and nothing else."""
    return _matching(value, _NUMERICS)


def _matching(value: object, pattern: re.Pattern[str]) -> str:
    text = read_text(value, 1, 64)
    if pattern.fullmatch(text) is None:
        raise DecodeError("signed terms: a name with characters that don't belong there")
    return text
