"""Guard: classifier, detector and threshold together, the thing users deploy."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn

from neroli import saving
from neroli.activations import Activations
from neroli.agreement import LabelAgreement, label_agreement
from neroli.artefact import CalibrationPart, Manifest, ModelSource, TrainingPart
from neroli.calibration import Calibration, Guarantee, Promise
from neroli.classifier import Classifier
from neroli.data.opening import as_source, without_labels
from neroli.data.sources import IMAGE_BATCH, Failure, ImageSource
from neroli.detectors import DEFAULT, Detector, create
from neroli.errors import InvalidInput, NeroliWarning, NotCalibrated, NotFitted
from neroli.execution import Execution
from neroli.explain.reference import Reference
from neroli.extraction import activations_of, labelled_source
from neroli.fitting import Learner, fit, learns_held_out
from neroli.held_out import HeldOut
from neroli.overlap import TrainingImages, unchecked
from neroli.store import ActivationStore
from neroli.store_precision import StoreDtype
from neroli.streaming import verdicts_on_images, verdicts_on_store
from neroli.verdicts import GuardedBatch, Verdicts

if TYPE_CHECKING:
    from neroli.explain.explanation import Explanation


class Guard:
    """Says of every image whether it lies outside what the classifier was trained on.

    Args:
        classifier: the trained classifier.
        detector: how scores are computed; fitted by ``fit``. None takes the default, an ensemble
            that needs neither labels nor OOD data (docs/default.md).
    """

    def __init__(self, classifier: Classifier, detector: Detector | None = None) -> None:
        if not isinstance(classifier, Classifier):
            raise InvalidInput(
                f"A guard needs a Classifier, got a {type(classifier).__name__}: "
                "Guard(Classifier(model))."
            )
        if detector is None:
            detector = create(DEFAULT)
        if not isinstance(detector, Detector):
            raise InvalidInput(f"A guard needs a detector object such as NERO(), got {detector!r}.")
        self.classifier = classifier
        self.detector = copy.copy(detector)  # which others may fit elsewhere
        self.execution = classifier.execution
        """How the network was run in ``fit``."""
        self.calibration: Calibration | None = None
        self.model_source: ModelSource | None = None
        self.training: TrainingPart | None = None
        self.made = ""
        """When it was last fitted or calibrated, in ISO 8601."""
        self.held_out: CalibrationPart | None = None
        self.reference: Reference | None = None
        """What is usual, learned by ``fit``, that explanations compare with."""
        self.agreement: LabelAgreement | None = None
        """How well predictions and labels of the training images agree; not saved."""
        self._unreadable: dict[str, list[Failure]] = {}
        self.known = TrainingImages()
        """Hashes by which training images are known again among calibration images."""

    @property
    def unreadable(self) -> list[Failure]:
        """The images that ``fit`` and ``calibrate`` could not read; not saved."""
        return [failure for failures in self._unreadable.values() for failure in failures]

    def __repr__(self) -> str:
        threshold = (
            "" if self.calibration is None else f", threshold {self.calibration.threshold:.4g}"
        )
        fitted = (
            "not fitted" if self.training is None else f"{self.training.images} training images"
        )
        return f"Guard({self.detector!r}: {fitted}{threshold})"

    def fit(
        self,
        training: Any,
        *,
        store: Path | str | None = None,
        store_dtype: StoreDtype | None = None,
        batch_size: int = IMAGE_BATCH,
        keep_examples: int = 0,
        progress: bool | None = None,
    ) -> Self:
        """Fit the detector on the classifier's training images; any calibration is dropped.

        Args:
            training: ID training images: a folder with one subfolder a class, a table with labels,
                a loader of ``(x, y)``, an ActivationStore of this classifier, or anything else
                ``neroli.data.opening.as_source`` takes.
            store: folder to keep the activations in, so that an interrupted run goes on; without it
                they live in a temporary folder.
            store_dtype: "float16" halves the space that they take; None keeps them as computed.
            batch_size: images at a time; a loader keeps its own.
            keep_examples: of how many training images explanations may show a thumbnail, and find
                the nearest; none by default, since they may be patient data. A store has no
                pictures to show.
            progress: show a progress bar; None does so on a terminal.

        Raises:
            LabelsRequired, NotEnoughImages, InvalidInput: as ``neroli.fit``.
            HeadNotFound, ClassMapError: if the model or the labels cannot be made sense of.
        """
        if not isinstance(keep_examples, int) or keep_examples < 0:
            raise InvalidInput(f"keep_examples must be 0 or a number, got {keep_examples!r}.")
        if not isinstance(training, ActivationStore):
            training = labelled_source(self.classifier, training, batch_size)
        self.classifier.check_requirements(self.detector.requires)  # before the work
        with activations_of(
            self.classifier,
            training,
            store,
            batch_size=batch_size,
            requires=self.detector.requires_to_fit,
            dtype=store_dtype,
            progress=progress,
        ) as activations:
            reference = Reference(self.detector, examples=keep_examples)
            learners: list[Learner] = [self.detector, reference]
            fit(learners, activations, self.classifier.head)
            origin = activations.origin
            assert origin is not None  # extracted by this classifier, or checked to be
            agreement = label_agreement(activations, self.classifier.class_names)
            self.agreement = agreement
            groups = activations.groups()
            self.known = TrainingImages.of(activations.digests(), groups)
            self.training = TrainingPart.of(
                activations, origin, agreement, None if groups is None else len(self.known.groups)
            )
            self._unreadable = {"training": activations.failures}
        if keep_examples and not isinstance(training, ActivationStore):
            reference.add_thumbnails(training, self.classifier)
        self.reference = reference
        self.execution = self.classifier.execution
        self.calibration = self.held_out = None
        self.made = saving.now()
        if self.training.doubt:
            self._warn(self.training.doubt)
        self._warn_of_unreadable("training")
        return self

    def calibrate(
        self,
        held_out: Any,
        false_alarm_rate: float = 0.05,
        *,
        guarantee: Guarantee = "confidence",
        confidence: float = 0.9,
        per_class: bool = False,
        store: Path | str | None = None,
        store_dtype: StoreDtype | None = None,
        batch_size: int = IMAGE_BATCH,
        progress: bool | None = None,
    ) -> Self:
        """Set the threshold from held-out ID images the classifier was not trained on.

        Images found in the training set (by content), and further copies of one image, are dropped
        and counted. No group (patient, procedure) may be in both.

        Args:
            held_out: as ``training`` of ``fit``; labels are not needed.
            false_alarm_rate: share of ID images that may be flagged, in 0..1.
            guarantee: see ``neroli.calibration``.
            confidence: probability of a "confidence" guarantee.
            per_class: a threshold for every predicted class with enough images; the others share
                one, with a warning.
            store, store_dtype, batch_size, progress: as in ``fit``.

        Raises:
            NotFitted: before ``fit``.
            NotEnoughImages: if there are too few images for the promise.
            CalibrationOverlap: if more than 1 % of the images are training images, or any group of
                theirs is in training too.
        """
        promise = Promise(false_alarm_rate, guarantee, confidence, per_class)
        if self.training is None:
            raise NotFitted("Fit the guard on training images before calibrating it.")
        self.check_weights(self.training)
        head = self.classifier.head
        learns, _ = learns_held_out(self.detector, head)
        if not isinstance(held_out, ActivationStore):
            held_out = self.held_out_source(held_out, batch_size)
        with activations_of(
            self.classifier,
            held_out,
            store,
            batch_size=batch_size,
            requires=self.detector.requires,
            dtype=store_dtype,
            progress=progress,
        ) as activations:
            rows = HeldOut.of(activations, self.known, promise, learns)
            if learns:
                self.calibration = self.held_out = None  # of the detector as it was before
                rows.teach(self.detector, head)
            scores, predictions = rows.scored(self.detector)
            grouped = activations.groups() is not None
            unreadable = activations.failures
            content = activations.origin.content if activations.origin else "tensor"
        self.calibration = Calibration(scores, predictions, head.num_classes, promise)
        self.held_out = CalibrationPart(
            images=len(scores),
            unreadable=len(unreadable),
            duplicates_dropped=rows.dropped,
            learned_from=rows.learned_from,
            promise=promise,
            threshold=self.calibration.threshold,
            class_thresholds=self.calibration.thresholds.tolist() if per_class else None,
        )
        self.made = saving.now()
        self._unreadable["calibration"] = unreadable
        self._warn_of_unreadable("calibration")
        training = self.training
        for doubt in (
            *unchecked(training.content, content, training.groups is not None, grouped),
            *self.calibration.doubts(training.predicted, self.classifier.class_names),
        ):
            self._warn(doubt)
        return self

    def __call__(self, images: Any) -> Verdicts:
        """Verdicts on some images.

        Args:
            images: a preprocessed float tensor ``[N, ...]``; or uint8 arrays, Pillow images or
                paths, which go through the classifier's preprocessing.

        Raises:
            NotFitted, NotCalibrated: before ``fit`` and ``calibrate``.
            InvalidInput: if the images cannot be used.
        """
        return self.verdicts(self.classifier(images, requires=self.detector.requires))

    def verdicts(self, activations: Activations) -> Verdicts:
        """Verdicts on N images whose activations are known.

        Raises:
            NotFitted, NotCalibrated: before ``fit`` and ``calibrate``.
            InvalidInput: if the activations are of another model or not finite.
        """
        return self.check_calibrated().verdicts(
            self.detector.score(activations), activations.predictions
        )

    def explain(self, image: Any) -> Explanation:
        """Why an image was flagged, or was not: neurons, pixels and examples.

        Args:
            image: one image: a preprocessed float tensor ``[channels, height, width]``; or a uint8
                array, a Pillow image or a path. For many, see ``neroli.explain.explain``.

        Raises:
            NotFitted, NotCalibrated: before ``fit`` and ``calibrate``.
            InvalidInput: if the image cannot be used.
        """
        from neroli.explain.explanation import explain  # needs matplotlib, which takes a second

        return explain(self, image[None] if isinstance(image, Tensor) else [image])[0]

    def check_calibrated(self) -> Calibration:
        """The calibration.

        Raises:
            NotCalibrated: before ``calibrate``.
        """
        if self.calibration is None:
            raise NotCalibrated(
                "The guard has no threshold: call guard.calibrate(held_out_images) first, or "
                "guard.detector.score(activations) for bare scores."
            )
        return self.calibration

    def stream(
        self,
        images: Any,
        *,
        start: int = 0,
        batch_size: int = IMAGE_BATCH,
        progress: bool | None = None,
    ) -> Iterator[GuardedBatch]:
        """Verdicts on any number of images, batch by batch, nothing kept.

        Args:
            images: as ``neroli.data.opening.as_source`` takes them, or an ActivationStore.
            start: position to begin at: 0, or the ``end`` of a batch.
            batch_size, progress: as in ``fit``.

        Raises:
            NotFitted, NotCalibrated: before ``fit`` and ``calibrate``.
            InvalidInput: if the images cannot be used at all; unreadable ones are in ``failures``.
        """
        self.check_calibrated()
        if isinstance(images, ActivationStore):
            return verdicts_on_store(self, images, start, progress)
        return verdicts_on_images(self, images, start, batch_size, progress)

    def save(self, folder: Path | str) -> None:
        """Save to a folder, atomically; a guard that is there is replaced.

        Raises:
            NotFitted: before ``fit``.
            InvalidInput: if the detector is not registered.
            ArtefactError: if the folder cannot be written to or holds something else.
        """
        saving.save(self, folder)

    @classmethod
    def load(
        cls, folder: Path | str, model: nn.Module, *, execution: Execution | None = None
    ) -> Self:
        """A saved guard, around the same model it was fitted on.

        Args:
            folder: what it was saved in.
            model: the model.
            execution: how to run it, with a warning if scores may differ; as the guard was fitted
                when left out.

        Raises:
            ArtefactError: if there is none, it is damaged, of a newer schema, or of another model.
            InvalidInput: if the model cannot be run so.
        """
        return saving.load(cls, folder, model, execution)

    def manifest(self) -> Manifest:
        """What a saved guard says of itself, as ``manifest.json`` holds it.

        Raises:
            NotFitted: before ``fit``.
        """
        return saving.manifest_of(self)

    def held_out_source(self, images: Any, batch_size: int = IMAGE_BATCH) -> ImageSource:
        """Images as ``calibrate`` takes them: with labels only if the fitted detector needs them.

        Raises:
            InvalidInput, ClassMapError: as ``calibrate``.
        """
        _, labelled = learns_held_out(self.detector, self.classifier.head)
        if labelled:
            return labelled_source(self.classifier, images, batch_size)
        return without_labels(as_source(images, batch_size))

    def check_weights(self, training: TrainingPart) -> None:
        """Raise InvalidInput if the model is no longer the one that was fitted on."""
        if self.classifier.weights_hash() != training.weights_hash:
            raise InvalidInput(
                "The model's weights have changed since the guard was fitted: refit."
            )

    def _warn_of_unreadable(self, kind: str) -> None:
        if failures := self._unreadable[kind]:
            self._warn(
                f"{len(failures)} {kind} images could not be read and were left out; the first, "
                f"{failures[0].name!r}, {failures[0].reason}."
            )

    @staticmethod
    def _warn(text: str) -> None:
        warnings.warn(text, NeroliWarning, stacklevel=3)
