"""Whether a store may stand for images: it is of this classifier and holds what is needed."""

from __future__ import annotations

import warnings

import torch

from neroli.classifier import Classifier
from neroli.errors import ArtefactError, InvalidInput, NeroliWarning
from neroli.store import ActivationStore
from neroli.taps import Requirements

_TOLERANCE = 1e-5
"""Of head weights, relative: a batch norm that is folded in on another device rounds by less."""


def check_store(store: ActivationStore, classifier: Classifier, requires: Requirements) -> None:
    """Check that a store is of a classifier, which takes from it what it does not know itself.

    These are where its head is, the preprocessing, the shape of its input and names of classes.

    Args:
        store: of which classifier it is it says itself.
        classifier: whose activations are wanted.
        requires: what is wanted beside features and logits.

    Raises:
        InvalidInput: if the store is of another classifier, preprocessing or precision, or lacks
            something.
        HeadNotFound: if the classifier has no such head.
        ArtefactError: if the store's head is not the classifier's, so that its file was changed.
    """
    name, origin = str(store.path), store.origin
    if origin is None or origin.weights_hash != classifier.weights_hash():
        raise InvalidInput(
            f"The store {name!r} is of another classifier: extract the images with this one."
        )
    classifier.name_head(origin.head_name)
    _check_head(store, classifier)
    known = (origin.preprocessing, classifier.preprocessing)
    if None not in known and known[0] != known[1]:
        raise InvalidInput(
            f"The store {name!r} was extracted with another preprocessing ({known[0]}) than this "
            f"classifier's ({known[1]}): give it the same preprocessing, or extract again."
        )
    _check_execution(store, classifier)
    classifier.preprocessing = known[1] or known[0]
    classifier.input_shape = classifier.input_shape or origin.input_shape
    if classifier.class_names is None and origin.class_names is not None:
        classifier.class_names = list(origin.class_names)
    lacking = next((requires.lacking(batch) for batch in store.batches(1)), [])
    if lacking:
        raise InvalidInput(
            f"The store {name!r} lacks {lacking[0]!r}, which the detector requires: use the images "
            "themselves, or a store extracted with requires=detector.requires_to_fit."
        )


def _check_head(store: ActivationStore, classifier: Classifier) -> None:
    """Raise ArtefactError unless a store's head is that of the classifier, but for rounding."""
    stored, own = store.head, classifier.head
    for kept, value in ((stored.weight, own.weight), (stored.bias, own.bias)):
        expected = value.cpu().to(kept)
        within = _TOLERANCE * float(expected.abs().max())
        if kept.shape != expected.shape or not torch.allclose(
            kept, expected, rtol=_TOLERANCE, atol=within
        ):
            raise ArtefactError(
                f"The head in the store {str(store.path)!r} is not the classifier's "
                f"{classifier.head_name!r}: its file was changed, extract the images again."
            )


def _check_execution(store: ActivationStore, classifier: Classifier) -> None:
    """Raise InvalidInput if a store is of another precision; warn if rounding alone may differ."""
    stored = None if store.origin is None else store.origin.execution
    runs = classifier.execution
    if stored is None or stored == runs:
        return
    if stored.precision != runs.precision:
        raise InvalidInput(
            f"The store {str(store.path)!r} was extracted in {stored.precision} and this "
            f"classifier runs in {runs.precision}, where scores are others: run it in "
            f"{stored.precision} (--precision {stored.precision}), or extract again."
        )
    warnings.warn(
        f"The store {str(store.path)!r} was extracted with the network run as {stored}, this "
        f"classifier runs as {runs}: features differ in rounding.",
        NeroliWarning,
        stacklevel=3,
    )
