"""What the commands that learn from training images are given: the classifier and its images."""

from __future__ import annotations

import sys
from pathlib import Path

from neroli.agreement import LabelAgreement
from neroli.classifier import Classifier
from neroli.cli.common import execution_with, preprocessing_with
from neroli.data.classes import ClassMatch
from neroli.data.pictures import Pictures
from neroli.data.preprocessing import Preprocessing
from neroli.data.sources import ImageSource
from neroli.errors import ClassMapError, InvalidInput
from neroli.execution import AS_IT_IS
from neroli.extraction import with_classes
from neroli.models import load_classifier
from neroli.scale.job import InputOptions
from neroli.store import ActivationStore


def classifier_of(options: InputOptions, device: str) -> Classifier:
    """The classifier, with its own preprocessing, run as was asked for.

    Raises:
        NeroliError: if it cannot be loaded, or not be run so.
    """
    return load_classifier(
        options.model,
        options.weights,
        head=options.head,
        device=device,
        execution=execution_with(
            AS_IT_IS, options.precision, options.channels_last, options.compile
        ),
    )


def matched(
    options: InputOptions, classifier: Classifier, training: ImageSource | ActivationStore
) -> tuple[ImageSource | ActivationStore, ClassMatch | None]:
    """Training images with the classifier's classes for labels, and how these were matched.

    The classifier takes the preprocessing that was asked for, and names of classes if it has none.

    Raises:
        ModelError, InvalidInput: as ``chosen_preprocessing``.
        ClassMapError, NotEnoughImages: as ``with_classes``.
    """
    match = None
    classifier.preprocessing = chosen_preprocessing(options, classifier, training)
    if isinstance(training, Pictures):
        training, match = with_classes(classifier, training, options.class_map)
    if classifier.class_names is None and match is not None:
        classifier.class_names = match.names(classifier.head.num_classes)
    return training, match


def chosen_preprocessing(
    options: InputOptions, classifier: Classifier, training: ImageSource | ActivationStore
) -> Preprocessing:
    """How pictures become the network's input: as a given store says, with what was asked for.

    Another than that of the store is refused when the store is used.

    Raises:
        ModelError, InvalidInput: as ``preprocessing_with``.
        InvalidInput: if a class map is given where a store was.
    """
    stated = classifier.preprocessing
    given = (options.resize, options.crop, options.mean, options.std, options.interpolation)
    if isinstance(training, ActivationStore):
        if options.class_map is not None:
            raise needs_images("--class-map", options.train)
        if training.origin is not None:
            stated = training.origin.preprocessing or stated
    return preprocessing_with(stated, *given)


def needs_images(option: str, train: Path) -> InvalidInput:
    """The error of an option that a store of training images cannot serve."""
    return InvalidInput(
        f"{option} needs the images, and {str(train)!r} is an activation store: give --train the "
        "images it was extracted from."
    )


def check_agreement(
    agreement: LabelAgreement | None,
    match: ClassMatch | None,
    *,
    given_store: Path | None,
    kept_in: Path | None,
    allowed: bool,
) -> None:
    """Raise ClassMapError if predictions hardly agree with labels, and say so if it is doubtful.

    Args:
        agreement: on the training images; None without labels.
        match: how labels were matched to classes, if they were.
        given_store: where the training images are given as activations, their store.
        kept_in: where activations that were extracted now are, if they are kept.
        allowed: go on in any case.
    """
    if agreement is None:
        return
    if agreement.is_wrong and not allowed:
        rule = f" Labels were matched to classes {match.rule}:" if match else " So"
        remedy, where = f"{rule} say which is which with --class-map", kept_in
        if given_store is not None:
            remedy, where = " Extract the images again with --class-map", given_store
        kept = "" if where is None else f" The activations are kept in {str(where)!r}."
        raise ClassMapError(f"{agreement}{remedy}, or go on with --allow-low-agreement.{kept}")
    if agreement.is_doubtful:
        print(f"neroli: warning: {agreement}", file=sys.stderr)
