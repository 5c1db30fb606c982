"""Mahalanobis detectors against SciPy and against the definition with inverse matrices."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import OAS

from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.detectors import Mahalanobis, RelativeMahalanobis
from neroli.errors import InvalidInput, LabelsRequired

pytestmark = pytest.mark.filterwarnings("ignore:.*have fewer than 10")


def naive(
    training: Activations, batch: Activations, labels: torch.Tensor, relative: bool
) -> np.ndarray:
    features = training.features.numpy()
    means = np.stack([features[labels == c].mean(0) for c in range(training.num_classes)])
    within = np.cov((features - means[labels]).T, ddof=0)
    precision, everything = np.linalg.inv(within), np.linalg.inv(np.cov(features.T, ddof=0))
    scores = []
    for row in batch.features.numpy():
        score = min(mahalanobis(row, mean, precision) ** 2 for mean in means)
        if relative:
            score -= mahalanobis(row, features.mean(0), everything) ** 2
        scores.append(score)
    return np.array(scores)


@pytest.mark.parametrize("labels", ["true", "predicted"])
def test_equals_the_definition(
    training: Activations, new: Activations, head: LinearHead, labels: str
) -> None:
    classes = training.labels if labels == "true" else training.predictions
    assert classes is not None
    for detector in (Mahalanobis(labels=labels), RelativeMahalanobis(labels=labels)):  # type: ignore[arg-type]
        expected = naive(training, new, classes, isinstance(detector, RelativeMahalanobis))
        np.testing.assert_allclose(detector.fit(training, head).score(new), expected, rtol=1e-9)


def test_hand_computed() -> None:
    """Two classes at x = -2 and 2, each with variances 1 and 4 around its mean."""
    features = torch.tensor([[3.0, 2], [1, 2], [3, -2], [1, -2]], dtype=torch.float64)
    features = torch.cat([features, features * torch.tensor([-1.0, 1.0])])
    head = LinearHead(torch.eye(2, dtype=torch.float64))
    training = Activations.from_features(features, head, torch.tensor([0] * 4 + [1] * 4))
    new = Activations.from_features(torch.tensor([[5.0, 2.0], [-2.0, 0.0]]).double(), head)
    # The variance of all is 1 + 2^2 and 4, around 0.
    plain = Mahalanobis().fit(training, head).score(new)
    relative = RelativeMahalanobis().fit(training, head).score(new)
    np.testing.assert_allclose(plain, [9 + 1, 0], atol=1e-12)
    np.testing.assert_allclose(relative, [9 + 1 - (5 + 1), -0.8], atol=1e-12)


def test_does_not_change_under_a_linear_map(training: Activations, head: LinearHead) -> None:
    draw = torch.Generator().manual_seed(3)
    map_ = torch.randn(24, 24, generator=draw, dtype=torch.float64)
    mapped = Activations(training.features @ map_ + 5, training.logits, training.labels)
    for detector in (Mahalanobis(), RelativeMahalanobis()):
        plain = detector.fit(training, head).score(training)
        torch.testing.assert_close(
            detector.fit(mapped, head).score(mapped), plain, rtol=1e-8, atol=1e-8
        )


@pytest.mark.filterwarnings("ignore:.*learns a covariance")
def test_fewer_images_than_features_are_shrunk(head: LinearHead) -> None:
    """By Chen et al. 2010, eq. 23; scikit-learn leaves its terms in 2 / D out."""
    few = random_activations(head, 15)
    assert few.labels is not None
    means = torch.stack([few.features[few.labels == c].mean(0) for c in range(5)]).numpy()
    centred = few.features.numpy() - means[few.labels]
    within = centred.T @ centred / 15
    square, trace = np.trace(within @ within), np.trace(within)
    share = (1 - 2 / 24) * square + trace**2
    share /= (16 - 2 / 24) * (square - trace**2 / 24)
    assert share == pytest.approx(OAS(assume_centered=True).fit(centred).shrinkage_, rel=0.05)
    precision = np.linalg.inv((1 - share) * within + share * trace / 24 * np.eye(24))
    offset = few.features[0].numpy() + np.arange(24)
    expected = min(mahalanobis(offset, mean, precision) ** 2 for mean in means)
    batch = Activations.from_features(torch.from_numpy(offset)[None], head)
    for detector in (Mahalanobis(), Mahalanobis(shrinkage=share)):
        np.testing.assert_allclose(detector.fit(few, head).score(batch), expected, rtol=1e-8)


@pytest.mark.parametrize("images", [25, 30, 48, 90])
def test_few_images_give_distances_near_those_of_the_true_covariance(images: int) -> None:
    """Of barely more images than features the smallest variances come out far too small."""
    draw = torch.Generator().manual_seed(0)
    head = LinearHead(torch.zeros(1, 24, dtype=torch.float64))
    spread = torch.linspace(0.2, 2, 24, dtype=torch.float64)
    known, new = (
        Activations.from_features(
            spread * torch.randn(count, 24, generator=draw, dtype=torch.float64),
            head,
            torch.zeros(count, dtype=torch.long),
        )
        for count in (images, 500)
    )
    true = (new.features / spread).square().sum(dim=1).median()
    assert 0.3 < Mahalanobis().fit(known, head).score(new).median() / true < 1.7
    plain = Mahalanobis(shrinkage=0).fit(known, head).score(new).median() / true
    assert plain > 1.3


def test_no_shrinkage_leaves_a_dead_neuron_out(training: Activations, head: LinearHead) -> None:
    dead = torch.cat([training.features[:, :23], torch.zeros(len(training), 1)], dim=1)
    data = Activations.from_features(dead.double(), head, training.labels)
    awake = data.features.clone()
    awake[:, 23] = 1.0
    batch = Activations(awake, data.logits)
    for detector in (Mahalanobis(shrinkage=0), RelativeMahalanobis(shrinkage=0)):
        detector.fit(data, head)
        torch.testing.assert_close(detector.score(batch), detector.score(data))
    shrunk = Mahalanobis().fit(data, head)
    assert (shrunk.score(batch) > shrunk.score(data) + 1).all()


def test_a_class_without_images_is_left_out(training: Activations, head: LinearHead) -> None:
    assert training.labels is not None
    rows = (training.labels != 4).nonzero()[:, 0]
    features, labels = training.features[rows], training.labels[rows]
    some = Mahalanobis().fit(Activations.from_features(features, head, labels), head)
    smaller = LinearHead(head.weight[:4], head.bias[:4])
    data = Activations.from_features(features, smaller, labels)
    torch.testing.assert_close(
        some.score(training),
        Mahalanobis()
        .fit(data, smaller)
        .score(Activations.from_features(training.features, smaller)),
    )


def test_float32_holds_where_classes_are_far_and_narrow(head: LinearHead) -> None:
    """Neural collapse: the products alone would be off by more than the distance."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(500) % 5
    features = head.weight[labels] + 1e-3 * torch.randn(500, 24, generator=draw).double()
    training = Activations.from_features(features, head, labels)
    detector = Mahalanobis().fit(training, head)
    single = Activations(training.features.float(), training.logits.float())
    torch.testing.assert_close(
        detector.score(single).double(), detector.score(training), rtol=2e-2, atol=0
    )


def test_settings_and_labels_are_checked(training: Activations, head: LinearHead) -> None:
    with pytest.raises(InvalidInput, match="shrinkage"):
        Mahalanobis(shrinkage=1.5)
    with pytest.raises(LabelsRequired):
        Mahalanobis().fit(Activations(training.features, training.logits), head)
