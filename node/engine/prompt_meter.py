"""How long a prompt is and what its blocks are called, found out in the daemon, without the worker.

Who forwards prompts has to know both before he chooses who answers, and the worker only looks between two steps. The
tokenizer needs no torch; a model's takes some tens of megabytes.

The daemon has no threads but this one, and needs it: a long prompt takes a tenth of a second and more, for which
neither the links of all circuits may stand still nor the worker be kept from its next step. Its code is handed a prompt
and returns a value; it touches nothing else.
"""

from dataclasses import dataclass
from pathlib import Path

import trio

from node.engine.block_names import name_chain
from node.engine.tokenizer import PromptTokenizer
from overlay.wire.group import BlockHash
from overlay.wire.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Measured:
    """A prompt's tokens, and the names of its blocks that a later prompt could share, from the first on.

    is_told: whoever holds the blocks tells of them, since they are public.
    """

    tokens: int
    chain: tuple[BlockHash, ...]
    is_told: bool = False


class PromptMeter:
    """Measures prompts for one stored model, one at a time: the others wait.

    folder: of `node.engine.models.ModelStore`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tokenizer: PromptTokenizer | None = None
        self._turn = trio.CapacityLimiter(1)

    async def load(self) -> None:
        """Load the tokenizer now, not with the first prompt.

        That holds up the loop for a fifth of a second or more even from a thread, since the library keeps the
        interpreter's lock meanwhile; so a daemon does it while it starts and has no circuits yet.

        Raises:
            UnsupportedModelError: the tokenizer can't be loaded.
        """
        await trio.to_thread.run_sync(self._loaded, limiter=self._turn, abandon_on_cancel=True)

    async def measure(self, prompt: Prompt, *, key: bytes, scope: bytes | None) -> Measured:
        """Tokens and names of a prompt, the same that a worker counts and tells of it under this group key.

        A prompt that is public has the same chain at every member. That of a session means nothing to anyone else: its
        scope holds the session's name, 16 secret bytes, so a chain can't be guessed from a text, nor two sessions' be
        compared. scope: of `block_manager.scope_of`; None has no chain.

        Leaving early abandons the thread, which holds the turn until it is done.

        Raises:
            PromptRefusedError: it is empty, or the model has no template for conversations or refuses this one. Too
                long it may be: who knows the context has to look.
            UnsupportedModelError: the tokenizer can't be loaded.
        """
        return await trio.to_thread.run_sync(
            self._measure, prompt, key, scope, limiter=self._turn, abandon_on_cancel=True
        )

    def _measure(self, prompt: Prompt, key: bytes, scope: bytes | None) -> Measured:
        ids = self._loaded().encode(prompt)
        # The last token is always computed, as in `Scheduler`, so a block that ends with it is of no use.
        return Measured(len(ids), () if scope is None else name_chain(key, scope, ids[:-1]))

    def _loaded(self) -> PromptTokenizer:
        if self._tokenizer is None:
            self._tokenizer = PromptTokenizer(self._folder)
        return self._tokenizer
