"""Every scored image's record, in a SQLite file: what is acknowledged survives a power loss.

A record has a row number in order of arrival, never given twice. The oldest beyond the limit are
dropped with their pictures and decisions; the tally of each guard goes on counting them.
"""

from __future__ import annotations

import io
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from PIL import Image

from neroli.errors import InvalidInput, RecordsError, UnknownRecord
from neroli.files import lock_of
from neroli.serve.database import Database
from neroli.serve.decisions import Decision, Decisions
from neroli.serve.export import export
from neroli.serve.filters import PAGE, Filters, Page, Record
from neroli.serve.schema import explained
from neroli.serve.scored import Scored
from neroli.serve.settings import Settings

THUMBNAIL = 256
"""Longest side of a thumbnail, in pixels."""
LONGEST_NOTE = 2000
CHUNK = 1024
"""Arrivals read at a time."""
DROPPED = 64
"""Records dropped at most, beyond as many as were added, each time some are added."""
PNG = frozenset({"1", "L", "LA", "RGB", "RGBA", "I", "I;16"})
"""Modes of pictures that are kept as they are; of others, as RGB."""
SCORED = ", ".join(field.name for field in fields(Scored))
COLUMNS = ", ".join(field.name for field in fields(Record))

Stored = tuple[bytes | None, bytes | None]
"""Thumbnail and image of a record, as far as they are kept."""


class Arrival(NamedTuple):
    """What drift is seen by: an image that was not scored before."""

    row: int
    p_value: float
    is_ood: bool
    predicted_class: int
    at: float


class Records:
    """The records of a server; any thread may use them.

    Args:
        path: of the SQLite file, made if missing; SQLite keeps two more beside it.
        settings: which pictures are kept, and how many records.

    Raises:
        RecordsError: by every method, if the file cannot be read or written, is damaged, too new,
            or not of records; nothing is then half-written, and later calls may succeed.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = Path(path)
        self._database = Database(self._path)
        self._settings = settings
        self._claim: IO[str] | None = None

    def claim(self) -> None:
        """Be the only server of these records until they are closed; others may still read them.

        Two would each tell a drift detector of their own of the images of both.

        Raises:
            RecordsError: if another server has claimed them.
        """
        if self._claim is None:
            with explained(self._path):
                self._claim = lock_of(self._path.with_name(f"{self._path.name}-lock"))
        if self._claim is None:
            raise RecordsError(
                f"Another server has the records {str(self._path)!r}: end it, or name another file "
                "(--records)."
            )

    def add(self, scored: Sequence[Scored], pictures: Sequence[Image.Image] | None = None) -> None:
        """Record some images; when it returns, they survive a power loss.

        Args:
            scored: N images, in order of arrival.
            pictures: N of them, kept as far as the settings say.

        Raises:
            InvalidInput: if there is another number of pictures, or an id is recorded already.
        """
        if pictures is not None and len(pictures) != len(scored):
            raise InvalidInput(f"{len(scored)} records came with {len(pictures)} pictures.")
        stored = [self._stored(picture) for picture in pictures or ()]  # outside the lock: slow
        self._database.write(lambda connection: self._insert(connection, scored, stored))

    def get(self, identity: str) -> Record:
        """The record of an id.

        Raises:
            UnknownRecord: if there is none.
        """
        with self._database.reading() as connection:
            return _found(connection, identity)

    def of_content(self, content: str, guard: str) -> Record | None:
        """The first record left of a content (its hash) by a guard (its version), if any."""
        query = f"SELECT {COLUMNS} FROM record WHERE content = ? AND guard = ? ORDER BY row LIMIT 1"
        with self._database.reading() as connection:
            row = connection.execute(query, [content, guard]).fetchone()
        return None if row is None else _record(row)

    def picture(self, identity: str, kind: Literal["thumbnail", "image"]) -> bytes | None:
        """The thumbnail (JPEG) or whole image (PNG) of a record; None if it was not kept.

        Raises:
            InvalidInput: if ``kind`` is another word.
        """
        if kind not in ("thumbnail", "image"):
            raise InvalidInput(f"A picture is a 'thumbnail' or an 'image', got {kind!r}.")
        with self._database.reading() as connection:
            found = connection.execute(
                f"SELECT {kind} FROM picture JOIN record USING (row) WHERE id = ?", [identity]
            ).fetchone()
        return found[0] if found else None

    def queue(
        self, filters: Filters | None = None, *, size: int = PAGE, after: str | None = None
    ) -> Page:
        """A page of records.

        Args:
            filters: which, in what order; None for the flagged ones, lowest p-values first.
            size: records on a page.
            after: ``next`` of the page before, in the same order; None for the first.

        Raises:
            InvalidInput: if ``size`` or ``after`` cannot be.
        """
        filters = filters or Filters()
        query, values = filters.query(size, after)
        with self._database.reading() as connection:
            rows = connection.execute(f"SELECT {COLUMNS} FROM record {query}", values).fetchall()
        return filters.page([_record(row) for row in rows], size)

    def decide(self, identity: str, decision: Decision | None, note: str = "") -> Record:
        """Set what an image really is, or take that back with None; returns the record.

        It holds for all records of the same content by the same guard, later ones too.

        Raises:
            UnknownRecord: if there is no such record.
            InvalidInput: if the decision is another word, or the note is too long.
        """
        if decision not in ("ood", "fine", None):
            raise InvalidInput(f"A decision is 'ood' or 'fine', got {decision!r}.")
        if len(note) > LONGEST_NOTE:
            raise InvalidInput(f"A note has up to {LONGEST_NOTE} characters, got {len(note)}.")

        def apply(connection: sqlite3.Connection) -> None:
            record = _found(connection, identity)
            decided_at = None if decision is None else time.time()
            connection.execute(
                "UPDATE record SET decision = ?, note = ?, decided_at = ? "
                "WHERE content = ? AND guard = ?",
                [decision, note, decided_at, record.content, record.guard],
            )
            for change, of in ((-1, record.decision), (1, decision)):
                if of is not None:
                    column = f"{'flagged' if record.is_ood else 'passed'}_{of}"
                    connection.execute(
                        f"UPDATE tally SET {column} = {column} + ? WHERE guard = ?",
                        [change, record.guard],
                    )

        self._database.write(apply)
        return self.get(identity)

    def guards(self) -> list[str]:
        """Versions of the guards that images were scored with."""
        with self._database.reading() as connection:
            return [guard for (guard,) in connection.execute("SELECT guard FROM tally")]

    def decisions(self, guard: str | None = None) -> Decisions:
        """What was decided of the images a guard scored, dropped records included.

        Args:
            guard: version; None for that of the newest record.
        """
        with self._database.reading() as connection:
            if guard is None:
                newest = "SELECT guard FROM record ORDER BY row DESC LIMIT 1"
                guard = (connection.execute(newest).fetchone() or ("",))[0]
            names = ", ".join(field.name for field in fields(Decisions))
            found = connection.execute(f"SELECT {names} FROM tally WHERE guard = ?", [guard])
            row = found.fetchone()
        return Decisions(*row) if row else Decisions(guard or "", 0, 0)

    def arrivals(self, after: int = 0, guard: str | None = None) -> Iterator[Arrival]:
        """What was scored, in order of arrival; records added meanwhile are included.

        An image that comes again, as when a client asks twice, is left out: it says nothing new.

        Args:
            after: the row number to go on from.
            guard: version; None for all.
        """
        of_guard = "" if guard is None else "AND guard = ?"
        query = (
            "SELECT row, p_value, is_ood, predicted_class, at FROM record AS new WHERE row > ? "
            f"{of_guard} AND NOT EXISTS (SELECT 1 FROM record AS old WHERE "
            "old.content = new.content AND old.guard = new.guard AND old.row < new.row) "
            f"ORDER BY row LIMIT {CHUNK}"
        )
        rows = [(after, 0.0, 0, 0, 0.0)]
        while rows:
            with self._database.reading() as connection:  # for a chunk: it holds the log back
                values = [rows[-1][0]] + ([guard] if guard is not None else [])
                rows = connection.execute(query, values).fetchall()
            for row, p_value, is_ood, predicted, at in rows:
                yield Arrival(row, p_value, bool(is_ood), predicted, at)

    def p_values(
        self, after: int = 0, guard: str | None = None
    ) -> Iterator[tuple[int, float, bool]]:
        """Row numbers, p-values and verdicts, as of ``arrivals``."""
        return (arrival[:3] for arrival in self.arrivals(after, guard))

    def load_state(self, key: str) -> dict[str, Any] | None:
        """What was saved under a key; None if nothing was."""
        with self._database.reading() as connection:
            found = connection.execute("SELECT value FROM state WHERE key = ?", [key]).fetchone()
        return json.loads(found[0]) if found else None

    def save_state(self, key: str, value: dict[str, Any]) -> None:
        """Keep a small dictionary that JSON can hold, in place of what was under the key."""
        text = json.dumps(value)
        self._database.write(
            lambda connection: connection.execute(
                "INSERT OR REPLACE INTO state VALUES (?, ?)", [key, text]
            )
        )

    def export(self, path: Path | str) -> int:
        """Write all records, as they are now, to a table; returns their number.

        Args:
            path: ending in .parquet, .csv or .jsonl; it appears when it is complete.

        Raises:
            InvalidInput: if it ends in something else.
            ArtefactError: if it cannot be written.
        """
        with self._database.reading() as connection:
            return export(connection, Path(path))

    def check_writable(self) -> None:
        """Do nothing if images can be recorded, as far as is known without waiting.

        Raises:
            RecordsError: if they cannot be.
        """
        self._database.check_writable()

    def close(self) -> None:
        """Finish the write that is under way and close the file; later calls are refused."""
        self._database.close()
        if self._claim is not None:
            self._claim.close()

    def _insert(
        self, connection: sqlite3.Connection, scored: Sequence[Scored], stored: Sequence[Stored]
    ) -> None:
        marks = ", ".join("?" * len(fields(Scored)))
        row = 0
        for position, one in enumerate(scored):
            try:
                query = f"INSERT INTO record ({SCORED}) VALUES ({marks}) RETURNING row"
                (row,) = connection.execute(query, astuple(one)).fetchone()
            except sqlite3.IntegrityError as error:
                raise InvalidInput(f"Record {one.id!r} is refused: {error}.") from None
            same = connection.execute(
                "SELECT decision, note, decided_at FROM record "
                "WHERE content = ? AND guard = ? AND row < ? ORDER BY row LIMIT 1",
                [one.content, one.guard, row],
            ).fetchone()
            if same is None:
                connection.execute(
                    "INSERT INTO tally (guard, images, flagged) VALUES (?, 1, ?) "
                    "ON CONFLICT (guard) DO UPDATE "
                    "SET images = images + 1, flagged = flagged + excluded.flagged",
                    [one.guard, one.is_ood],
                )
            else:  # what was decided of a content holds for it whenever it comes
                connection.execute(
                    "UPDATE record SET decision = ?, note = ?, decided_at = ? WHERE row = ?",
                    [*same, row],
                )
            if stored and stored[position] != (None, None):
                connection.execute("INSERT INTO picture VALUES (?, ?, ?)", [row, *stored[position]])
        if self._settings.keep_records is not None:
            last_dropped = row - self._settings.keep_records
            for table in ("record", "picture"):
                connection.execute(
                    f"DELETE FROM {table} WHERE row IN (SELECT row FROM {table} WHERE row <= ? "
                    "ORDER BY row LIMIT ?)",
                    [last_dropped, len(scored) + DROPPED],
                )

    def _stored(self, picture: Image.Image) -> Stored:
        thumbnail = image = None
        if self._settings.keep_thumbnails:
            small = picture.convert("RGB")
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            thumbnail = _encoded(small, "JPEG")
        if self._settings.keep_images:
            image = _encoded(
                picture.copy() if picture.mode in PNG else picture.convert("RGB"), "PNG"
            )
        return thumbnail, image


def _encoded(picture: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    picture.info = {}  # EXIF and comments may name a patient: only the pixels are kept
    picture.save(file, kind)
    return file.getvalue()


def _found(connection: sqlite3.Connection, identity: str) -> Record:
    query = f"SELECT {COLUMNS} FROM record WHERE id = ?"
    row = connection.execute(query, [identity]).fetchone()
    if row is None:
        raise UnknownRecord(f"There is no record {identity!r}, or it was dropped since.")
    return _record(row)


def _record(row: Sequence[Any]) -> Record:
    values = dict(zip((field.name for field in fields(Record)), row, strict=True))
    return Record(**{**values, "is_ood": bool(values["is_ood"])})
