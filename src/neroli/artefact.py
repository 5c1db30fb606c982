"""Saved guards on disk: a manifest people can read, and tensors beside it; no pickle.

``manifest.json`` names the one ``state-*.safetensors`` file that belongs to it, by its hash, and is
replaced last: a save that dies half way leaves the guard that was there before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import pydantic
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from neroli import __version__
from neroli.agreement import LabelAgreement
from neroli.calibration import Calibration, Promise
from neroli.classifier import Classifier
from neroli.data.preprocessing import Preprocessing
from neroli.data.sources import Content
from neroli.detectors import Detector, create
from neroli.errors import ArtefactError
from neroli.execution import AS_IT_IS, Execution
from neroli.explain.reference import Reference
from neroli.files import atomic_path, digest, is_free, locked
from neroli.overlap import TrainingImages
from neroli.store import ActivationStore, Origin
from neroli.taps import Requirements

SCHEMA_VERSION = 3
_DETECTOR = "detector."
_REFERENCE = "reference."


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class DetectorPart(_Part):
    """Which detector, with which hyper-parameters."""

    name: str
    hyperparameters: dict[str, Any]

    @classmethod
    def of(cls, detector: Detector) -> Self:
        return cls(name=detector.name, hyperparameters=detector.hyperparameters())


class ClassifierPart(_Part):
    """Of which classifier: enough to refuse another one."""

    weights_hash: str
    head: str
    num_features: pydantic.PositiveInt
    num_classes: pydantic.PositiveInt
    class_names: list[str] | None
    preprocessing: Preprocessing | None
    input_shape: list[int] | None
    taps: list[str]
    prepool: str | None
    execution: Execution = AS_IT_IS

    @classmethod
    def of(cls, classifier: Classifier, requires: Requirements, execution: Execution) -> Self:
        return cls(
            weights_hash=classifier.weights_hash(),
            head=classifier.head_name,
            num_features=classifier.head.num_features,
            num_classes=classifier.head.num_classes,
            class_names=classifier.class_names,
            preprocessing=classifier.preprocessing,
            input_shape=None if classifier.input_shape is None else list(classifier.input_shape),
            taps=[str(tap) for tap in requires.taps],
            prepool=classifier.prepool_name if requires.prepool else None,
            execution=execution,
        )

    def around(self, model: nn.Module, folder: Path | str) -> Classifier:
        """The classifier of this model, if it is the one that the guard in the folder is of.

        It runs the network as it is, not yet as ``execution`` says.

        Raises:
            ArtefactError: if it is another one.
            InvalidInput, HeadNotFound: if it lacks the head or a tapped layer.
        """
        classifier = Classifier(
            model,
            self.head,
            prepool=self.prepool,
            preprocessing=self.preprocessing,
            class_names=self.class_names,
        )
        if self.input_shape is not None:
            classifier.input_shape = tuple(self.input_shape)
        if (weights_hash := classifier.weights_hash()) != self.weights_hash:
            raise ArtefactError(
                f"The guard {str(folder)!r} was fitted on a model with other weights (hash "
                f"{self.weights_hash[:12]}, this model's is {weights_hash[:12]}): load it with "
                "that model, or fit a new guard."
            )
        head = classifier.head
        if (head.num_features, head.num_classes) != (self.num_features, self.num_classes):
            raise ArtefactError(
                f"The guard {str(folder)!r} is of {self.num_features} features and "
                f"{self.num_classes} classes, this model's head has {head.num_features} and "
                f"{head.num_classes}."
            )
        return classifier


class TrainingPart(_Part):
    """What it was fitted on."""

    images: pydantic.NonNegativeInt
    unreadable: pydantic.NonNegativeInt
    groups: pydantic.NonNegativeInt | None
    accuracy: float | None
    doubt: str | None
    predicted: list[int] | None
    weights_hash: str
    content: Content

    @classmethod
    def of(
        cls,
        activations: ActivationStore,
        origin: Origin,
        agreement: LabelAgreement | None,
        groups: int | None,
    ) -> Self:
        """Of the training images' activations, and of how many groups they are."""
        return cls(
            images=len(activations),
            unreadable=len(activations.failures),
            groups=groups,
            accuracy=agreement.accuracy if agreement else None,
            doubt=str(agreement) if agreement and agreement.is_doubtful else None,
            predicted=list(agreement.predicted) if agreement else None,
            weights_hash=origin.weights_hash,
            content=origin.content,
        )


class CalibrationPart(_Part):
    """What it was calibrated on, and what its threshold promises."""

    images: pydantic.NonNegativeInt
    unreadable: pydantic.NonNegativeInt
    duplicates_dropped: int
    learned_from: int
    promise: Promise
    threshold: float
    class_thresholds: list[float] | None


class ModelSource(_Part):
    """Where the command line found the model; weights relative to the guard's folder."""

    model: str
    weights: str | None


class Manifest(_Part):
    """What ``manifest.json`` says."""

    format: Literal["neroli guard"] = "neroli guard"
    schema_version: int = SCHEMA_VERSION
    neroli_version: str = __version__
    created: str
    detector: DetectorPart
    classifier: ClassifierPart
    training: TrainingPart
    calibration: CalibrationPart | None
    model_source: ModelSource | None = None
    state_hash: str = ""

    @property
    def state_file(self) -> str:
        return f"state-{self.state_hash}.safetensors"


def write(folder: Path | str, manifest: Manifest, state: Mapping[str, Tensor]) -> None:
    """Save a manifest and its tensors, replacing a guard that is there.

    Raises:
        ArtefactError: if the folder cannot be written to, or holds something that is not a guard.
    """
    folder = free_folder(folder)
    content = save({name: tensor.contiguous() for name, tensor in state.items()})
    manifest = manifest.model_copy(update={"state_hash": digest(content).hex()})
    with locked(folder, "guard"):
        with atomic_path(folder / manifest.state_file) as path:
            path.write_bytes(content)
        with atomic_path(folder / "manifest.json") as path:
            path.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        for old in folder.glob("state-*.safetensors"):
            if old.name != manifest.state_file:
                old.unlink()


def free_folder(folder: Path | str) -> Path:
    """The folder, if a guard may be saved there: it is new, empty, or holds a guard.

    Raises:
        ArtefactError: if it is not.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ArtefactError(f"{str(folder)!r} is a file: choose another folder for the guard.")
    if not is_free(folder, "manifest.json", "neroli guard"):
        raise ArtefactError(
            f"{str(folder)!r} holds other files and no guard: choose an empty or new folder."
        )
    return folder


def read_manifest(folder: Path | str) -> Manifest:
    """The manifest of a saved guard.

    Raises:
        ArtefactError: if there is none, it is damaged, or of a newer schema.
    """
    path = Path(folder) / "manifest.json"
    try:
        text = path.read_text(encoding="utf-8")
        version = _Version.model_validate_json(text).schema_version
        if version > SCHEMA_VERSION:
            raise ArtefactError(
                f"The guard {str(folder)!r} has schema {version}, newer than the {SCHEMA_VERSION} "
                f"that neroli {__version__} reads: upgrade neroli."
            )
        if version < SCHEMA_VERSION:
            raise ArtefactError(
                f"The guard {str(folder)!r} has schema {version} of an earlier neroli, which "
                f"{__version__} no longer reads: fit it again."
            )
        return Manifest.model_validate_json(text)
    except (FileNotFoundError, NotADirectoryError):
        raise ArtefactError(f"There is no guard in {str(folder)!r} (no manifest.json).") from None
    except OSError as error:
        raise ArtefactError(f"Cannot read {str(path)!r}: {error.strerror}.") from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ArtefactError(
            f"{str(path)!r} is not a valid guard manifest ({where}: {first['msg']}): "
            "restore it or fit the guard again."
        ) from None
    except UnicodeDecodeError:
        raise ArtefactError(f"{str(path)!r} is not text: restore it or fit again.") from None


def read_state(folder: Path | str, manifest: Manifest) -> dict[str, Tensor]:
    """The tensors of a saved guard.

    Raises:
        ArtefactError: if they are missing or not those the manifest was saved with.
    """
    path = Path(folder) / manifest.state_file
    try:
        content = path.read_bytes()
        if digest(content).hex() != manifest.state_hash:
            raise ArtefactError(
                f"{str(path)!r} is damaged: its content is not what the manifest was saved with. "
                "Restore it or fit the guard again."
            )
        return load(content)
    except (OSError, SafetensorError) as error:
        raise ArtefactError(f"Cannot read the guard's tensors {str(path)!r}: {error}.") from None


def packed(
    detector: Detector,
    calibration: Calibration | None,
    training: TrainingImages,
    reference: Reference,
) -> dict[str, Tensor]:
    """The tensors of a guard, by name."""
    state = {f"{_DETECTOR}{name}": value for name, value in detector.state().items()}
    state |= {f"{_REFERENCE}{name}": value for name, value in reference.state.items()}
    state["training.digests"] = training.digests
    state["training.groups"] = training.groups
    if calibration is not None:
        state["calibration.scores"] = calibration.scores
        state["calibration.predictions"] = calibration.predictions
    return state


def unpacked(
    manifest: Manifest, state: Mapping[str, Tensor]
) -> tuple[Detector, Calibration | None, TrainingImages, Reference]:
    """The detector, the calibration, the known training images and what is usual of a saved guard.

    Raises:
        ArtefactError: if manifest and tensors do not fit together.
        InvalidInput: if the detector is unknown or its hyper-parameters are out of range.
    """
    detector = create(manifest.detector.name, **manifest.detector.hyperparameters)
    calibration = None
    try:
        detector.load_state(_of(_DETECTOR, state))
        reference = Reference(detector).load_state(_of(_REFERENCE, state))
        if manifest.calibration is not None:
            calibration = Calibration(
                state["calibration.scores"],
                state["calibration.predictions"],
                manifest.classifier.num_classes,
                manifest.calibration.promise,
            )
        known = TrainingImages(state["training.digests"], state["training.groups"])
        return detector, calibration, known, reference
    except (KeyError, RuntimeError, IndexError, ValueError) as error:
        raise ArtefactError(
            f"The guard's manifest does not fit its tensors ({error}): restore it or fit the guard "
            "again."
        ) from None


def examples_kept(state: Mapping[str, Tensor]) -> dict[str, int]:
    """How many training images a guard keeps to compare with, and how many thumbnails of these."""
    return {
        kind: len(state.get(f"{_REFERENCE}{name}", ()))
        for kind, name in (("images", "example_ids"), ("thumbnails", "thumbnails"))
    }


def _of(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


class _Version(pydantic.BaseModel):
    schema_version: int
