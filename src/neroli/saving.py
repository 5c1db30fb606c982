"""Guards on disk: what is saved of one, and one made again of it."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from torch import nn

from neroli import artefact
from neroli.artefact import ClassifierPart, DetectorPart, Manifest
from neroli.detectors import is_registered
from neroli.errors import InvalidInput, NeroliWarning, NotFitted
from neroli.execution import Execution

if TYPE_CHECKING:
    from neroli.guard import Guard

GuardT = TypeVar("GuardT", bound="Guard")


def save(guard: Guard, folder: Path | str) -> None:
    """See ``Guard.save``."""
    if not is_registered(guard.detector):
        raise InvalidInput(
            f"{type(guard.detector).__name__} is not registered, or a member of it is not, so a "
            "saved guard could not be loaded: decorate the class with neroli.detectors.register."
        )
    manifest = manifest_of(guard)
    assert guard.reference is not None, "the manifest says if it is not fitted"
    parts = (guard.detector, guard.calibration, guard.known, guard.reference)
    artefact.write(folder, manifest, artefact.packed(*parts))


def manifest_of(guard: Guard) -> Manifest:
    """See ``Guard.manifest``."""
    if guard.training is None:
        raise NotFitted("The guard is not fitted: there is nothing to save yet.")
    guard.check_weights(guard.training)
    return Manifest(
        created=guard.made,
        detector=DetectorPart.of(guard.detector),
        classifier=ClassifierPart.of(guard.classifier, guard.detector.requires, guard.execution),
        training=guard.training,
        calibration=guard.held_out,
        model_source=guard.model_source,
    )


def now() -> str:
    """The time in ISO 8601, to the second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def load(
    kind: type[GuardT], folder: Path | str, model: nn.Module, execution: Execution | None = None
) -> GuardT:
    """See ``Guard.load``."""
    manifest = artefact.read_manifest(folder)
    classifier = manifest.classifier.around(model, folder)
    detector, calibration, known, reference = artefact.unpacked(
        manifest, artefact.read_state(folder, manifest)
    )
    classifier.check_requirements(detector.requires)
    fitted = manifest.classifier.execution
    classifier.execution = fitted if execution is None else execution
    if change := classifier.execution.change_from(fitted):
        warnings.warn(change, NeroliWarning, stacklevel=3)
    guard = kind(classifier, detector)
    guard.execution = fitted
    guard.calibration, guard.held_out = calibration, manifest.calibration
    guard.training, guard.known, guard.reference = manifest.training, known, reference
    guard.model_source, guard.made = manifest.model_source, manifest.created
    return guard
