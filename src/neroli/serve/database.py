"""One SQLite file, many threads: writes that wait together share a commit, reads wait for none."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from neroli.errors import InvalidInput, RecordsError
from neroli.serve.schema import BUSY_SECONDS, connect, explained, open_writer, storable, transaction

PAGES_FREED = 256
"""Pages of the file that are given back at a time."""
ROOM = 2**18
"""Bytes that must fit before writing counts as possible again: a few images' worth."""


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
        self.path = path.absolute()
        self._writer = open_writer(path)
        self._file = self.path.stat()  # whose device and number tell it from another of its name
        self._writing = threading.Lock()
        self._listing = threading.Lock()  # guards what follows
        self._waiting: list[_Change] = []
        self._readers: list[sqlite3.Connection] = []
        self._closed = False
        self._failed = False  # the last write

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
        with explained(self.path):
            self._check_in_place()
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

    def check_writable(self) -> None:
        """Do nothing if changes can be written, as far as is known without waiting.

        Where the last one failed, it is tried with one as large as those of some images.

        Raises:
            RecordsError: if they cannot be.
        """
        self._check_open()
        with explained(self.path):
            self._check_in_place()
            if not self._failed:
                return
            if not self._writing.acquire(blocking=False):
                raise RecordsError(f"The records {str(self.path)!r} could not be written to yet.")
            try:
                self._writer.execute("PRAGMA busy_timeout = 0")
                for tried in (" " * ROOM, "null"):
                    with transaction(self._writer):
                        query = "INSERT OR REPLACE INTO state VALUES ('written', ?)"
                        self._writer.execute(query, [tried])
                self._failed = False
            finally:
                self._writer.execute(f"PRAGMA busy_timeout = {1000 * BUSY_SECONDS:.0f}")
                self._writing.release()

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

    def _check_in_place(self) -> None:
        """Raise RecordsError unless the file that is open is the one that others find."""
        try:
            in_place = os.path.samestat(self.path.stat(), self._file)
        except FileNotFoundError:
            in_place = False
        if not in_place:
            raise RecordsError(
                f"The records {str(self.path)!r} were moved, deleted or replaced while they were "
                "open: bring the file back, or start the server anew."
            )

    def _commit(self, changes: list[_Change]) -> None:
        """Apply changes in one transaction; one that is refused leaves no trace in it.

        If it fails, what came to wait meanwhile fails with it: it would wait as long in turn.
        """
        try:
            self._check_open()
            with explained(self.path):
                self._check_in_place()
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
            self._failed = False
        except BaseException as error:
            self._failed = True
            with self._listing:
                changes, self._waiting = changes + self._waiting, []
            for change in changes:
                change.error = error
        finally:
            for change in changes:
                change.done = True
        if not (self._closed or self._failed):
            self._shrink()

    def _shrink(self) -> None:
        """Give some of the space of dropped records back; later, if the disk is full."""
        with contextlib.suppress(sqlite3.DatabaseError):
            free = self._writer.execute("PRAGMA freelist_count").fetchone()[0]
            if free > 2 * PAGES_FREED:
                # execute() would free a single page: each is a step of the statement
                self._writer.executescript(f"PRAGMA incremental_vacuum({PAGES_FREED})")
