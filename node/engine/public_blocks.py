"""Which blocks of a model's cache anybody may share, told to whoever forwards prompts. Pure.

Only blocks that prompts marked `public` left behind are listed; those of sessions never leave the worker, since who
knows their names could test guesses at what others have asked. Nothing is told before somebody asks, with the key of
the model's group; then first all there is, and after it what changes, in names under that key
(`node.engine.block_names`). With another key all begins anew. Between two tellings only the last state of a block is
kept, so what waits is never more than the pool has blocks, and those that were there before.

A block can be named while those before it are there, and where its beginning is gone nobody would find it. It may
outlive its beginning all the same, where two sequences computed that at the same time; it is then left out under
another key, and should its beginning come back, until somebody asks anew.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import assert_never

from node.engine.block_manager import PUBLIC_SCOPE, BlockEvicted, BlockStored, CacheEvent
from node.engine.block_names import name_block
from node.engine.events import CacheReport
from overlay.wire.group import BlockHash
from overlay.wire.prompt import ModelId

CHANGES_PER_REPORT = 512


@dataclass(frozen=True, slots=True)
class _Content:
    """What a block is named by. parent: the worker's own hash of the block before it; b"" at the start."""

    parent: bytes
    ids: bytes


class PublicBlocks:
    """The public blocks of one model's pool, and which have changed since the last telling.

    Kept by the worker's own hashes, which are in the events; told in names.
    """

    def __init__(self, model_id: ModelId) -> None:
        self._model_id = model_id
        self._contents: dict[bytes, _Content] = {}
        self._key = b""  # while nobody listens
        self._names: dict[bytes, BlockHash] = {}
        self._changed: dict[bytes, BlockHash] = {}
        self._begins = False

    def note(self, event: CacheEvent) -> None:
        """The pool changed."""
        match event:
            case BlockStored(found, parent, scope, ids):
                if scope == PUBLIC_SCOPE:
                    self._contents[found] = _Content(parent, ids)
                    if self._key:
                        self._name(found)
            case BlockEvicted(found):
                self._contents.pop(found, None)
                name = self._names.pop(found, None)
                if name is not None:
                    self._changed[found] = name
            case _:
                assert_never(event)

    def begin(self, key: bytes) -> None:
        """Tell all there is under this key, and from then on what changes."""
        if key != self._key:
            self._key, self._names = key, {}
        for found in self._contents:
            self._name(found)
        self._changed = dict(self._names)
        self._begins = True

    def cease(self) -> None:
        """Nobody listens any more."""
        self._key, self._begins = b"", False
        self._names, self._changed = {}, {}

    def reports(self) -> Iterator[CacheReport]:
        """What there is to tell, in parts of a bounded size."""
        changed, self._changed = iter(self._changed.items()), {}
        while (part := tuple(islice(changed, CHANGES_PER_REPORT))) or self._begins:
            begins, self._begins = self._begins, False
            stored = tuple(name for found, name in part if found in self._names)
            evicted = tuple(name for found, name in part if found not in self._names)
            yield CacheReport(self._model_id, self._key, begins, stored, evicted)

    def _name(self, found: bytes) -> None:
        """Name a block, and those before it that have no name yet; none of them where one is gone."""
        unnamed: list[bytes] = []
        while found and found not in self._names:
            if found not in self._contents:
                return
            unnamed.append(found)
            found = self._contents[found].parent
        before = self._names[found] if found else PUBLIC_SCOPE
        for each in reversed(unnamed):
            before = name_block(self._key, before, self._contents[each].ids)
            self._names[each] = self._changed[each] = before
