"""``neroli inspect``: what a saved guard is, without its model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neroli.cli.common import Json, emit, reported

if TYPE_CHECKING:
    from neroli.artefact import Manifest


def inspect(
    guard: Annotated[Path, typer.Argument(help="Folder of a saved guard.")], as_json: Json = False
) -> None:
    """Say what a saved guard is: detector, classifier, training, calibration and its promise."""
    with reported(as_json):
        from neroli.artefact import examples_kept, read_manifest, read_state

        manifest = read_manifest(guard)
        state = read_state(guard, manifest)  # damaged tensors are found here, not in production
        kept = examples_kept(state)
        emit(
            as_json,
            manifest.model_dump(mode="json") | {"examples": kept},
            lambda: _text(manifest, kept),
        )


def _text(manifest: Manifest, examples: dict[str, int]) -> str:
    from neroli.detectors.about import setting

    classifier, training, calibration = (
        manifest.classifier,
        manifest.training,
        manifest.calibration,
    )
    source = manifest.model_source
    settings = ", ".join(f"{k}={setting(v)}" for k, v in manifest.detector.hyperparameters.items())
    accuracy = "unknown" if training.accuracy is None else f"{training.accuracy:.2%}"
    names = classifier.class_names or [str(c) for c in range(classifier.num_classes)]
    lines = {
        "detector": f"{manifest.detector.name} ({settings or 'no hyper-parameters'})",
        "model": source.model if source else "given by the program",
        "weights": f"{source.weights or 'its own'}" if source else "given by the program",
        "weights hash": classifier.weights_hash[:12],
        "head": f"{classifier.head}, {classifier.num_features} features",
        "classes": f"{classifier.num_classes}: {', '.join(names[:12])}"
        + (", ..." if len(names) > 12 else ""),
        "preprocessing": str(classifier.preprocessing or "none: float tensors only"),
        "training": f"{training.images} images"
        + ("" if training.groups is None else f" of {training.groups} groups")
        + f", {training.unreadable} unreadable, "
        f"accuracy {accuracy}",
        "calibration": "none"
        if calibration is None
        else f"{calibration.images} images, {calibration.unreadable} unreadable, "
        f"{calibration.duplicates_dropped} dropped as copies or training images",
        "threshold": "none"
        if calibration is None
        else f"{calibration.threshold:.6g}: {calibration.promise}",
        "examples": f"{examples['thumbnails']} thumbnails of training images, which may be patient "
        "data"
        if examples["thumbnails"]
        else "no thumbnails of training images",
        "made": f"{manifest.created} by neroli {manifest.neroli_version}",
    }
    if training.doubt:
        lines["doubt"] = training.doubt
    if calibration is not None and calibration.class_thresholds is not None:
        each = zip(names, calibration.class_thresholds, strict=True)
        lines["by class"] = ", ".join(f"{name} {threshold:.6g}" for name, threshold in each)
    return "\n".join(f"{name:>14}  {text}" for name, text in lines.items())
