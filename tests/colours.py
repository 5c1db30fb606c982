"""The colour network as a classifier that is exported, and new images for it."""

from __future__ import annotations

import torch

from conftest import COLOUR_PREPROCESSING
from neroli import Classifier
from networks import COLOURS, trained_colour_network

NEW = torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def network() -> Classifier:
    """The classifier, with class names and preprocessing."""
    return Classifier(
        trained_colour_network(), preprocessing=COLOUR_PREPROCESSING, class_names=COLOURS
    )
