"""Whether a classifier agrees with the labels it is given: a wrong mapping is a silent error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from neroli.activations import ActivationSource
from neroli.fitting import gather
from neroli.statistics import Confusion, ConfusionCounts

_NEAR_CHANCE_KAPPA = 0.1
_FEW = 10


@dataclass(frozen=True)
class LabelAgreement:
    """How often predictions equal labels, against how often they would by chance.

    Attributes:
        accuracy: share of images predicted as labelled, in 0..1.
        chance: the share if predictions and labels were independent, in 0..1.
        confused: names (label, predicted) of classes with ten images or more, most of which are
            predicted as one other class.
        predicted: how many images were predicted as each of the C classes.
    """

    accuracy: float
    chance: float
    confused: tuple[tuple[str, str], ...]
    predicted: tuple[int, ...]

    @property
    def is_near_chance(self) -> bool:
        """Whether Cohen's kappa is below 0.1."""
        if self.chance > 1 - 1e-9:  # a single class: nothing to tell chance from
            return False
        return (self.accuracy - self.chance) / (1 - self.chance) < _NEAR_CHANCE_KAPPA

    @property
    def is_doubtful(self) -> bool:
        """Whether the labels, the weights or the preprocessing look wrong."""
        return self.is_near_chance or bool(self.confused)

    @property
    def is_wrong(self) -> bool:
        """Whether predictions are near chance, or classes are confused in a circle.

        A class that is taken for another which is itself taken for a third, or for the first,
        speaks of a wrong order of the classes rather than of a hard class.
        """
        labels = {label for label, _ in self.confused}
        return self.is_near_chance or any(predicted in labels for _, predicted in self.confused)

    def __str__(self) -> str:
        text = f"The classifier predicts {self.accuracy:.1%} of the training images as labelled"
        if self.is_near_chance:
            more = "hardly more than by" if self.accuracy > self.chance else "no better than"
            text += f", {more} chance ({self.chance:.1%})"
        if self.confused:
            label, predicted = self.confused[0]
            text += f"; most images labelled {label!r} are predicted as {predicted!r}"
        if self.is_doubtful:
            text += ". Check the order of the classes, the weights and the preprocessing"
        return text + "."


def label_agreement(
    activations: ActivationSource, class_names: Sequence[str] | None = None
) -> LabelAgreement | None:
    """The agreement of predictions and labels; None if there are no labels."""
    if not activations.has_labels:
        return None
    classes = activations.num_classes
    names = class_names or [str(index) for index in range(classes)]
    confusion: Confusion = gather([ConfusionCounts()], activations)[0]
    count = confusion.count.double()
    total = count.sum()
    labelled, predicted = (
        torch.bincount(index, weights=count, minlength=classes)
        for index in (confusion.label, confusion.predicted)
    )
    right = confusion.label == confusion.predicted
    mistaken = ~right & (labelled[confusion.label] >= _FEW)
    mistaken &= 2 * count > labelled[confusion.label]
    pairs = torch.stack([confusion.label, confusion.predicted], dim=1)[mistaken].tolist()
    return LabelAgreement(
        accuracy=float(count[right].sum() / total),
        chance=float((labelled / total) @ (predicted / total)),
        confused=tuple((names[label], names[taken_for]) for label, taken_for in pairs),
        predicted=tuple(int(number) for number in predicted),
    )
