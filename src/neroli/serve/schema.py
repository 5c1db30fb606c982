"""The database of records: its tables, how it is opened, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neroli.errors import InvalidInput, RecordsError

APPLICATION = 0x4E65524F
"""Marks the file as neroli's."""
VERSION = 1
BUSY_SECONDS = 10.0

TABLES = """
CREATE TABLE record (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    request TEXT NOT NULL,
    content TEXT NOT NULL,
    at REAL NOT NULL,
    predicted_class INTEGER NOT NULL,
    predicted_name TEXT,
    score REAL NOT NULL,
    p_value REAL NOT NULL,
    is_ood INTEGER NOT NULL,
    threshold REAL NOT NULL,
    guard TEXT NOT NULL,
    decision TEXT CHECK (decision IN ('ood', 'fine')),
    note TEXT NOT NULL DEFAULT '',
    decided_at REAL
);
CREATE INDEX by_p_value ON record (p_value, -score, row);
CREATE INDEX by_time ON record (at, row);
CREATE INDEX flagged_by_p_value ON record (p_value, -score, row) WHERE is_ood = 1;
CREATE INDEX flagged_by_time ON record (at, row) WHERE is_ood = 1;
CREATE INDEX by_content ON record (content, guard, row);
CREATE TABLE picture (row INTEGER PRIMARY KEY, thumbnail BLOB, image BLOB);
CREATE TABLE tally (
    guard TEXT PRIMARY KEY,
    images INTEGER NOT NULL,
    flagged INTEGER NOT NULL,
    flagged_fine INTEGER NOT NULL DEFAULT 0,
    flagged_ood INTEGER NOT NULL DEFAULT 0,
    passed_fine INTEGER NOT NULL DEFAULT 0,
    passed_ood INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE state (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


def open_writer(path: Path) -> sqlite3.Connection:
    """The connection that writes, to a database that is made if missing.

    Raises:
        RecordsError: if the file cannot be opened, is not of records, is damaged or too new.
    """
    with explained(path):
        _make_private(path)
        connection = connect(path)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def connect(path: Path) -> sqlite3.Connection:
    """A connection any thread may use, one at a time; transactions begin and end explicitly.

    The file is not made if it is missing.
    """
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        uri=True,
    )


@contextmanager
def transaction(connection: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """All of the block, or nothing of it."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk may have ended it already
            connection.execute("ROLLBACK")
        raise


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn errors of the database and the disk into one sentence.

    Raises:
        RecordsError: instead of them.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise RecordsError(f"{_reason(error, path)} ({error}).") from error
    except OSError as error:
        raise RecordsError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from None


@contextmanager
def storable() -> Iterator[None]:
    """Turn values that no database holds into one sentence: huge numbers, broken characters.

    Raises:
        InvalidInput: instead of Python's own errors.
    """
    try:
        yield
    except (OverflowError, UnicodeEncodeError) as error:
        raise InvalidInput(f"A value cannot be recorded: {error}.") from None


def _reason(error: sqlite3.DatabaseError, path: Path) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    where = repr(str(path))
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return f"The records {where} are damaged: move the file away, or bring back a copy of it"
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return f"Cannot write the records {where}, is the disk full? Nothing was recorded"
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return f"Cannot write the records {where}: allow writing to the file and its folder"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"Another process is writing the records {where}: end it, or try again"
    return f"The records {where} cannot be used"


def _make_private(path: Path) -> None:
    """Make the file, and with it the files SQLite keeps beside it, readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Check that the database is ours, set how it writes, and make its tables if it is new."""
    _check(connection, path)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # holds for a new file only
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # what is committed survives a power loss
    connection.execute("PRAGMA fullfsync = ON")  # on macOS too
    connection.execute("PRAGMA secure_delete = ON")  # dropped pictures may be patient data
    connection.execute("PRAGMA journal_size_limit = 16777216")
    with transaction(connection):
        if _is_empty(connection):
            for statement in TABLES.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {VERSION}")


def _is_empty(connection: sqlite3.Connection) -> bool:
    return not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _check(connection: sqlite3.Connection, path: Path) -> None:
    if _is_empty(connection):
        return
    application, version = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("application_id", "user_version")
    )
    if application != APPLICATION:
        raise RecordsError(
            f"{str(path)!r} is a database of something else: name another file for the records."
        )
    if version > VERSION:
        raise RecordsError(
            f"The records {str(path)!r} have format {version}, this neroli reads up to {VERSION}: "
            "update neroli, or name another file."
        )
