"""ChooseRun: a choice of detectors as ``neroli choose`` makes it, from options to activations."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from neroli.activations import Rows
from neroli.agreement import label_agreement
from neroli.benchmark.entries import Entry, needed
from neroli.benchmark.left_out import folds, refusal
from neroli.benchmark.results import Failed
from neroli.benchmark.searching import some_pictures
from neroli.benchmark.stores import runnable
from neroli.choice import Choice
from neroli.choosing import choose, detectors_named
from neroli.cli.common import columns_named, images_or_store
from neroli.cli.inputs import check_agreement, classifier_of, matched
from neroli.data.corruptions import corrupted
from neroli.data.opening import without_labels
from neroli.data.pictures import Pictures
from neroli.data.sources import Failure, ImageSource
from neroli.detectors import DEFAULT, create
from neroli.errors import ClassMapError, InvalidInput
from neroli.extraction import activations_of, with_classes
from neroli.overlap import TrainingImages, unchecked
from neroli.scale.job import InputOptions
from neroli.store import ActivationStore
from neroli.store_matching import check_store
from neroli.store_precision import StoreDtype, check_dtype
from neroli.taps import NOTHING, Requirements


@dataclass(frozen=True, eq=False)
class Extracted:
    """The activations that a choice is made from.

    Attributes:
        training: of the training images.
        held_out: of all held-out images.
        rows: those that are neither training images nor copies of another, bool ``[N]``.
        corrupted: of held-out images corrupted; None where there are no pictures to corrupt.
        names: the detectors whose needs they meet.
        failures: the others, with the reason.
        seed: of the choice.
        notes: what should be known of the images.
    """

    training: ActivationStore
    held_out: ActivationStore
    rows: Tensor
    corrupted: ActivationStore | None
    names: list[str]
    failures: list[Failed]
    seed: int
    notes: list[str] = field(default_factory=list)

    def choose(self) -> Choice:
        """The choice, with all that went before in its failures, warnings and remarks.

        Raises:
            NeroliError: as ``neroli.choosing.choose``.
        """
        choice = choose(
            self.training.head,
            self.training,
            Rows(self.held_out, self.rows),
            self.corrupted,
            self.names,
            seed=self.seed,
        )
        dropped = int((~self.rows).sum())
        return choice.model_copy(
            update={
                "failures": [*self.failures, *choice.failures],
                "warnings": [*self.notes, *choice.warnings],
                "dropped": dropped,
            }
        )


class ChooseRun:
    """The images, the model and the detectors of a choice, from its options.

    Args:
        options: which model and which images.
        detectors: as ``neroli.choosing.detectors_named`` takes them.
        seed: of the choice and of the corruptions.
        batch_size: images through the network at a time.
        device: where it runs.

    Raises:
        NeroliError: if an option, the images or the model cannot be used.
    """

    def __init__(
        self,
        options: InputOptions,
        detectors: str | None,
        *,
        seed: int,
        batch_size: int,
        device: str,
    ) -> None:
        self.options, self.seed, self.batch_size = options, seed, batch_size
        check_dtype(options.store_dtype)
        columns = columns_named(options.path_column, options.label_column, options.group_column)
        self._opened, held_out = (
            images_or_store(path, columns, options.every)
            for path in (options.train, options.calibration)
        )
        self.classifier = classifier_of(options, device)
        # behind the model, which may register some
        names = detectors_named(detectors)
        self.names = names if DEFAULT in names else [DEFAULT, *names]
        self.training, self.match = matched(options, self.classifier, self._opened)
        for images in (self.training, held_out):
            if isinstance(images, ActivationStore):
                check_store(images, self.classifier, NOTHING)
        self.notes: list[str] = []
        self.held_out = self._labelled(held_out)
        self.unreadable: list[Failure] = []

    @contextmanager
    def activations(self) -> Iterator[Extracted]:
        """The activations, each image through the network once; in a temporary folder or stored.

        Raises:
            CalibrationOverlap: if more than 1 % of the held-out images are training images.
            ClassMapError: if predictions hardly agree with labels.
            NeroliError: as ``neroli.extract``.
        """
        names, failures = self._usable()
        requires = needed([Entry(name, create(name)) for name in names])
        with contextlib.ExitStack() as stack:
            folder = self.options.store or Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="neroli-"))
            )
            training, held_out = (
                stack.enter_context(self._stored(images, folder / kind, requires))
                for kind, images in (
                    ("training", self.training),
                    ("calibration", self.held_out),
                )
            )
            check_agreement(
                label_agreement(training, self.classifier.class_names),
                self.match,
                given_store=self.options.train if training is self.training else None,
                kept_in=self.options.store,
                allowed=self.options.allow_low_agreement,
            )
            known = TrainingImages.of(training.digests(), training.groups())
            rows = known.held_out_rows(held_out.digests(), held_out.groups())
            corrupted_store = None
            if isinstance(self.held_out, Pictures):
                pictures = corrupted(some_pictures(self.held_out, held_out, rows), self.seed)
                corrupted_store = stack.enter_context(
                    self._stored(pictures, folder / "corrupted", requires)
                )
            self.unreadable = [*training.failures, *held_out.failures]
            notes = [*self.notes, *_unchecked(training, held_out)]
            yield Extracted(
                training, held_out, rows, corrupted_store, names, failures, self.seed, notes
            )

    def _stored(
        self, images: ImageSource | ActivationStore, path: Path, requires: Requirements
    ) -> contextlib.AbstractContextManager[ActivationStore]:
        dtype: StoreDtype | None = "float16" if self.options.store_dtype else None
        return activations_of(
            self.classifier,
            images,
            path,
            batch_size=self.batch_size,
            requires=requires,
            dtype=dtype,
        )

    def _labelled(self, held_out: ImageSource | ActivationStore) -> ImageSource | ActivationStore:
        """Held-out images with classes, if theirs can be told; they need not have any."""
        if not isinstance(held_out, Pictures):
            return held_out
        try:
            return with_classes(self.classifier, held_out, self.options.class_map)[0]
        except ClassMapError as error:
            self.notes.append(
                f"The labels of the held-out images are not used, so no class is left out: {error}"
            )
            return without_labels(held_out)

    def _usable(self) -> tuple[list[str], list[Failed]]:
        """The detectors that the model and the stores given can serve, and why not the others."""
        names: list[str] = []
        failures: list[Failed] = []
        for name in self.names:
            reason = self._lacking(name)
            if reason is None:
                names.append(name)
            else:
                failures.append(Failed(label=name, reason=reason))
        pictures = next(
            (i for i in (self.training, self.held_out) if isinstance(i, Pictures)), None
        )
        if pictures is None or not names:
            return names, failures
        entries, lacking = runnable(
            [Entry(name, create(name)) for name in names], self.classifier, pictures
        )
        return [entry.label for entry in entries], [*failures, *lacking]

    def _lacking(self, name: str) -> str | None:
        """Why a detector cannot be used with stores given, or where classes are left out."""
        detector = create(name)
        requires = needed([Entry(name, detector)])
        for images in (self.training, self.held_out):
            if isinstance(images, ActivationStore) and requires != NOTHING:
                try:
                    check_store(images, self.classifier, requires)
                except InvalidInput as error:
                    return str(error)
        return refusal(detector) if self._leaves_out() else None

    def _leaves_out(self) -> bool:
        """Whether classes will be left out."""
        labelled = [
            images.has_labels
            if isinstance(images, ActivationStore)
            else isinstance(images, Pictures) and images.labels is not None
            for images in (self.training, self.held_out)
        ]
        return all(labelled) and len(folds(self.classifier.head.num_classes, self.seed)) > 0


def _unchecked(training: ActivationStore, held_out: ActivationStore) -> list[str]:
    """What cannot be checked of an overlap of both, a sentence each."""
    contents = [each.origin.content if each.origin else "tensor" for each in (training, held_out)]
    grouped = [each.groups() is not None for each in (training, held_out)]
    return unchecked(contents[0], contents[1], grouped[0], grouped[1])
