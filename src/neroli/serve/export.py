"""Records as a table for others to read: Parquet, CSV or JSON lines."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pyarrow as pa

from neroli.errors import InvalidInput
from neroli.files import atomic_path
from neroli.scores import FORMATS, table_writer

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("request", pa.string()),
        ("content", pa.string()),
        ("at", pa.float64()),
        ("predicted_class", pa.int64()),
        ("predicted_name", pa.string()),
        ("score", pa.float64()),
        ("p_value", pa.float64()),
        ("is_ood", pa.bool_()),
        ("threshold", pa.float64()),
        ("guard", pa.string()),
        ("decision", pa.string()),
        ("note", pa.string()),
        ("decided_at", pa.float64()),
    ]
)
CHUNK = 1024
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What cells begin with that spreadsheets run."""


def export(connection: sqlite3.Connection, path: Path) -> int:
    """Write all records, as they are now, to a table; returns their number.

    Args:
        connection: to the database; what others add meanwhile is not seen.
        path: ending in .parquet, .csv or .jsonl; it appears when it is complete, for its owner
            alone. In .csv an apostrophe is put before text that spreadsheets would run.

    Raises:
        InvalidInput: if it ends in something else.
        ArtefactError: if it cannot be written.
    """
    if path.suffix not in FORMATS:
        raise InvalidInput(
            f"Records are exported to {', '.join(FORMATS)} files, got {str(path)!r}."
        )
    count = 0
    rows = connection.execute(f"SELECT {', '.join(SCHEMA.names)} FROM record ORDER BY row")
    with (
        atomic_path(path, private=True) as temporary,
        table_writer(temporary, path.suffix, SCHEMA) as table,
    ):
        while chunk := rows.fetchmany(CHUNK):
            columns = dict(zip(SCHEMA.names, zip(*chunk, strict=True), strict=True))
            columns["is_ood"] = tuple(map(bool, columns["is_ood"]))
            if path.suffix == ".csv":
                for name in ("predicted_name", "note"):
                    columns[name] = tuple(map(_inert, columns[name]))
            table.write_table(pa.Table.from_pydict(columns, SCHEMA))
            count += len(chunk)
    return count


def _inert(text: str | None) -> str | None:
    """Text that a spreadsheet shows and does not run."""
    return f"'{text}" if text and text.startswith(FORMULA) else text
