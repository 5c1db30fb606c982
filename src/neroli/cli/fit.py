"""``neroli fit``: fit and calibrate a guard."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from neroli.cli.common import (
    EXIT_CODES,
    SOME_UNREADABLE,
    BatchSize,
    ClassMap,
    Crop,
    Device,
    Engine,
    Every,
    GroupColumn,
    Interpolation,
    Json,
    LabelColumn,
    PathColumn,
    PerChannel,
    Resize,
    columns_named,
    emit,
    list_unreadable,
    preprocessing_with,
    reported,
)
from neroli.cli.engines import (
    ActorCpus,
    ActorGpus,
    Actors,
    Address,
    BlockSize,
    StallAfter,
    own_device,
    ray_cluster,
)


def fit(
    model: Annotated[
        str,
        typer.Option(
            help="timm:NAME, torchvision:NAME, hf:FOLDER, export:FILE or package.module:factory."
        ),
    ],
    train: Annotated[
        Path,
        typer.Option(help="Training images: a folder with one subfolder a class, a table, a tar."),
    ],
    calibration: Annotated[
        Path,
        typer.Option(help="Held-out images of the same kind, not used in training; no labels."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to save the guard in.")],
    weights: Annotated[
        Path | None, typer.Option(help="The model's weights: .safetensors, .pt or .pth.")
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="Path of the last linear layer; found when left out.")
    ] = None,
    detector: Annotated[
        str, typer.Option(help="By name, as `neroli detectors` lists them.")
    ] = "nero",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="A hyper-parameter, NAME=VALUE; may be repeated."),
    ] = None,
    false_alarm_rate: Annotated[
        float, typer.Option(help="Share of in-distribution images that may be flagged.")
    ] = 0.05,
    guarantee: Annotated[
        str, typer.Option(help="'confidence' holds for this calibration set, 'average' on average.")
    ] = "confidence",
    confidence: Annotated[float, typer.Option(help="How sure 'confidence' is.")] = 0.9,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="A threshold for every class with enough images.")
    ] = False,
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
        Path | None, typer.Option(help="Folder to keep the activations in, for other detectors.")
    ] = None,
    keep_examples: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Keep thumbnails of N training images in the guard, for `neroli explain` to show "
            "the nearest; thumbnails of patients' images are patient data.",
        ),
    ] = 0,
    allow_low_agreement: Annotated[
        bool,
        typer.Option(
            "--allow-low-agreement", help="Go on though predictions hardly agree with the folders."
        ),
    ] = False,
    batch_size: BatchSize = 64,
    device: Device = "cpu",
    engine: Engine = "local",
    address: Address = None,
    actors: Actors = None,
    actor_cpus: ActorCpus = None,
    actor_gpus: ActorGpus = None,
    block_size: BlockSize = None,
    stall_after: StallAfter = None,
    as_json: Json = False,
) -> None:
    """Fit a detector on a classifier's training images and calibrate its threshold.

    Interrupted, the same command goes on where it stopped.
    """
    with reported(as_json), contextlib.ExitStack() as stack:
        from neroli.artefact import free_folder
        from neroli.calibration import Promise
        from neroli.data.opening import open_images
        from neroli.data.pictures import Pictures
        from neroli.detectors import create
        from neroli.errors import ClassMapError, NeroliWarning
        from neroli.extraction import with_classes
        from neroli.guard import Guard
        from neroli.models import load_classifier, model_source

        promise = Promise(false_alarm_rate, guarantee, confidence, per_class)  # type: ignore[arg-type]
        out = out.resolve()
        replaces = (free_folder(out) / "manifest.json").exists()
        cluster = ray_cluster(
            engine,
            device,
            address=address,
            actors=actors,
            actor_cpus=actor_cpus,
            actor_gpus=actor_gpus,
            block_size=block_size,
            stall_after=stall_after,
        )
        if cluster is not None:
            from neroli.scale.ray_engine import RayExtractor
        columns = columns_named(path_column, label_column, group_column)
        training, held_out = (
            open_images(path, columns=columns, every=every) for path in (train, calibration)
        )
        if held_out.size is not None:
            promise.rank(held_out.size)  # too few images are better said before the work
        classifier = load_classifier(model, weights, head=head, device=own_device(cluster, device))
        chosen = create(detector, **_settings(detector, setting or ()))  # the model may register it
        classifier.preprocessing = preprocessing_with(
            classifier.preprocessing, resize, crop, mean, std, interpolation
        )
        match, opened = None, training
        if isinstance(training, Pictures):
            training, match = with_classes(classifier, training, class_map)
        if classifier.class_names is None and match is not None:
            classifier.class_names = match.names(classifier.head.num_classes)
        guard = Guard(classifier, chosen)
        guard.model_source = model_source(model, weights, out)
        kept = store or out.with_name(f"{out.name}.partial")
        if cluster is not None:
            stack.enter_context(cluster)
            extract = RayExtractor(
                classifier, cluster, model, weights, device, columns, batch_size
            ).extract
            extract(train, opened, training, kept / "training", chosen.requires_to_fit)
        with warnings.catch_warnings():
            # what the guard itself says of the images is said below, once
            warnings.filterwarnings("ignore", category=NeroliWarning, module=re.escape(__name__))
            guard.fit(
                training,
                store=kept / "training",
                batch_size=batch_size,
                keep_examples=keep_examples,
            )
        agreement = guard.agreement
        if agreement is not None and agreement.is_wrong and not allow_low_agreement:
            rule = f" Labels were matched to classes {match.rule}:" if match else " So"
            raise ClassMapError(
                f"{agreement}{rule} say which is which with --class-map, or go on with "
                f"--allow-low-agreement. The activations are kept in {str(kept)!r}."
            )
        if agreement is not None and agreement.is_doubtful:
            print(f"neroli: warning: {agreement}", file=sys.stderr)
        if cluster is not None:
            images = guard.held_out_source(held_out)
            extract(calibration, held_out, images, kept / "calibration", chosen.requires)
        guard.calibrate(
            held_out,
            false_alarm_rate,
            guarantee=guarantee,  # type: ignore[arg-type]  # Promise has checked it
            confidence=confidence,
            per_class=per_class,
            store=kept / "calibration",
            batch_size=batch_size,
        )
        guard.save(out)
        if store is None:
            for part in ("training", "calibration"):
                shutil.rmtree(kept / part, ignore_errors=True)
            with contextlib.suppress(OSError):  # something of the user's is in it
                kept.rmdir()
        assert guard.training is not None and guard.held_out is not None
        assert guard.calibration is not None
        facts: dict[str, Any] = {
            "guard": str(out),
            "replaced": replaces,
            "detector": chosen.name,
            "hyperparameters": chosen.hyperparameters(),
            "head": classifier.head_name,
            "preprocessing": str(classifier.preprocessing),
            "classes": match.classes if match else None,
            "classes_matched": match.rule if match else None,
            "labelled": agreement is not None,
            "training_images": guard.training.images,
            "groups": guard.training.groups,
            "training_accuracy": guard.training.accuracy,
            "doubt": guard.training.doubt,
            "calibration_images": guard.held_out.images,
            "duplicates_dropped": guard.held_out.duplicates_dropped,
            "threshold": guard.calibration.threshold,
            "class_thresholds": guard.held_out.class_thresholds,
            "promise": str(guard.held_out.promise),
            "unreadable": [{"name": f.name, "reason": f.reason} for f in guard.unreadable],
        }
        list_unreadable(guard.unreadable)
        emit(as_json, facts, lambda: _text(facts))
        if guard.unreadable:
            raise typer.Exit(SOME_UNREADABLE)


fit.__doc__ = f"{fit.__doc__}\n    {EXIT_CODES}"


def _settings(detector: str, given: Sequence[str]) -> dict[str, Any]:
    """Hyper-parameters of a detector from ``NAME=VALUE``, values as JSON or as plain words."""
    from neroli.detectors import create
    from neroli.errors import InvalidInput

    defaults = create(detector).hyperparameters()
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidInput(f"--set takes NAME=VALUE, got {text!r}.")
        if name in found:
            raise InvalidInput(f"--set gives {name} twice: leave one of them out.")
        found[name] = _value(value, defaults.get(name))
    return found


def _value(text: str, default: Any) -> Any:
    import json

    if isinstance(default, str) and not text.startswith('"'):
        return text
    if isinstance(default, tuple | list) and not text.startswith("["):
        return [part.strip() for part in text.split(",")]
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except (ValueError, RecursionError):
        return None if text.lower() == "none" else text


def _text(facts: dict[str, Any]) -> str:
    groups = "" if facts["groups"] is None else f" of {facts['groups']} groups"
    matched = "labelled with class indices" if facts["labelled"] else "without labels"
    if facts["classes"] is not None:
        matched = f"{len(facts['classes'])} labels matched to classes {facts['classes_matched']}"
    accuracy = ""
    if facts["training_accuracy"] is not None:
        accuracy = (
            f"Training accuracy {facts['training_accuracy']:.2%}: compare it with what you know of "
            "the model; much lower means a wrong class order or preprocessing "
            f"({facts['preprocessing']}).\n"
        )
    return (
        f"{'Replaced' if facts['replaced'] else 'Saved'} the guard in {facts['guard']}: "
        f"{facts['detector']} on {facts['training_images']} training images{groups}, {matched}.\n"
        f"{accuracy}"
        f"Calibrated on {facts['calibration_images']} images "
        f"({facts['duplicates_dropped']} dropped as copies or training images): "
        f"{facts['promise']}; threshold {facts['threshold']:.6g}."
    )
