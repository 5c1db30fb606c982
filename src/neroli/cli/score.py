"""``neroli score``: verdicts of a saved guard on a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from neroli.cli.common import (
    EXIT_CODES,
    SOME_UNREADABLE,
    BatchSize,
    ChannelsLast,
    Compile,
    Device,
    Every,
    Json,
    PathColumn,
    Precision,
    columns_named,
    emit,
    execution_with,
    images_or_store,
    list_unreadable,
    reported,
)


def score(
    guard: Annotated[Path, typer.Argument(help="Folder of a saved guard.")],
    images: Annotated[
        Path,
        typer.Argument(
            help="Folder of images or DICOM files, table, tar, array file, video, single image, or "
            "an activation store of the same model."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Table to write: .parquet, .csv or .jsonl.")],
    model: Annotated[
        str | None, typer.Option(help="The model, if the guard does not say or it has moved.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="The model's weights, likewise.")] = None,
    path_column: PathColumn = None,
    every: Every = 1,
    batch_size: BatchSize = 64,
    device: Device = "cpu",
    precision: Precision = None,
    channels_last: ChannelsLast = None,
    compile: Compile = None,
    as_json: Json = False,
) -> None:
    """Score every image of a source: predicted class, score, p-value and verdict, a row each.

    Interrupted, the same command goes on where it stopped.
    """
    with reported(as_json):
        from neroli.artefact import read_manifest
        from neroli.files import text_digest
        from neroli.guard import Guard
        from neroli.models import load_saved_model, to
        from neroli.scores import ScoreTable
        from neroli.store import ActivationStore

        manifest = read_manifest(guard)
        columns = columns_named(path_column)
        source = images_or_store(images, columns, every)
        network = to(device, load_saved_model(manifest.model_source, guard, model, weights))
        execution = execution_with(manifest.classifier.execution, precision, channels_last, compile)
        loaded = Guard.load(guard, network, execution=execution)
        loaded.check_calibrated()
        known = source.key if isinstance(source, ActivationStore) else source.fingerprint
        key = text_digest([manifest.model_dump_json(), str(known), str(execution)])
        table = ScoreTable(out, key, manifest)
        try:
            for batch in loaded.stream(source, start=table.position, batch_size=batch_size):
                table.append(batch)
        finally:
            table.flush()
        summary = table.finish()
        assert loaded.held_out is not None
        facts: dict[str, Any] = {
            "scores": str(out),
            "images": summary.images,
            "flagged": summary.flagged,
            "promise": str(loaded.held_out.promise),
            "unreadable": [{"name": f.name, "reason": f.reason} for f in summary.failures],
        }
        list_unreadable(summary.failures)
        emit(as_json, facts, lambda: _text(facts))
        if summary.failures:
            raise typer.Exit(SOME_UNREADABLE)


score.__doc__ = f"{score.__doc__}\n    {EXIT_CODES}"


def _text(facts: dict[str, Any]) -> str:
    readable = facts["images"] - len(facts["unreadable"])
    share = facts["flagged"] / readable if readable else 0.0
    return (
        f"Wrote {facts['images']} rows to {facts['scores']}: {facts['flagged']} of {readable} "
        f"readable images flagged as out of distribution ({share:.1%}), "
        f"{len(facts['unreadable'])} unreadable.\n"
        f"The threshold promises {facts['promise']}."
    )
