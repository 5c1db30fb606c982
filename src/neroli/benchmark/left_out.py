"""Classes left out in turn: their logits are deleted, and their images play OOD data.

The features were learned with these classes, so they are easier to tell apart than real OOD data
may be; what is compared is how detectors do against each other, not how well they will do.

Only what features and logits determine can be left out exactly: a probe, which runs the network
again, saw all logits. Of views of an image the features alone are kept, and their logits computed
by the head that is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from neroli.activations import BATCH_SIZE, Activations, ActivationSource
from neroli.benchmark.proxies import Scores, fitted, scores
from neroli.detectors import Detector
from neroli.errors import InvalidInput, LabelsRequired
from neroli.head import LinearHead
from neroli.taps import PREPOOL
from neroli.views import measures_more


@dataclass(frozen=True, eq=False)
class WithoutClasses:
    """The images of a source that are of none of some classes, as a source of the classes left.

    The logits of the classes are deleted and the other classes renumbered in order.

    Args:
        source: labelled images of all classes.
        classes: those left out.
        keep: as of ``without_logits``.

    Raises:
        LabelsRequired: if the source has no labels.
        InvalidInput: if a class is none of the source's or named twice, or fewer than two are left.
    """

    source: ActivationSource
    classes: tuple[int, ...]
    keep: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        _kept(self.source.num_classes, self.classes)
        check_labelled(self.source)

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        return sum(int((~_of_classes(b, self.classes)).sum()) for b in self.source.batches())

    @property
    def num_features(self) -> int:
        return self.source.num_features

    @property
    def num_classes(self) -> int:
        return self.source.num_classes - len(self.classes)

    @property
    def has_labels(self) -> bool:
        return True

    def batches(self, batch_size: int = BATCH_SIZE) -> Iterator[Activations]:
        """The images of the other classes in order, at most ``batch_size`` at a time."""
        for batch in self.source.batches(batch_size):
            left = ~_of_classes(batch, self.classes)
            if left.any():
                yield without_logits(batch.select(left), self.classes, self.keep)


def reduced_head(head: LinearHead, classes: Sequence[int]) -> LinearHead:
    """The head without some classes' logits.

    Raises:
        InvalidInput: if a class is none of the head's or named twice, or fewer than two are left.
    """
    kept = _kept(head.num_classes, classes)
    return LinearHead(head.weight[kept], head.bias[kept])


def without_logits(
    batch: Activations, classes: Sequence[int], keep: Set[str] = frozenset()
) -> Activations:
    """A batch without some classes' logits; what depends on these in other ways is left out too.

    Labels are renumbered, and there are none if an image is of one of the classes.

    Args:
        batch: of all classes.
        classes: those left out.
        keep: names of extras that depend on no logits, beside the map before pooling.

    Raises:
        InvalidInput: as ``reduced_head``.
    """
    kept = _kept(batch.num_classes, classes).to(batch.logits.device)
    labels = batch.labels
    if labels is not None:
        renumbered = torch.full((batch.num_classes,), -1, device=labels.device)
        renumbered[kept] = torch.arange(len(kept), device=labels.device)
        labels = renumbered[labels]
        labels = None if (labels < 0).any() else labels
    extras = {
        name: value for name, value in batch.extras.items() if name in keep or name in PREPOOL
    }
    return Activations(batch.features, batch.logits[:, kept], labels, batch.ids, batch.taps, extras)


def folds(num_classes: int, seed: int, most: int = 10) -> list[tuple[int, ...]]:
    """Classes to leave out in turn, each in exactly one fold.

    Args:
        num_classes: C; of fewer than three none can be left out, as a head needs two.
        seed: of which classes are left out together, where there are more than ``most``.
        most: number of folds, of nearly equal size; at least 3, so that two classes are left.

    Raises:
        InvalidInput: if ``most`` is less.
    """
    if most < 3:
        raise InvalidInput(f"There must be at least 3 folds of classes, got most={most}.")
    if num_classes < 3:
        return []
    order = np.arange(num_classes)
    if num_classes > most:
        order = np.random.default_rng(seed).permutation(num_classes)
    parts = np.array_split(order, min(most, num_classes))
    return [tuple(sorted(part.tolist())) for part in parts]


def left_out_scores(
    detectors: Sequence[Detector],
    train: ActivationSource,
    head: LinearHead,
    held_out: ActivationSource,
    folds: Sequence[Sequence[int]],
) -> list[tuple[Scores, ...] | str]:
    """What detectors give to held-out images of classes left out and to those of the others.

    In every fold all detectors are fitted in the same passes over the training images of the other
    classes, with the reduced head. One that learns from held-out images too learns from those of
    the other classes, which are then scored: a temperature or a mean, too few numbers to matter.

    Args:
        detectors: any number of detectors; they are left as they were.
        train: labelled ID training images.
        head: of the network.
        held_out: labelled ID images that neither the classifier nor a detector was trained on.
        folds: the classes to leave out in turn.

    Returns:
        for each detector its scores in every fold, those of the classes left out as ``outside``, or
        why it failed in one. A fold of which no image is held out, or no other, has none.

    Raises:
        LabelsRequired: if either source has no labels.
        InvalidInput: if a fold names an unknown class or leaves fewer than two.
    """
    check_labelled(train)
    check_labelled(held_out)
    found: list[tuple[Scores, ...] | str] = [refusal(detector) or () for detector in detectors]
    seen = _seen_in_views(detectors)
    for fold in folds:
        classes = tuple(fold)
        numbers = [number for number, known in enumerate(found) if not isinstance(known, str)]
        others, reduced = WithoutClasses(held_out, classes, seen), reduced_head(head, classes)
        if not 0 < len(others) < len(held_out) or not numbers:
            continue
        learners = fitted(
            [detectors[number] for number in numbers],
            WithoutClasses(train, classes, seen),
            reduced,
            others,
        )
        batches = (
            (without_logits(batch, classes, seen), _of_classes(batch, classes))
            for batch in held_out.batches()
        )
        for number, given in zip(numbers, scores(learners, batches), strict=True):
            known = found[number]
            if isinstance(given, str):
                found[number] = given
            elif not isinstance(known, str):
                found[number] = (*known, given)
    return found


def check_labelled(source: ActivationSource) -> None:
    """Raise LabelsRequired if the classes of a source's images are not known."""
    if not source.has_labels:
        raise LabelsRequired(
            "Classes can be left out only where the true class of every training and held-out "
            "image is known: give the labels of both."
        )


def refusal(detector: Detector) -> str | None:
    """Why no class can be left out of a detector, if that is so."""
    if not measures_more(detector.requires):
        return None
    return (
        f"{type(detector).__name__} runs the network again, with the logits of all classes: no "
        "class can be left out of it."
    )


def _seen_in_views(detectors: Sequence[Detector]) -> frozenset[str]:
    """Names of what views add for the detectors that are not refused: it depends on no logits."""
    known = [detector for detector in detectors if refusal(detector) is None]
    probes = [probe for detector in known for probe in detector.requires.probes]
    return frozenset(name for probe in probes for name in probe.names())


def _of_classes(batch: Activations, classes: Sequence[int]) -> Tensor:
    """Which images are of some classes, bool ``[N]``."""
    assert batch.labels is not None, "sources are checked to have labels"
    return torch.isin(batch.labels, torch.tensor(classes, device=batch.labels.device))


def _kept(num_classes: int, classes: Sequence[int]) -> Tensor:
    """The classes left, int64; raises InvalidInput if that cannot be."""
    unknown = [c for c in classes if not 0 <= c < num_classes]
    if unknown or len(set(classes)) < len(classes) or len(classes) > num_classes - 2:
        raise InvalidInput(
            f"Of {num_classes} classes, {list(classes)} cannot be left out: name each once, in "
            f"0..{num_classes - 1}, and leave at least two."
        )
    kept = torch.ones(num_classes, dtype=torch.bool)
    kept[list(classes)] = False
    return kept.nonzero()[:, 0]
