"""ConjNorm against the paper's and the program's formula in loops, in the linear domain."""

import numpy as np
import pytest
import torch

from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.detectors import ConjNorm
from neroli.detectors.conjnorm import Partition, PrototypeNorm

pytestmark = pytest.mark.filterwarnings("ignore:.*have fewer than 10")


def naive(
    training: Activations, batch: Activations, p: float, t: float, norm: str, partition: str
) -> np.ndarray:
    q = p / (p - 1)
    assert training.labels is not None
    labels, unit = training.labels.numpy(), lambda x: x / np.linalg.norm(x, p)
    classes = range(training.num_classes)
    means = np.stack([unit(training.features.numpy()[labels == c].mean(0)) for c in classes])
    sizes = np.sum(np.abs(means) ** q, axis=0 if norm == "channel" else 1) ** (1 / q)

    def exponential(x: np.ndarray, k: int) -> float:
        terms = unit(x) * np.sign(means[k]) * np.abs(means[k]) ** (q - 1)
        n = sizes if norm == "channel" else sizes[k]
        d = -0.5 * np.linalg.norm(unit(x), q) ** 2 + np.sum(terms / n ** (q - 2))
        return float(np.exp(d / t))

    sums = [
        sum(
            exponential(x, k)
            for x, label in zip(training.features.numpy(), labels, strict=True)
            if partition == "all" or label == k
        )
        for k in classes
    ]
    rows = batch.features.numpy()
    return np.array([-np.log(sum(exponential(x, k) / sums[k] for k in classes)) for x in rows])


@pytest.mark.parametrize("norm", ["channel", "class"])
@pytest.mark.parametrize("partition", ["all", "class"])
@pytest.mark.parametrize("p", [1.5, 2.2])
def test_equals_the_formula(
    training: Activations,
    new: Activations,
    head: LinearHead,
    norm: PrototypeNorm,
    partition: Partition,
    p: float,
) -> None:
    conjnorm = ConjNorm(p, 0.05, norm, partition).fit(training, head)
    expected = naive(training, new, p, 0.05, norm, partition)
    np.testing.assert_allclose(conjnorm.score(new), expected, rtol=1e-10)


def test_both_norms_agree_where_they_do_not_matter(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    """At p = 2 the exponent q - 2 of either is zero."""
    scores = [ConjNorm(2.0, 0.1, n).fit(training, head).score(new) for n in ("channel", "class")]
    torch.testing.assert_close(*scores)


@pytest.mark.parametrize("p", [1.01, 1.5, 2.2, 60.0])
def test_the_smallest_temperature_does_not_overflow(head: LinearHead, p: float) -> None:
    training = random_activations(head, 60)
    conjnorm = ConjNorm(p, 5e-4).fit(training, head)
    features = torch.cat([training.features, 1e30 * training.features]).float()
    scores = conjnorm.score(Activations.from_features(features, head))
    torch.testing.assert_close(scores[60:], scores[:60], rtol=0.02, atol=0.5)


@pytest.mark.parametrize("norm", ["channel", "class"])
def test_zero_features_channels_and_classes(head: LinearHead, norm: PrototypeNorm) -> None:
    training = random_activations(head, 60)
    features = training.features.clone()
    features[:, 4] = 0
    assert training.labels is not None
    features[training.labels == 2] = 0
    data = Activations.from_features(features, head, training.labels)
    for p in (1.5, 2.2):
        conjnorm = ConjNorm(p, 0.05, norm).fit(data, head)
        nothing = Activations.from_features(torch.zeros(1, 24).double(), head)
        expected = -(-conjnorm.log_partition).logsumexp(0)
        torch.testing.assert_close(conjnorm.score(nothing)[0], expected)
        assert conjnorm.score(data).isfinite().all()


def test_predicted_classes_need_no_labels(head: LinearHead) -> None:
    training = random_activations(head, 60)
    data = Activations.from_features(training.features, head)
    as_labels = Activations.from_features(training.features, head, data.predictions)
    predicted = ConjNorm(partition="class", labels="predicted").fit(data, head)
    expected = ConjNorm(partition="class").fit(as_labels, head)
    torch.testing.assert_close(predicted.score(data), expected.score(data))
