"""``neroli train``: fine-tune a classifier on folders of images, for those who have none yet."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neroli.cli.common import (
    EXIT_CODES,
    SOME_UNREADABLE,
    Device,
    GroupColumn,
    Json,
    LabelColumn,
    PathColumn,
    columns_named,
    emit,
    list_unreadable,
    numbers,
    pixels,
    reported,
)

if TYPE_CHECKING:
    from neroli.data.pictures import Pictures
    from neroli.data.tables import Columns


def train(
    arch: Annotated[str, typer.Option(help="timm:NAME, torchvision:NAME or package.module:make.")],
    data: Annotated[
        Path, typer.Option(help="Labelled images: a folder with one subfolder a class, a table...")
    ],
    out: Annotated[Path, typer.Option(help="Weights file to write: .safetensors.")],
    validation: Annotated[
        Path | None, typer.Option(help="Other labelled images; held out of --data if left out.")
    ] = None,
    share: Annotated[
        float, typer.Option(help="Of --data, held out for validation; groups stay whole.")
    ] = 0.2,
    weights: Annotated[
        Path | None, typer.Option(help="To begin with, also of other classes; a local file.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 100,
    validate_every: Annotated[
        int, typer.Option(help="Epochs from one validation to the next.")
    ] = 5,
    batch_size: Annotated[int, typer.Option(help="Images a training step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 1e-4,
    size: Annotated[str, typer.Option(help="Pixels to resize to: 224 or HEIGHTxWIDTH.")] = "224",
    mean: Annotated[
        str | None, typer.Option(help="Per channel, of values in 0..1. [default: ImageNet's]")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    augment: Annotated[
        bool, typer.Option("--augment/--no-augment", help="Change training images at random.")
    ] = True,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    seed: Annotated[int, typer.Option(help="Another seed, another split and training.")] = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Fine-tune a classifier with cross-entropy and keep the weights that validate best.

    The defaults are NERO's protocol. Interrupted, the same command goes on where it stopped.
    """
    with reported(as_json):
        from neroli.data.splitting import split
        from neroli.training import train as train_network
        from neroli.training.recipe import Recipe

        settings: dict[str, Any] = {} if augment else dict.fromkeys(_AUGMENTATIONS, 0.0)
        for name, text in (("mean", mean), ("std", std)):
            if text is not None:
                settings[name] = numbers(f"--{name}", text)
        recipe = Recipe(
            epochs=epochs,
            validate_every=validate_every,
            batch_size=batch_size,
            learning_rate=learning_rate,
            size=pixels("--size", size),
            seed=seed,
            **settings,
        )
        columns = columns_named(path_column, label_column, group_column)
        training, classes = _labelled(data, columns)
        if validation is None:
            training, held_out = split(training, share, seed)
        else:
            held_out, _ = _labelled(validation, columns, classes)
        trained = train_network(
            arch,
            training,
            held_out,
            out,
            recipe,
            class_names=classes,
            weights=weights,
            device=device,
            say=lambda sentence: print(f"neroli: {sentence}", file=sys.stderr),
        )
        tables = _tables(out, classes, training, held_out) if validation is None else None
        facts: dict[str, Any] = {
            "weights": str(out),
            "arch": arch,
            "classes": trained.class_names,
            "preprocessing": str(trained.preprocessing),
            "training_images": len(training),
            "validation_images": trained.validation_images,
            "validation_accuracy": trained.validation_accuracy,
            "epoch": trained.epoch,
            "epochs": len(trained.history),
            "tables": tables,
            "unreadable": trained.unreadable,
        }
        list_unreadable(trained.failures)
        emit(as_json, facts, lambda: _text(facts))
        if trained.unreadable:
            raise typer.Exit(SOME_UNREADABLE)


train.__doc__ = f"{train.__doc__}\n    {EXIT_CODES}"

_AUGMENTATIONS = ("flip", "jitter", "invert", "equalise")


def _labelled(
    path: Path, columns: Columns, classes: list[str] | None = None
) -> tuple[Pictures, list[str]]:
    """Pictures with class indices, and the names of the classes: those given, or in sorted order.

    Raises:
        LabelsRequired: if they have no labels.
        InvalidInput: if they are no single images, such as a video, or one has no label.
        NotEnoughImages: if a class has none.
    """
    from neroli.data.opening import open_images
    from neroli.data.pictures import Pictures
    from neroli.errors import InvalidInput, LabelsRequired

    source = open_images(path, columns=columns)
    if not isinstance(source, Pictures):
        raise InvalidInput(f"{str(path)!r} has no labels, being a video: give a folder or table.")
    if source.labels is not None:  # of an array file, class indices already
        return source, classes or [str(index) for index in range(max(source.labels) + 1)]
    if source.stated_labels is None:
        raise LabelsRequired(
            f"The images in {str(path)!r} have no labels: put them into one subfolder a class, or "
            "give a table with a label column."
        )
    classes = classes or [name for name in source.label_names() if name]
    return source.labelled({name: index for index, name in enumerate(classes)}), classes


def _tables(
    out: Path, classes: list[str], training: Pictures, held_out: Pictures
) -> dict[str, str] | None:
    """Tables of the two sides beside the weights, for ``neroli fit``; None if they are no files."""
    from neroli.data.folders import FileReader, ImageFiles
    from neroli.data.tables import write_table
    from neroli.errors import InvalidInput, NeroliWarning

    tables = {}
    for side, pictures in (("training", training), ("validation", held_out)):
        if not isinstance(pictures.reader, FileReader):
            return None
        files = [pictures.reader.paths[row] for row in pictures.rows]
        labels = [classes[label] for label in pictures.labels or ()]
        tables[side] = str(out.with_name(f"{out.stem}-{side}.csv"))
        try:
            write_table(tables[side], ImageFiles(files, labels, groups=pictures.groups))
        except InvalidInput as error:  # the weights are there, and worth more
            message = f"No tables of the images trained on and held out are written: {error}"
            warnings.warn(message, NeroliWarning, stacklevel=2)
            return None
    return tables


def _text(facts: dict[str, Any]) -> str:
    tables = facts["tables"]
    training = tables["training"] if tables else "TRAINING_IMAGES"
    held_out = tables["validation"] if tables else "IMAGES_NOT_TRAINED_ON"
    return (
        f"Saved the weights of epoch {facts['epoch']} of {facts['epochs']} in {facts['weights']}: "
        f"validation accuracy {facts['validation_accuracy']:.2%} on {facts['validation_images']} "
        f"images, trained on {facts['training_images']} of {len(facts['classes'])} classes; "
        f"{facts['unreadable']} unreadable.\n"
        f"Next: neroli fit --model {facts['arch']} --weights {facts['weights']} "
        f"--train {training} --calibration {held_out} --out guard"
    )
