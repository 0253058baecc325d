"""Which blocks of a model's cache anybody may share, told to whoever forwards prompts. Pure.

Only blocks that prompts marked `public` left behind are listed; those of sessions never leave the worker, since who
knows their hashes could test guesses at what others have asked. Nothing is told before somebody asks; then first all
there is, and after it what changes. Between two tellings only the last state of a block is kept, so what waits is never
more than the pool has blocks, and those that were there before.
"""

from collections.abc import Iterator
from itertools import islice
from typing import assert_never

from node.engine.block_manager import PUBLIC_SCOPE, BlockEvicted, BlockStored, CacheEvent
from node.engine.events import CacheReport
from overlay.wire.prompt import ModelId

CHANGES_PER_REPORT = 512


class PublicBlocks:
    """The public blocks of one model's pool, and which of them have changed since the last telling."""

    def __init__(self, model_id: ModelId) -> None:
        self._model_id = model_id
        self._parents: dict[bytes, bytes] = {}
        self._changed: dict[bytes, None] = {}
        self._is_told = False
        self._begins = False

    def note(self, event: CacheEvent) -> None:
        """The pool changed."""
        match event:
            case BlockStored(found, parent, scope):
                if scope != PUBLIC_SCOPE:
                    return
                self._parents[found] = parent
            case BlockEvicted(found):
                if self._parents.pop(found, None) is None:
                    return
            case _:
                assert_never(event)
        if self._is_told:
            self._changed[event.hash] = None

    def begin(self) -> None:
        """Tell all there is, and from then on what changes."""
        self._is_told = self._begins = True
        self._changed = dict.fromkeys(self._parents)

    def cease(self) -> None:
        """Nobody listens any more."""
        self._is_told = self._begins = False
        self._changed = {}

    def reports(self) -> Iterator[CacheReport]:
        """What there is to tell, in parts of a bounded size."""
        changed, self._changed = iter(self._changed), {}
        while (part := tuple(islice(changed, CHANGES_PER_REPORT))) or self._begins:
            begins, self._begins = self._begins, False
            parents = self._parents
            stored = tuple((each, parents[each]) for each in part if each in parents)
            evicted = tuple(each for each in part if each not in parents)
            yield CacheReport(self._model_id, begins, stored, evicted)
