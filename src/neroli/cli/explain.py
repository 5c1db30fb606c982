"""``neroli explain``: a page that shows why images were flagged, or were not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neroli.cli.common import (
    EXIT_CODES,
    SOME_UNREADABLE,
    BatchSize,
    Device,
    Every,
    Json,
    PathColumn,
    columns_named,
    emit,
    list_unreadable,
    reported,
)

if TYPE_CHECKING:
    from neroli.data.sources import ImageSource
    from neroli.data.tables import Columns
    from neroli.explain.explanation import Explanation


def explain(
    guard: Annotated[Path, typer.Argument(help="Folder of a saved guard.")],
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files, folders of images or DICOM files, tables, tars, array files, videos."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Page to write: .html; it may show patient data.")],
    figure_dir: Annotated[
        Path | None, typer.Option(help="Folder for a PNG figure of every image too.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Of more images than this, explain the most unusual.")
    ] = 50,
    top: Annotated[int, typer.Option(min=1, help="Neurons to name of each image.")] = 10,
    model: Annotated[
        str | None, typer.Option(help="The model, if the guard does not say or it has moved.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="The model's weights, likewise.")] = None,
    path_column: PathColumn = None,
    every: Every = 1,
    batch_size: BatchSize = 64,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Explain the verdicts on images: neurons, heat maps and examples, in one HTML page.

    All images are scored first; those that are then explained are kept in memory until done.
    """
    with reported(as_json):
        from neroli.artefact import read_manifest
        from neroli.explain.choice import Choice
        from neroli.explain.page import checked_path
        from neroli.explain.report import write_report
        from neroli.guard import Guard
        from neroli.models import load_saved_model, to

        checked_path(out)  # before the work
        if figure_dir is not None:
            _check_figure_folder(figure_dir)
        manifest = read_manifest(guard)
        sources = _opened(images, columns_named(path_column), every)
        network = to(device, load_saved_model(manifest.model_source, guard, model, weights))
        loaded = Guard.load(guard, network)
        loaded.check_calibrated()
        choice = Choice(loaded, sources, limit, batch_size)
        list_unreadable(choice.failures)
        records: list[dict[str, Any]] = []

        def told() -> Iterator[Explanation]:
            for number, explanation in enumerate(choice.explanations(top=top), 1):
                records.append(explanation.to_dict())
                if figure_dir is not None:
                    _save_figure(explanation, figure_dir / f"{number:04d}.png")
                yield explanation

        with nullcontext() if figure_dir is None else _figures_in(figure_dir):
            write_report(out, told(), manifest, failures=choice.failures, left_out=choice.left_out)
        assert loaded.held_out is not None
        facts: dict[str, Any] = {
            "report": str(out),
            "figures": None if figure_dir is None else str(figure_dir),
            "explained": len(records),
            "flagged": sum(record["is_ood"] for record in records),
            "left_out": choice.left_out,
            "promise": str(loaded.held_out.promise),
            "unreadable": [{"name": f.name, "reason": f.reason} for f in choice.failures],
            "explanations": records,
        }
        emit(as_json, facts, lambda: _text(facts))
        if choice.failures:
            raise typer.Exit(SOME_UNREADABLE)


explain.__doc__ = f"{explain.__doc__}\n    {EXIT_CODES}"


def _opened(paths: list[Path], columns: Columns, every: int) -> list[ImageSource]:
    """Sources of all images, in order; files named one after another are one, for whole batches."""
    from neroli.data.folders import ImageFiles
    from neroli.data.images import EXTENSIONS
    from neroli.data.opening import open_images

    sources: list[ImageSource] = []
    for are_files, run in groupby(
        paths, lambda path: path.suffix.lower() in EXTENSIONS and path.is_file()
    ):
        part = list(run)
        if are_files:
            sources.append(ImageFiles(part, names=_names(part)))
        else:
            sources += [open_images(path, columns=columns, every=every) for path in part]
    return sources


def _names(paths: list[Path]) -> list[str]:
    """What files are called: their names, or all their paths if names occur twice."""
    short = [path.name for path in paths]
    return short if len(set(short)) == len(short) else list(map(str, paths))


def _check_figure_folder(folder: Path) -> None:
    from neroli.errors import ArtefactError
    from neroli.files import is_free

    if not is_free(folder, "", "\0"):
        raise ArtefactError(
            f"{str(folder)!r} holds other files, which figures might replace: choose an empty or "
            "new folder for --figure-dir."
        )


@contextmanager
def _figures_in(folder: Path) -> Iterator[None]:
    """The folder for this run's figures alone: those of an earlier one go."""
    from neroli.files import locked

    with locked(folder, "figures"):
        for old in folder.glob("[0-9][0-9][0-9][0-9]*.png"):
            old.unlink()
        yield


def _save_figure(explanation: Explanation, path: Path) -> None:
    from neroli.files import atomic_path

    with atomic_path(path) as temporary:
        explanation.figure().savefig(temporary)


def _text(facts: dict[str, Any]) -> str:
    explained, left_out = facts["explained"], facts["left_out"]
    lines = [
        f"Wrote {facts['report']}: {explained} image{'s' * (explained != 1)} explained, "
        f"{facts['flagged']} of them flagged as out of distribution, "
        f"{len(facts['unreadable'])} unreadable."
    ]
    if facts["figures"]:
        lines.append(f"Figures are in {facts['figures']}, numbered as in the page.")
    if left_out:
        lines.append(
            f"These are the most unusual; {left_out} others are left out: --limit "
            f"{explained + left_out} explains all."
        )
    if explained <= 3:
        lines += [f"{record['name']}: {record['summary']}" for record in facts["explanations"]]
    lines.append(f"The threshold promises {facts['promise']}.")
    return "\n".join(_printable(line) for line in lines)


def _printable(line: str) -> str:
    from neroli.explain.facts import plain

    return plain(line)
