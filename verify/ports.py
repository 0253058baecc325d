"""What this room needs of others."""

from collections.abc import Sequence
from typing import Literal, Protocol

from overlay.wire.prompt import ModelId, Prompt

Ending = Literal["eos", "stop", "length", "early", "overrun"]
"""How an answer's ids end under the sampler's own rules: properly, before they should, or after."""


class Replay(Protocol):
    """One teacher-forced pass of a reference model over a prompt and an answer to it."""

    @property
    def model_id(self) -> ModelId:
        """The model that was run."""

    @property
    def numerics_class(self) -> str:
        """The class of its arithmetic."""

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The prompt as token ids, chat template and all."""

    @property
    def text(self) -> str:
        """What the answer's ids say, under the sampler's stop strings."""

    @property
    def ending(self) -> Ending:
        """How the answer's ids end."""

    @property
    def margins(self) -> tuple[float, ...]:
        """Per token, how far it fell short of the one that sampling would have taken; 0 where they agree."""

    @property
    def logprobs(self) -> tuple[float, ...]:
        """Per token, its natural log-probability at temperature 1 over the whole vocabulary."""

    @property
    def fingerprints(self) -> tuple[bytes, ...]:
        """Per token, the fingerprint of the hidden state that predicts it (`verify.fingerprint`)."""


class Scorer(Protocol):
    """Runs reference models."""

    async def replay(self, prompt: Prompt, output_ids: Sequence[int]) -> Replay:
        """Scores an answer with the model that `prompt.model` names, by a fresh forward pass.

        Raises ReplayUnavailableError or ReplayRefusedError.
        """
