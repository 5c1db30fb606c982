"""Features of the CIFAR-10 DenseNet on which the authors' programs were run."""

import numpy as np
import torch

from neroli import Activations, LinearHead


def activations(
    golden: dict[str, np.ndarray], part: str, head: LinearHead, labels: np.ndarray | None = None
) -> Activations:
    """One part of them in float64: train, id or ood."""
    features = torch.from_numpy(golden[f"{part}_features"]).double()
    return Activations.from_features(features, head, labels)
