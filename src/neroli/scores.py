"""Score tables: one row an image, written as Parquet, CSV or JSON lines, resumable.

While a run lasts its rows lie in ``OUT.partial/``; at the end they become the table at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from neroli.artefact import Manifest
from neroli.data.sources import Failure
from neroli.errors import ArtefactError, InvalidInput
from neroli.files import atomic_path, drop_temporaries, is_free, locked, remove_own
from neroli.verdicts import GuardedBatch

if TYPE_CHECKING:
    from neroli.data.sources import ImageSource
    from neroli.guard import Guard
    from neroli.store import ActivationStore

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("name", pa.string()),
        ("predicted_class", pa.int64()),
        ("predicted_name", pa.string()),
        ("score", pa.float64()),
        ("p_value", pa.float64()),
        ("is_ood", pa.bool_()),
        ("error", pa.string()),
    ]
)
PART_ROWS = 1024
FORMATS = (".parquet", ".csv", ".jsonl")


@dataclass(frozen=True)
class Summary:
    """How many images were asked for, how many were flagged, and which could not be read."""

    images: int
    flagged: int
    failures: tuple[Failure, ...]


class ScoreTable:
    """A score table being written; goes on behind the rows an interrupted run of the same key left.

    Args:
        path: the table, ending in .parquet, .csv or .jsonl.
        key: what the rows are of; a partial table of another key is dropped.
        manifest: of the guard; a Parquet table carries it, so that it can be traced to its guard.

    Raises:
        InvalidInput: if the path ends in something else.
        ArtefactError: if its folder cannot be written to.
    """

    def __init__(self, path: Path | str, key: str, manifest: Manifest) -> None:
        self.path = Path(path)
        check_table_path(self.path)
        self._manifest = manifest
        self._partial = self.path.with_name(f"{self.path.name}.partial")
        self._rows: list[dict[str, Any]] = []
        self._end = 0
        self._parts: list[Path] = []
        if not is_free(self._partial, "key", ""):
            raise ArtefactError(
                f"{str(self._partial)!r}, where unfinished scores are kept, holds other files: "
                "move them away or choose another name for the scores."
            )
        self._lock = ExitStack()
        self._lock.enter_context(locked(self._partial, "scores"))
        key_file = self._partial / "key"
        if not key_file.exists() or key_file.read_bytes() != key.encode():
            for part in self._partial.glob("part-*.parquet"):
                part.unlink()
            with atomic_path(key_file) as temporary:
                temporary.write_text(key)
        self._resume()

    @property
    def position(self) -> int:
        """Position in the image source from which to go on."""
        return self._end

    def append(self, batch: GuardedBatch) -> None:
        """Add the readable and the unreadable images of a batch."""
        verdicts, names = batch.verdicts, self._manifest.classifier.class_names
        columns = zip(
            batch.ids,
            batch.names,
            verdicts.predicted_class.tolist(),
            verdicts.score.tolist(),
            verdicts.p_value.tolist(),
            verdicts.is_ood.tolist(),
            strict=True,
        )
        self._rows += [
            {
                "id": identity,
                "name": None if name is None else _text(name),
                "predicted_class": predicted,
                "predicted_name": names[predicted] if names else None,
                "score": score,
                "p_value": p_value,
                "is_ood": is_ood,
            }
            for identity, name, predicted, score, p_value, is_ood in columns
        ]
        self._rows += [
            {"name": _text(failure.name), "error": failure.reason} for failure in batch.failures
        ]
        self._end = batch.end
        if len(self._rows) >= PART_ROWS:
            self.flush()

    def flush(self) -> None:
        """Put the rows so far on disk."""
        if not self._rows:
            return
        schema = SCHEMA.with_metadata({"end": str(self._end)})
        part = self._partial / _part_name(len(self._parts))
        with atomic_path(part) as path:
            pa.parquet.write_table(pa.Table.from_pylist(self._rows, schema), path)
        self._parts.append(part)
        self._rows = []

    def finish(self) -> Summary:
        """Write the table, drop the partial one, and say what is in it."""
        self.flush()
        summary = joined_tables(self._parts, self.path, self._manifest)
        with self._lock:
            remove_own(self._partial)
        return summary

    def _resume(self) -> None:
        """Take over the whole parts from the first on; what lies behind a damaged one goes."""
        whole = True
        for number, part in enumerate(sorted(self._partial.glob("part-*.parquet"))):
            whole = whole and part.name == _part_name(number)
            if whole:
                try:
                    self._end = int(pa.parquet.read_table(part).schema.metadata[b"end"])
                except (pa.ArrowException, OSError, TypeError, KeyError, ValueError):
                    whole = False
            if whole:
                self._parts.append(part)
            else:
                part.unlink()


def scored(
    guard: Guard,
    source: ImageSource | ActivationStore,
    path: Path,
    key: str,
    manifest: Manifest,
    batch_size: int,
) -> Summary:
    """Write the table of a guard's verdicts on the images of a source.

    Args:
        guard: calibrated.
        source: the images, or their activations.
        path, key, manifest: as ``ScoreTable`` takes them.
        batch_size: images through the network at a time.

    Raises:
        InvalidInput: if the images cannot be used at all.
        ArtefactError: if the table cannot be written.
    """
    table = ScoreTable(path, key, manifest)
    try:
        for batch in guard.stream(source, start=table.position, batch_size=batch_size):
            table.append(batch)
    finally:
        table.flush()
    return table.finish()


def check_table_path(path: Path) -> None:
    """Raise InvalidInput or ArtefactError unless a table of scores can have this path."""
    if path.suffix not in FORMATS:
        raise InvalidInput(f"Scores are written to {', '.join(FORMATS)} files, got {str(path)!r}.")
    if path.is_dir():
        raise ArtefactError(f"{str(path)!r} is a folder: name a file to write the scores to.")


def joined_tables(parts: Sequence[Path], path: Path, manifest: Manifest) -> Summary:
    """Write one table of the rows of several Parquet tables, in order, and say what is in it.

    Args:
        parts: the tables; they are left as they are.
        path: the table, ending in .parquet, .csv or .jsonl.
        manifest: as ``ScoreTable`` takes it.

    Raises:
        ArtefactError: if it cannot be written.
    """
    images, flagged = 0, 0
    failures: list[Failure] = []
    schema = SCHEMA.with_metadata({"neroli_guard": manifest.model_dump_json()})
    drop_temporaries(path)
    with atomic_path(path) as out, table_writer(out, path.suffix, schema) as writer:
        for part in parts:
            table = pa.parquet.read_table(part).cast(schema)
            writer.write_table(table)
            images += len(table)
            flagged += table["is_ood"].to_pylist().count(True)
            broken = table.filter(pa.compute.is_valid(table["error"]))
            failures += map(Failure, broken["name"].to_pylist(), broken["error"].to_pylist())
    return Summary(images, flagged, tuple(failures))


def _text(name: str) -> str:
    """A file name as a table can hold it: bytes that are not UTF-8 are written as escapes."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _part_name(number: int) -> str:
    return f"part-{number:06d}.parquet"


class _JsonLines:
    """Writes tables as JSON lines, like pyarrow's own writers."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file = path.open("w", encoding="utf-8")

    def write_table(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def __enter__(self) -> _JsonLines:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def table_writer(path: Path, suffix: str, schema: pa.Schema) -> Any:
    """A context in which to write tables to a file of one of the ``FORMATS``."""
    writers = {
        ".parquet": pa.parquet.ParquetWriter,
        ".csv": pa.csv.CSVWriter,
        ".jsonl": _JsonLines,
    }
    return writers[suffix](path, schema)
