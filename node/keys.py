"""The keys that a node turns over every day: onion keys as a relay, sealing keys as a model node.

Forward secrecy rests on forgetting: the file holds yesterday's and today's keys and is rewritten without
older ones. (What a file system or Python still remembers of them is beyond this module.)
"""

import json
import os
from binascii import Error as HexError
from dataclasses import dataclass, field
from pathlib import Path

from crypto.entropy import Entropy
from crypto.onion import OnionKey
from crypto.sealed import SealingKey
from node.errors import KeyFileError
from node.home import read_private, write_private

EPOCH_S = 86_400
_KEY_BYTES = 32


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

    def __init__(self, file: Path, *, entropy: Entropy = os.urandom) -> None:
        self._file = file
        self._entropy = entropy
        self._keys: dict[int, EpochKeys] = _read(file) if file.exists() else {}

    @property
    def keys(self) -> tuple[EpochKeys, ...]:
        """All that are held, newest first."""
        return tuple(self._keys[epoch] for epoch in sorted(self._keys, reverse=True))

    def rotate(self, unix_time: float) -> bool:
        """Make the current epoch's keys if there are none and drop what is older than the previous epoch's.

        Returns whether anything changed. Keys of an epoch to come (the clock went back) are dropped as well.

        Raises:
            HomeError: the file can't be written; the keys in memory are then as they were.
        """
        epoch = epoch_at(unix_time)
        kept = {at: keys for at, keys in self._keys.items() if at in (epoch, epoch - 1)}
        if epoch not in kept:
            kept[epoch] = EpochKeys(
                epoch, OnionKey.generate(self._entropy), SealingKey.generate(self._entropy)
            )
        if kept.keys() == self._keys.keys():
            return False
        _write(self._file, kept)
        self._keys = kept
        return True


def _write(file: Path, keys: dict[int, EpochKeys]) -> None:
    table = {
        str(epoch): [held.onion.to_bytes().hex(), held.sealing.to_bytes().hex()]
        for epoch, held in keys.items()
    }
    write_private(file, json.dumps(table).encode())


def _read(file: Path) -> dict[int, EpochKeys]:
    try:
        table = json.loads(read_private(file))
        return {int(epoch): _parse(int(epoch), *pair) for epoch, pair in table.items()}
    except (ValueError, TypeError, AttributeError, HexError):
        raise KeyFileError(
            f"{file} is damaged", f"remove it, the keys in it last a day or two only: rm {file}"
        ) from None


def _parse(epoch: int, onion: str, sealing: str) -> EpochKeys:
    pair = bytes.fromhex(onion), bytes.fromhex(sealing)
    if any(len(key) != _KEY_BYTES for key in pair):
        raise ValueError("wrong key length")
    return EpochKeys(epoch, OnionKey.from_bytes(pair[0]), SealingKey.from_bytes(pair[1]))
