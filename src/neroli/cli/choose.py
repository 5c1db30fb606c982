"""``neroli choose``: which detector to take for a model, without OOD images."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from neroli.cli.common import (
    EXIT_CODES,
    SOME_UNREADABLE,
    BatchSize,
    ChannelsLast,
    ClassMap,
    Compile,
    Crop,
    Device,
    Every,
    GroupColumn,
    Head,
    Interpolation,
    Json,
    LabelColumn,
    LowAgreement,
    Model,
    PathColumn,
    PerChannel,
    Precision,
    Resize,
    StoreDtype,
    Training,
    Weights,
    emit,
    list_unreadable,
    reported,
)


def choose(
    model: Model,
    train: Training,
    calibration: Annotated[
        Path,
        typer.Option(
            help="Held-out images of the same kind, not used in training, with their classes: "
            "in subfolders or a table. Without classes the default stands."
        ),
    ],
    weights: Weights = None,
    head: Head = None,
    detectors: Annotated[
        str | None,
        typer.Option(
            help="Names with commas between; head: those of features and logits; all. [default: "
            "those of head that do not take minutes]"
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of what is drawn: classes, corruptions, training images.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Also write what was found to a .json or .md file.")
    ] = None,
    class_map: ClassMap = None,
    resize: Resize = None,
    crop: Crop = None,
    mean: PerChannel = None,
    std: PerChannel = None,
    interpolation: Interpolation = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    every: Every = 1,
    store: Annotated[
        Path | None,
        typer.Option(help="Folder to keep the activations in; `neroli fit --store` may go on."),
    ] = None,
    store_dtype: StoreDtype = None,
    allow_low_agreement: LowAgreement = False,
    batch_size: BatchSize = 64,
    device: Device = "cpu",
    precision: Precision = None,
    channels_last: ChannelsLast = None,
    compile: Compile = None,
    as_json: Json = False,
) -> None:
    """Rank detectors for a classifier and recommend one, without out-of-distribution images.

    Classes left out in turn and corrupted held-out images stand in for these.
    """
    given = locals()
    with reported(as_json, goes_on=store is not None), contextlib.ExitStack() as stack:
        from neroli.cli.choose_report import check_file, facts_of, text_of, write
        from neroli.cli.choose_run import ChooseRun
        from neroli.scale.job import InputOptions

        if out is not None:
            check_file(out)
        options = InputOptions(**{name: given[name] for name in InputOptions.model_fields})
        run = ChooseRun(options, detectors, seed=seed, batch_size=batch_size, device=device)
        choice = stack.enter_context(run.activations()).choose()
        list_unreadable(run.unreadable)
        if out is not None:
            write(out, choice)
        emit(as_json, facts_of(choice), lambda: text_of(choice))
        if run.unreadable:
            raise typer.Exit(SOME_UNREADABLE)


choose.__doc__ = f"{choose.__doc__}\n    {EXIT_CODES}"
