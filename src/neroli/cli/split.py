"""``neroli split``: training and calibration images that share no patient or procedure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from neroli.cli.common import (
    GroupColumn,
    Json,
    LabelColumn,
    PathColumn,
    columns_named,
    emit,
    reported,
)


def split(
    images: Annotated[Path, typer.Argument(help="Table or folder of image files.")],
    out: Annotated[Path, typer.Option(help="Folder for train.csv and calibration.csv.")],
    share: Annotated[float, typer.Option(help="Of the images, for calibration.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Another seed, another split.")] = 0,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    as_json: Json = False,
) -> None:
    """Split images into two tables for `neroli fit`: classes in equal shares, groups whole."""
    with reported(as_json):
        from neroli.data.dicom import DicomFiles, DicomFolder, by_file
        from neroli.data.opening import open_images
        from neroli.data.pictures import Pictures
        from neroli.data.splitting import split as split_pictures
        from neroli.data.tables import write_table
        from neroli.errors import InvalidInput

        columns = columns_named(path_column, label_column, group_column)
        source = open_images(images, columns=columns)
        if not isinstance(source, Pictures):
            raise InvalidInput(f"{str(images)!r} is no table or folder of image files.")
        if isinstance(source, DicomFolder | DicomFiles):
            source = by_file(source)
        training, calibration = split_pictures(source, share, seed)
        facts: dict[str, Any] = {}
        for side, pictures in (("train", training), ("calibration", calibration)):
            path = out / f"{side}.csv"
            write_table(path, pictures, columns)
            groups = None if pictures.groups is None else len(set(pictures.groups))
            facts[side] = {"table": str(path), "images": len(pictures), "groups": groups}
        emit(as_json, facts, lambda: _text(facts))


def _text(facts: dict[str, Any]) -> str:
    return "\n".join(
        f"Wrote {side['images']} images"
        + ("" if side["groups"] is None else f" of {side['groups']} groups")
        + f" to {side['table']}."
        for side in facts.values()
    )
