"""The networks for CIFAR: sizes as their papers state them."""

import pytest
import torch

from neroli.classifier import Classifier
from neroli.models import load_model


@pytest.mark.parametrize(
    ("factory", "features", "classes", "parameters"),
    [
        ("resnet20", 64, 10, "0.27"),
        ("densenet100", 342, 10, "0.77"),
        ("densenet100_cifar100", 342, 100, "0.80"),
    ],
)
def test_the_networks_have_the_published_sizes(
    factory: str, features: int, classes: int, parameters: str
) -> None:
    model = load_model(f"neroli.models.cifar:{factory}").module
    count = sum(p.numel() for p in model.parameters())
    assert f"{count / 1e6:.2f}" == parameters  # millions
    activations = Classifier(model)(torch.randn(2, 3, 32, 32))
    assert activations.features.shape == (2, features)
    assert activations.logits.shape == (2, classes)
