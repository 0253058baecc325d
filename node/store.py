"""What lasts between runs: the last answers, the guard sample, the descriptors last seen. One sqlite file.

Every table is bounded; the oldest rows go first. Calls are short and synchronous (a write is well under a
millisecond: the journal is written ahead, not synced per row, so a power cut may lose the last answers, but
not the file). Prompts and answers are in here, so the file is 0600 and `answers` is bounded by count.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.errors import StoreError

SCHEMA_VERSION = 1
MAX_DESCRIPTORS = 20_000
_SCHEMA = """
CREATE TABLE answers (
  position INTEGER PRIMARY KEY AUTOINCREMENT, answer_id TEXT NOT NULL UNIQUE, created_unix REAL NOT NULL,
  record TEXT NOT NULL, account TEXT NOT NULL);
CREATE TABLE guards (position INTEGER PRIMARY KEY CHECK (position = 0), sample BLOB NOT NULL);
CREATE TABLE descriptors (node_id BLOB PRIMARY KEY, seq INTEGER NOT NULL,
  expires_unix REAL NOT NULL, blob BLOB NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer as it was kept. record: JSON of `verify.answer.AnswerRecord`; account: what happened."""

    answer_id: str
    created_unix: float
    record: str
    account: str


@dataclass(frozen=True, slots=True)
class StoredDescriptor:
    """A signed descriptor, still encoded; whoever loads it checks it again."""

    node_id: bytes
    seq: int
    expires_unix: float
    blob: bytes


class Store:
    """The state file of one home. Open it with `open_store`; one thread only."""

    def __init__(self, connection: sqlite3.Connection, kept_answers: int) -> None:
        self._connection = connection
        self._kept_answers = kept_answers

    def keep_answer(self, answer: StoredAnswer) -> None:
        """Add or replace an answer; the oldest beyond the bound go."""
        with self._writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO answers (answer_id, created_unix, record, account)"
                " VALUES (?, ?, ?, ?)",
                (answer.answer_id, answer.created_unix, answer.record, answer.account),
            )
            db.execute(
                "DELETE FROM answers WHERE position NOT IN"
                " (SELECT position FROM answers ORDER BY position DESC LIMIT ?)",
                (self._kept_answers,),
            )

    def answer(self, answer_id: str) -> StoredAnswer | None:
        """The answer of that id; `last` names the newest. None when it was never kept or has gone."""
        columns = "SELECT answer_id, created_unix, record, account FROM answers"
        if answer_id == "last":
            row = self._read(f"{columns} ORDER BY position DESC LIMIT 1")
        else:
            row = self._read(f"{columns} WHERE answer_id = ?", (answer_id,))
        return StoredAnswer(*row[0]) if row else None

    def answer_ids(self) -> list[str]:
        """Ids of the kept answers, the newest first."""
        return [str(row[0]) for row in self._read("SELECT answer_id FROM answers ORDER BY position DESC")]

    def save_guards(self, sample: bytes) -> None:
        """Replace the guard sample, encoded by `overlay.routing.guards`."""
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO guards VALUES (0, ?)", (sample,))

    def guards(self) -> bytes | None:
        """The encoded guard sample; None where none was saved."""
        rows = self._read("SELECT sample FROM guards")
        return bytes(rows[0][0]) if rows else None

    def save_descriptors(self, descriptors: Iterable[StoredDescriptor], unix_time: float) -> None:
        """Keep the newest descriptor of each node; those that have expired go."""
        rows = [(d.node_id, d.seq, d.expires_unix, d.blob) for d in descriptors]
        with self._writing() as db:
            db.executemany(
                "INSERT INTO descriptors VALUES (?, ?, ?, ?) ON CONFLICT (node_id) DO UPDATE SET"
                " seq = excluded.seq, expires_unix = excluded.expires_unix, blob = excluded.blob"
                " WHERE excluded.seq > seq",
                rows,
            )
            db.execute("DELETE FROM descriptors WHERE expires_unix <= ?", (unix_time,))
            db.execute(
                "DELETE FROM descriptors WHERE node_id NOT IN"
                " (SELECT node_id FROM descriptors ORDER BY expires_unix DESC LIMIT ?)",
                (MAX_DESCRIPTORS,),
            )

    def descriptors(self, unix_time: float) -> list[StoredDescriptor]:
        """Descriptors that have not expired."""
        rows = self._read(
            "SELECT node_id, seq, expires_unix, blob FROM descriptors WHERE expires_unix > ?", (unix_time,)
        )
        return [StoredDescriptor(bytes(r[0]), int(r[1]), float(r[2]), bytes(r[3])) for r in rows]

    def close(self) -> None:
        """Flush and close the file."""
        self._connection.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._connection:
                yield self._connection
        except sqlite3.Error as error:
            raise StoreError(f"the state file can't be written: {error}") from error

    def _read(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return list(self._connection.execute(query, values))
        except sqlite3.Error as error:
            raise StoreError(f"the state file can't be read: {error}") from error


def open_store(file: Path, *, kept_answers: int = 100) -> Store:
    """Open the state file, making it at first use.

    Raises:
        StoreError: it is damaged, from a newer version, or can't be opened.
    """
    remedy = f"move it away and start again: mv {file} {file}.damaged (identity and keys are not in it)"
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(file, timeout=5, check_same_thread=False)
        try:
            _prepare(connection, file)
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{file} can't be used: {error}", remedy) from None
    return Store(connection, kept_answers)


def _prepare(connection: sqlite3.Connection, file: Path) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    elif version != SCHEMA_VERSION:
        raise StoreError(
            f"{file} has schema version {version}, this clove knows {SCHEMA_VERSION}",
            "use the version of clove that wrote it, or move the file away",
        )
