"""The keys that a node turns over every day: onion keys as a relay, sealing keys as a model node.

They live in memory only. Forward secrecy rests on forgetting them, and a model node that started again must not be
able to open what was sealed to its earlier run: it no longer remembers which prompts it has answered. A restarted
node publishes a new descriptor, which reaches its neighbours at once.
"""

import os
from dataclasses import dataclass, field

from crypto.entropy import Entropy
from crypto.onion import OnionKey
from crypto.sealed import SealingKey

EPOCH_S = 86_400


def epoch_at(unix_time: float) -> int:
    """The key epoch of a moment: the number of its day."""
    return int(unix_time) // EPOCH_S


@dataclass(frozen=True, slots=True)
class EpochKeys:
    """The private keys of one epoch."""

    epoch: int
    onion: OnionKey = field(repr=False)
    sealing: SealingKey = field(repr=False)


class KeyRing:
    """This node's keys of the current and the previous epoch, newest first."""

    def __init__(self, *, entropy: Entropy = os.urandom) -> None:
        self._entropy = entropy
        self._keys: dict[int, EpochKeys] = {}

    @property
    def keys(self) -> tuple[EpochKeys, ...]:
        """All that are held, newest first."""
        return tuple(self._keys[epoch] for epoch in sorted(self._keys, reverse=True))

    def rotate(self, unix_time: float) -> bool:
        """Make the current epoch's keys if there are none and drop what is older than the previous epoch's.

        Returns whether anything changed. Keys of an epoch to come (the clock went back) are dropped as well.
        """
        epoch = epoch_at(unix_time)
        kept = {at: keys for at, keys in self._keys.items() if at in (epoch, epoch - 1)}
        if epoch not in kept:
            kept[epoch] = EpochKeys(
                epoch, OnionKey.generate(self._entropy), SealingKey.generate(self._entropy)
            )
        changed = kept.keys() != self._keys.keys()
        self._keys = kept
        return changed
