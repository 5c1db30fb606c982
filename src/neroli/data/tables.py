"""Tables of image files: CSV or Parquet, with a label and a group beside every path."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from neroli.data.folders import FileReader
from neroli.data.pictures import Pictures
from neroli.errors import InvalidInput, NeroliWarning
from neroli.files import atomic_path

TABLES = (".csv", ".parquet", ".tsv")
_GROUP_LIKE = re.compile("patient|subject|case|study|procedure|exam")


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns.

    Args:
        path: of the image files, relative to the table's folder or absolute.
        label: of their classes, by name or index; a table without it has no labels.
        group: of what they belong to, such as a patient; a table without it has no groups.
    """

    path: str = "path"
    label: str = "label"
    group: str = "group"


class ImageTable(Pictures):
    """The image files that a table lists, in its order, named by the paths it gives.

    Args:
        path: a ``.csv``, ``.tsv`` or ``.parquet`` file with a header.
        columns: their names; a label or group column that is named and not there is an error, one
            of the names taken by default may be missing.
        workers: threads that read and decode ahead of the network.

    Raises:
        InvalidInput: if the table cannot be read, lacks a column, or a row lacks a value.
        NotEnoughImages: if it has no row.
    """

    def __init__(
        self, path: Path | str, columns: Columns | None = None, *, workers: int | None = None
    ) -> None:
        path = Path(path)
        columns, default = columns or Columns(), Columns()
        content = _read(path)
        names = _texts(path, content, columns.path)
        optional = {
            kind: _texts(path, content, getattr(columns, kind))
            if getattr(columns, kind) in content.column_names
            or getattr(columns, kind) != getattr(default, kind)
            else None
            for kind in ("label", "group")
        }
        if optional["group"] is None:
            _warn_of_unused_groups(path, content, columns)
        super().__init__(
            FileReader([path.parent / name for name in names]),
            names,
            optional["label"],
            optional["group"],
            workers=workers,
        )


def _warn_of_unused_groups(path: Path, table: pa.Table, columns: Columns) -> None:
    used = {columns.path, columns.label}
    hints = [n for n in table.column_names if n not in used and _GROUP_LIKE.search(n.lower())]
    if hints:
        warnings.warn(
            f"The column {hints[0]!r} of {str(path)!r} is not used: if it says which patient or "
            f"procedure an image is of, name it (--group-column {hints[0]}), so that none is in "
            "both training and calibration.",
            NeroliWarning,
            stacklevel=4,
        )


def write_table(path: Path | str, pictures: Pictures, columns: Columns | None = None) -> None:
    """Write a table of image files, with their labels and groups, that ``ImageTable`` reads.

    Args:
        path: the CSV or Parquet file; the image files are noted relative to its folder.
        pictures: image files.
        columns: their names.

    Raises:
        InvalidInput: if the path ends in something else, or the pictures are no image files.
        ArtefactError: if it cannot be written.
    """
    path, columns = Path(path), columns or Columns()
    if path.suffix.lower() not in TABLES:
        raise InvalidInput(f"A table is written to {', '.join(TABLES)} files, got {str(path)!r}.")
    paths = getattr(pictures.reader, "paths", None)
    if paths is None:
        raise InvalidInput(
            f"{pictures!r} are no files of their own, which a table could list: unpack them into a "
            "folder first, or split them in Python with neroli.data.splitting.split."
        )
    files = [paths[row] for row in pictures.rows]
    folder = path.parent.resolve()  # a relative path through a link would lead elsewhere
    content = {columns.path: [os.path.relpath(_resolved(file), folder) for file in files]}
    labels = pictures.labels or pictures.stated_labels
    if labels is not None:
        content[columns.label] = [str(label) for label in labels]
    if pictures.groups is not None:
        content[columns.group] = pictures.groups
    odd = next((name for name in content[columns.path] if not _is_text(name)), None)
    if odd is not None:
        raise InvalidInput(f"The file name {odd!r} is not UTF-8, which a table must be: rename it.")
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".parquet":
            pa.parquet.write_table(pa.table(content), temporary)
        else:
            options = pa.csv.WriteOptions(delimiter=_delimiter(path))
            pa.csv.write_csv(pa.table(content), temporary, options)


def _is_text(name: str) -> bool:
    return name == name.encode(errors="replace").decode()


def _resolved(file: Path) -> Path:
    """The file without links in its folders; itself may be one."""
    return file.parent.resolve() / file.name


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _read(path: Path) -> pa.Table:
    """The table, all of whose CSV columns are text: a group "007" is not the number 7."""
    try:
        if path.suffix.lower() == ".parquet":
            return pa.parquet.read_table(path)
        parse = pa.csv.ParseOptions(delimiter=_delimiter(path), newlines_in_values=True)
        with pa.csv.open_csv(path, parse_options=parse) as reader:
            columns = reader.schema.names
        as_text = pa.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()))
        return pa.csv.read_csv(path, parse_options=parse, convert_options=as_text)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise InvalidInput(f"Cannot read the table {str(path)!r}: {error}.") from None


def _texts(path: Path, table: pa.Table, column: str) -> list[str]:
    """A column as text, whole."""
    if table.column_names.count(column) > 1:
        raise InvalidInput(f"The table {str(path)!r} has several columns {column!r}: rename them.")
    if column not in table.column_names:
        raise InvalidInput(
            f"The table {str(path)!r} has no column {column!r}; it has "
            f"{', '.join(map(repr, table.column_names[:8]))}."
        )
    try:
        values: list[Any] = table[column].cast(pa.string()).to_pylist()
    except pa.ArrowException as error:
        raise InvalidInput(f"Column {column!r} of {str(path)!r} is not text: {error}.") from None
    for row, value in enumerate(values):
        if not value or "\0" in value:
            raise InvalidInput(
                f"Row {row + 1} of the table {str(path)!r} has no {column!r}: fill it in or leave "
                "the row out."
            )
    return values
