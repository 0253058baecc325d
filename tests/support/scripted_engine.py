"""A model that says what a script says, at a fixed pace: the seam is that of `node.engine.supervisor.Engine`."""

import hashlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from crypto.seeded import prompt_hash
from node.engine.errors import EngineBusyError, UnknownModelError
from node.engine.events import EngineEvent, GenerationFinished, ModelCard, PromptPrefilled, TokensDecoded
from overlay.wire.prompt import Prompt
from tests.support.descriptors import MODEL_ID

FINGERPRINT = struct.pack("<e16b", 1.0, *range(16))
CARD = ModelCard(MODEL_ID, "scripted", "torch-fp32", 4096)


def script_of(prompt: Prompt) -> list[str]:
    """The tokens of the answer: they depend on all that the model is given, and on nothing else."""
    seed = f"{prompt.text}|{prompt.messages}|{prompt.nonce.hex()}".encode()
    digest = hashlib.sha256(seed).hexdigest()
    return [f"{digest[at % 48 : at % 48 + 8]}-{at} " for at in range(prompt.sampler.max_tokens)]


class ScriptedEngine:
    """Generates the script of any prompt. `generating` counts the answers that hold something of it."""

    def __init__(
        self, *, token_s: float = 0.03, slots: int = 64, longest_token: int = 0, retry_after_s: float = 2.0
    ) -> None:
        self.cards = (CARD,)
        self.generating = 0
        self.started: list[Prompt] = []
        self.finished = 0
        self.at_token: Callable[[int], Awaitable[None]] | None = None
        """Awaited before each token, with its number: what goes wrong there."""
        self.given: list[int] = []
        self._token_s = token_s
        self._slots = slots
        self._longest_token = longest_token
        self._retry_after_s = retry_after_s

    @asynccontextmanager
    async def generate(
        self, prompt: Prompt, *, cache: str, session: bytes, given_ids: tuple[int, ...] = ()
    ) -> AsyncIterator[AsyncIterator[EngineEvent]]:
        if prompt.model not in (CARD.alias, CARD.model_id):
            raise UnknownModelError(prompt.model, (CARD.alias,))
        if self.generating >= self._slots:
            raise EngineBusyError(self._retry_after_s)
        self.generating += 1
        self.started.append(prompt)
        self.given.append(len(given_ids))
        events = self._events(prompt, len(given_ids))
        try:
            yield events
        finally:
            await events.aclose()
            self.generating -= 1

    async def _events(self, prompt: Prompt, given: int):
        tokens = script_of(prompt)
        ids = tuple(range(100, 110))
        yield PromptPrefilled(len(ids), 0, prompt_hash(ids), ids)
        for at, text in list(enumerate(tokens))[given:]:
            await trio.sleep(self._token_s)
            if self.at_token is not None:
                await self.at_token(at)
            yield TokensDecoded((at,), text, (-0.5,), (FINGERPRINT,))
        if self._longest_token:  # more than one event may hold
            yield TokensDecoded((0,), "x" * self._longest_token, (-0.5,), (FINGERPRINT,))
        self.finished += 1
        yield GenerationFinished("length", len(ids), len(tokens), 0, 0.0, 0.0, 0.0)
