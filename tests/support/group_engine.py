"""What a model node of a group has beside the scripted engine: a load that tests set, a cache that tells, a meter."""

from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace

import trio

from crypto.seeded import prompt_hash
from node.engine.block_names import name_chain
from node.engine.events import CacheReport, EngineLoad
from node.engine.prompt_meter import Measured
from overlay.wire.group import BlockHash
from overlay.wire.prompt import Prompt
from tests.support.scripted_engine import CARD, ScriptedEngine

IDLE_ENGINE = EngineLoad(
    model_id=CARD.model_id,
    alias=CARD.alias,
    waiting=0,
    reading=0,
    decoding=0,
    queued_tokens=0,
    prefill_token_s=2.0**-10,
    decode_step_s=2.0**-5,
    attended_s=2.0**-24,
    mixed_tokens=24,
    mixed_step_s=0.0625,
    decoding_s=0.0,
    free_slots=8,
    wait_s=0.0,
    answer_s=1.0,
)


def an_engine_load(**changes) -> EngineLoad:
    return replace(IDLE_ENGINE, **changes)


def words_of(prompt: Prompt) -> list[str]:
    parts = [turn.content for turn in prompt.messages] or [prompt.text or ""]
    return " ".join(parts).split()


class WordMeter:
    """Takes each word for a token."""

    async def load(self) -> None:
        """There is nothing to load."""

    async def measure(self, prompt: Prompt, *, key: bytes, scope: bytes | None) -> Measured:
        await trio.lowlevel.checkpoint()
        ids = [
            int.from_bytes(prompt_hash([len(word), *word.encode()])[:4], "big") for word in words_of(prompt)
        ]
        return Measured(len(ids), () if scope is None else name_chain(key, scope, ids[:-1]))


class FedCache:
    """Tells of blocks what tests say, one report after the other."""

    def __init__(self) -> None:
        self.key = b""
        self._send, self._receive = trio.open_memory_channel[tuple[tuple[BlockHash, ...], ...]](1000)

    @contextmanager
    def opened(self, model_id: str, key: bytes) -> Iterator["FedCache"]:
        assert model_id == CARD.model_id
        self.key = key
        yield self

    def tell(self, stored: tuple[BlockHash, ...], evicted: tuple[BlockHash, ...] = ()) -> None:
        self._send.send_nowait((stored, evicted))

    async def receive(self) -> CacheReport:
        stored, evicted = await self._receive.receive()
        return CacheReport(CARD.model_id, self.key, begins=False, stored=stored, evicted=evicted)


class SetGate:
    """The load that a test set."""

    def __init__(self) -> None:
        self.load: EngineLoad | None = IDLE_ENGINE

    def set(self, **changes) -> None:
        self.load = an_engine_load(**changes)

    def load_of(self, model_id: str) -> EngineLoad | None:
        assert model_id == CARD.model_id
        return self.load


class GroupEngine(ScriptedEngine):
    """A scripted engine that takes part in a group. first_s: what it truly takes before its first token."""

    def __init__(self, *, first_s: float = 0.0, **scripted) -> None:
        super().__init__(**scripted)
        self.gate = SetGate()
        self.cache = FedCache()
        self.first_s = first_s

    async def _events(self, prompt: Prompt, given: int):
        await trio.sleep(self.first_s)
        async with aclosing(super()._events(prompt, given)) as events:
            async for event in events:
                yield event
