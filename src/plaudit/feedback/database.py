"""One SQLite file that several threads and processes write: opening, migrating, transactions, backups.

A transaction is on the disk when its block ends (write-ahead log, synchronous FULL). Threads of one process wait for
each other at a lock, because SQLite's own waiting sleeps for up to 100 ms; processes wait at SQLite's.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path

from filelock import FileLock

from plaudit.errors import FeedbackError
from plaudit.files import partial_of, sync

VERSION = 2  # of schema.sql
MIGRATIONS: Mapping[int, str] = {1: "migration-1.sql"}  # bring a database of this version to the next one
_PATIENCE = 30.0  # seconds that a process waits for another one's transaction


class Database:
    """Connections to one file. Several threads can use it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._idle: deque[sqlite3.Connection] = deque()
        self._writing = threading.Lock()
        self._current = threading.local()  # the connection of a transaction that this thread is in

    @staticmethod
    def open(path: Path, create: bool) -> Database:
        """Open the file; make it, or migrate it after a backup, where needed.

        Raises:
            FeedbackError: it is missing, damaged, no database of plaudit, or made by a newer version.
        """
        if not path.exists() and not create:
            raise FeedbackError(f"{path}: there is no labelling project; start one with plaudit label")
        database = Database(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                database._prepare()
        except (OSError, FeedbackError) as error:
            database.close()
            if isinstance(error, FeedbackError):
                raise
            raise FeedbackError(f"{path}: cannot be opened: {error.strerror or error}") from None
        return database

    def _prepare(self) -> None:
        with self._connected() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return _upgrade(connection, _script("schema.sql"), VERSION)
            if version > VERSION:
                raise FeedbackError(f"{self.path}: made by a newer version of plaudit: upgrade with pip")
            if version < VERSION and any(older not in MIGRATIONS for older in range(version, VERSION)):
                raise FeedbackError(f"{self.path}: not a labelling project of plaudit; choose another folder")
        if version < VERSION:
            self.backup()
            with self._connected() as connection:
                for older in range(version, VERSION):
                    _upgrade(connection, _script(MIGRATIONS[older]), older + 1)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection that no other thread uses meanwhile."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        try:
            yield connection
        except sqlite3.Error as error:
            raise FeedbackError(f"{self.path}: {' '.join(str(error).split())}") from error
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._idle.append(connection)

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(self.path, _PATIENCE, isolation_level=None, check_same_thread=False)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error as error:
            raise FeedbackError(f"{self.path}: {error}") from None
        return connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction that reads: all its queries see the same state. Inside another one, it is a part of that."""
        if (outer := getattr(self._current, "connection", None)) is not None:
            yield outer
            return
        with self._connected() as connection, self._in_transaction(connection, writes=False):
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that writes: on the disk when the block ends, undone when it raises.

        Inside another one of the same thread, it is a part of that.
        """
        if (outer := getattr(self._current, "connection", None)) is not None:
            assert self._current.writes, "a transaction that reads cannot write"
            yield outer
            return
        with self._writing, self._connected() as connection, self._in_transaction(connection, writes=True):
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def _in_transaction(self, connection: sqlite3.Connection, writes: bool) -> Iterator[None]:
        """Let this thread's transactions inside this one be a part of it."""
        self._current.connection, self._current.writes = connection, writes
        try:
            yield
        finally:
            self._current.connection = None

    def backup(self) -> Path:
        """Copy the database, also while others write, into the folder `backups`; the path of the copy."""
        folder = self.path.parent / "backups"
        folder.mkdir(exist_ok=True)
        now = datetime.now(timezone.utc)
        path = folder / f"{self.path.stem}-{now:%Y%m%d-%H%M%S-%f}.db"
        partial = partial_of(path)
        copy = sqlite3.connect(partial)
        try:
            with self._connected() as connection:
                connection.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, complete without a log beside it
        finally:
            copy.close()
        sync(partial)
        return partial.replace(path)

    def close(self) -> None:
        """Close the connections; no thread may use the database any more."""
        while self._idle:
            self._idle.pop().close()


def _script(name: str) -> str:
    return resources.files("plaudit.feedback").joinpath(name).read_text(encoding="utf-8")


def _upgrade(connection: sqlite3.Connection, script: str, version: int) -> None:
    """Run a script, which is done completely or not at all."""
    connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {version};\nCOMMIT;")
