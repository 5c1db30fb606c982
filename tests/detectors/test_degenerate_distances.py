"""Distance and subspace detectors where there is little, or nothing, to learn from."""

import pytest
import torch

from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.detectors import create

pytestmark = pytest.mark.filterwarnings("ignore:.*have fewer than 10")

DISTANCES = pytest.mark.parametrize(
    "name",
    [
        *("mahalanobis", "relative_mahalanobis", "knn", "nnguide", "vim", "residual", "neco"),
        *("she", "fdbd", "cop", "corp", "regularised_pca", "ncdd"),
    ],
)


def settings(name: str) -> dict[str, int]:
    return {"k": 3} if name in ("knn", "nnguide") else {}


def check_finite(name: str, training: Activations, head: LinearHead) -> None:
    """Scores of training images, of none and of large features are finite in both precisions."""
    detector = create(name, **settings(name)).fit(training, head)
    rows = torch.cat([training.features, torch.zeros_like(training.features[:2])])
    rows = torch.cat([rows, 1e4 * training.features, -training.features])
    for dtype in (torch.float64, torch.float32):
        scores = detector.score(Activations.from_features(rows.to(dtype), head))
        assert torch.isfinite(scores).all()


@DISTANCES
@pytest.mark.filterwarnings("ignore:.*learns a covariance")
def test_fewer_images_than_features(name: str) -> None:
    head = LinearHead(torch.randn(3, 40, generator=torch.Generator().manual_seed(0)).double())
    check_finite(name, random_activations(head, 30), head)


@DISTANCES
def test_two_classes_and_two_features(name: str) -> None:
    head = LinearHead(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double())
    check_finite(name, random_activations(head, 60), head)


@DISTANCES
@pytest.mark.parametrize("value", [0.0, 0.1, 7.3])
def test_images_that_are_all_the_same(name: str, head: LinearHead, value: float) -> None:
    row = value * torch.linspace(0.3, 1.7, 24, dtype=torch.float64)
    training = Activations.from_features(row.expand(3000, -1).clone(), head, torch.arange(3000) % 5)
    check_finite(name, training, head)


@DISTANCES
def test_one_class_alone_has_images(name: str, head: LinearHead) -> None:
    data = random_activations(head, 100)
    labels = torch.full_like(data.labels, 2)  # type: ignore[arg-type]
    check_finite(name, Activations(data.features, data.logits, labels), head)
