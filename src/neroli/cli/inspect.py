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
        from neroli.artefact import read_manifest, read_state

        manifest = read_manifest(guard)
        read_state(guard, manifest)  # damaged tensors are found here rather than in production
        emit(as_json, manifest.model_dump(mode="json"), lambda: _text(manifest))


def _text(manifest: Manifest) -> str:
    classifier, training, calibration = (
        manifest.classifier,
        manifest.training,
        manifest.calibration,
    )
    settings = ", ".join(f"{k}={v}" for k, v in manifest.detector.hyperparameters.items())
    accuracy = "unknown" if training.accuracy is None else f"{training.accuracy:.2%}"
    names = classifier.class_names or []
    lines = {
        "detector": f"{manifest.detector.name} ({settings or 'no hyper-parameters'})",
        "model": manifest.model_source.model if manifest.model_source else "given by the program",
        "weights": f"hash {classifier.weights_hash[:12]}",
        "head": f"{classifier.head}, {classifier.num_features} features",
        "classes": f"{classifier.num_classes}: {', '.join(names[:12])}"
        + (", ..." if len(names) > 12 else ""),
        "preprocessing": str(classifier.preprocessing or "none: float tensors only"),
        "training": f"{training.images} images, {training.unreadable} unreadable, "
        f"accuracy {accuracy}",
        "calibration": "none"
        if calibration is None
        else f"{calibration.images} images, {calibration.unreadable} unreadable, "
        f"{calibration.duplicates_dropped} dropped as also in training",
        "threshold": "none"
        if calibration is None
        else f"{calibration.threshold:.6g}: {calibration.promise}",
        "saved": f"{manifest.created} by neroli {manifest.neroli_version}",
    }
    return "\n".join(f"{name:>14}  {text}" for name, text in lines.items())
