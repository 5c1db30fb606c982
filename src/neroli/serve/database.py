"""One SQLite file, many threads: writes that wait together share a commit, reads wait for none."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from neroli.errors import InvalidInput, RecordsError
from neroli.serve.schema import connect, explained, open_writer, storable, transaction

PAGES_FREED = 256
"""Pages of the file that are given back at a time."""


class _Change:
    """A write that waits for its transaction, and what came of it."""

    def __init__(self, apply: Callable[[sqlite3.Connection], object]) -> None:
        self.apply = apply
        self.done = False
        self.error: BaseException | None = None


class Database:
    """The file of records and the connections to it.

    Args:
        path: of the file, made if missing; SQLite keeps two more beside it.

    Raises:
        RecordsError: by every method, if the file cannot be read or written, is damaged, too new,
            or of something else; nothing is then half-written, and later calls may succeed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer = open_writer(path)
        self._writing = threading.Lock()
        self._listing = threading.Lock()  # guards what follows
        self._waiting: list[_Change] = []
        self._readers: list[sqlite3.Connection] = []
        self._closed = False

    def write(self, apply: Callable[[sqlite3.Connection], object]) -> None:
        """Apply a change, all of it or nothing; when this returns, it survives a power loss.

        Raises:
            InvalidInput: if ``apply`` raises it, or a value cannot be stored; changes that share
                its commit are applied.
        """
        change = _Change(apply)
        with self._listing:
            self._waiting.append(change)
        with self._writing:  # whoever comes first commits what all others wait for
            if not change.done:
                with self._listing:
                    changes, self._waiting = self._waiting, []
                self._commit(changes)
        if change.error is not None:
            raise change.error

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection to read with, for this block alone; every query sees one moment."""
        with self._listing:
            self._check_open()
            connection = self._readers.pop() if self._readers else None
        with explained(self.path), storable():
            connection = connection or connect(self.path)
            try:
                yield connection
            finally:
                with self._listing:
                    if not self._closed:
                        self._readers.append(connection)
                if self._closed:
                    connection.close()

    def close(self) -> None:
        """Finish the write that is under way and close the file; later calls are refused."""
        with self._writing:
            with self._listing:
                self._closed, readers, self._readers = True, self._readers, []
            for connection in (*readers, self._writer):
                connection.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RecordsError(f"The records {str(self.path)!r} are closed.")

    def _commit(self, changes: list[_Change]) -> None:
        """Apply changes in one transaction; one that is refused leaves no trace in it."""
        try:
            self._check_open()
            with explained(self.path), transaction(self._writer):
                for change in changes:
                    self._writer.execute("SAVEPOINT change")
                    try:
                        with storable():
                            change.apply(self._writer)
                    except InvalidInput as error:
                        change.error = error
                        self._writer.execute("ROLLBACK TO change")
                    self._writer.execute("RELEASE change")
        except BaseException as error:
            for change in changes:
                change.error = error
        finally:
            for change in changes:
                change.done = True
        if not self._closed:
            self._shrink()

    def _shrink(self) -> None:
        """Give some of the space of dropped records back; later, if the disk is full."""
        with contextlib.suppress(sqlite3.DatabaseError):
            free = self._writer.execute("PRAGMA freelist_count").fetchone()[0]
            if free > 2 * PAGES_FREED:
                # execute() would free a single page: each is a step of the statement
                self._writer.executescript(f"PRAGMA incremental_vacuum({PAGES_FREED})")
