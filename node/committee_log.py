"""The committee's write-ahead log as a file: what it returns from is on disk."""

import os
from pathlib import Path

from node.errors import HomeError
from node.home import write_private


class CommitteeLog:
    """One member's log file. A call that raises leaves the member unable to speak: stop it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> bytes | None:
        """The whole log; None where there is none.

        Raises:
            HomeError: the file can't be read.
        """
        try:
            return self._file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HomeError(f"{self._file} can't be read: {error.strerror}") from None

    def append(self, record: bytes) -> None:
        """Adds a record at the end and syncs it.

        Raises:
            HomeError: it may be there in part, or not at all; nothing may be sent that follows it.
        """
        try:
            opened = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            with os.fdopen(opened, "wb", buffering=0) as file:
                if file.write(record) != len(record):
                    raise HomeError(f"{self._file} can't be written: the disk is full")
                os.fsync(file.fileno())
        except OSError as error:
            raise HomeError(f"{self._file} can't be written: {error.strerror}") from None

    def replace(self, data: bytes) -> None:
        """Puts this in the place of the whole log, whole or not at all, and syncs file and folder.

        Raises:
            HomeError: the log may be the old one or the new one; nothing may be sent that follows.
        """
        write_private(self._file, data)
        try:
            folder = os.open(self._file.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise HomeError(f"{self._file.parent} can't be synced: {error.strerror}") from None
