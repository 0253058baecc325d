"""What an answer's settings do to its raw logits before candidates are chosen (docs/spec/sampling.md).

Only the logits of some tokens change: those of the prompt and the answer so far, the biased ones, the end tokens. So
they alone are gathered from a row, computed here in doubles by operations that IEEE 754 rounds exactly, rounded once
to fp32 and put back: the result is the same on every machine and in any batch.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from overlay.wire.prompt import SamplerSpec

REMOVED = -(2.0**127)
"""The logit of a token that must not be taken: lower than any other, and exact in fp32."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Penalties:
    """The settings of one answer, and what they act on after so many tokens of it; one entry a token in each array.

    in_text: the token is in the prompt or the answer, when repetition is penalised. counts: how often it is in the
    answer, when that counts. is_end: it ends an answer.
    """

    spec: SamplerSpec
    taken: int
    ids: npt.NDArray[np.int64]
    bias: npt.NDArray[np.float64]
    in_text: npt.NDArray[np.bool_]
    counts: npt.NDArray[np.float64]
    is_end: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, spec: SamplerSpec, prompt_ids: tuple[int, ...], end_ids: frozenset[int]) -> Self | None:
        """Before the first token; None where the settings change no logit."""
        penalised = set(prompt_ids) if spec.repetition_penalty != 1.0 else set()
        biases = dict(spec.logit_bias)
        ends = end_ids if spec.min_tokens else frozenset[int]()
        ids = sorted(penalised | biases.keys() | ends)
        if not ids and not _follows_answer(spec):
            return None
        return cls(
            spec=spec,
            taken=0,
            ids=np.array(ids, dtype=np.int64),
            bias=np.array([biases.get(token, 0.0) for token in ids], dtype=np.float64),
            in_text=np.array([token in penalised for token in ids], dtype=np.bool_),
            counts=np.zeros(len(ids), dtype=np.float64),
            is_end=np.array([token in ends for token in ids], dtype=np.bool_),
        )

    @property
    def is_idle(self) -> bool:
        """No logit changes any more: all there was to do was to keep end tokens away for a while."""
        spec = self.spec
        return self.taken >= spec.min_tokens and not spec.logit_bias and not _follows_answer(spec)

    def after(self, token: int) -> Self:
        """With one more token of the answer."""
        if not _follows_answer(self.spec):
            return replace(self, taken=self.taken + 1)
        known = self if token in self.ids else self._with_entry(token)
        at = known.ids == token
        return replace(
            known,
            taken=self.taken + 1,
            in_text=known.in_text | at,
            counts=known.counts + at.astype(np.float64),
        )

    def adjust(self, raw: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The adjusted logits of `ids`, given their raw ones."""
        spec = self.spec
        logits = raw.astype(np.float64) + self.bias
        repetition = spec.repetition_penalty
        penalised = np.where(logits > 0.0, logits / repetition, logits * repetition)
        logits = np.where(self.in_text, penalised, logits)
        logits = logits - spec.frequency_penalty * self.counts
        logits = logits - spec.presence_penalty * (self.counts > 0.0)
        adjusted = logits.astype(np.float32)
        if self.taken < spec.min_tokens:
            adjusted[self.is_end] = REMOVED
        return adjusted

    def _with_entry(self, token: int) -> Self:
        return replace(
            self,
            ids=np.append(self.ids, token),
            bias=np.append(self.bias, 0.0),
            in_text=np.append(self.in_text, False),
            counts=np.append(self.counts, 0.0),
            is_end=np.append(self.is_end, False),
        )


def _follows_answer(spec: SamplerSpec) -> bool:
    """Whether it matters which tokens the answer has."""
    return spec.repetition_penalty != 1.0 or spec.presence_penalty != 0.0 or spec.frequency_penalty != 0.0
