"""ITP against contributions written out in full, C x D for every image."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.detectors import ITP, Energy, itp
from neroli.errors import InvalidInput

pytestmark = pytest.mark.filterwarnings("ignore:.*have fewer than 10")


def naive(
    training: Activations, batch: Activations, head: LinearHead, percentile: float, z: float
) -> np.ndarray:
    """From the contributions of every training image, not from moments of features."""
    weight, bias = head.weight.numpy(), head.bias.numpy()
    assert training.labels is not None
    by_class = [
        training.features[training.labels == c].numpy() * weight[c] for c in range(len(weight))
    ]
    mean = np.stack([v.mean(0) for v in by_class])
    deviation = np.stack([v.std(0, ddof=1) for v in by_class])
    coarse = mean > np.percentile(mean, percentile)
    scores = []
    for a in batch.features.numpy():
        contributions = weight * a
        fine = contributions < mean + z * deviation
        scores.append(-logsumexp((contributions * coarse * fine).sum(1) + bias))
    return np.array(scores)


@pytest.mark.parametrize("setting", [(10.0, 2.2), (20.0, 1.6), (0.0, 0.5), (100.0, 1.0)])
@pytest.mark.parametrize("chunk", [1, 2**20])
def test_equals_the_full_contributions(
    training: Activations,
    new: Activations,
    head: LinearHead,
    setting: tuple[float, float],
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(itp, "_CHUNK", chunk)
    scores = ITP(*setting).fit(training, head).score(new)
    np.testing.assert_allclose(scores, naive(training, new, head, *setting), rtol=1e-11)


def test_a_single_image_of_a_class_removes_nothing_of_its_logit(
    head: LinearHead, new: Activations
) -> None:
    """There is no standard deviation: with one image in every class only the percentile acts."""
    alone = random_activations(head, 5)
    kept = ITP(50.0, 0.1).fit(alone, head)
    masked = LinearHead(kept.weight, head.bias)
    expected = Energy().score(Activations.from_features(new.features, masked))
    torch.testing.assert_close(kept.score(new), expected)


def test_constant_features_and_two_classes(head: LinearHead) -> None:
    two = LinearHead(head.weight[:2], head.bias[:2])
    same = Activations.from_features(torch.ones(8, 24).double(), two, torch.arange(8) % 2)
    for features in (same.features, torch.zeros(2, 24).double()):
        scores = ITP().fit(same, two).score(Activations.from_features(features, two))
        # nothing lies below a mean that it equals, so that nothing of it is kept
        torch.testing.assert_close(scores, -two.bias.logsumexp(0).expand(len(features)))


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(InvalidInput, match="percentile"):
        ITP(percentile=101)
    with pytest.raises(InvalidInput, match="z must"):
        ITP(z=-1)
