"""SHE, fDBD and NCDD against loops over images and classes."""

import numpy as np
import pytest
import torch

from neroli import Activations, LinearHead
from neroli.detectors import FDBD, NCDD, SHE

pytestmark = pytest.mark.filterwarnings("ignore:.*have fewer than 10")


@pytest.mark.parametrize("labels", ["correct", "true", "predicted"])
def test_she_equals_the_definition(
    training: Activations, new: Activations, head: LinearHead, labels: str
) -> None:
    assert training.labels is not None
    right = training.labels == training.predictions
    assert not right.all()
    expected = []
    for features, predicted in zip(new.features, new.predictions, strict=True):
        rows = {
            "correct": right & (training.labels == predicted),
            "true": training.labels == predicted,
            "predicted": training.predictions == predicted,
        }[labels]
        expected.append(-float(features @ training.features[rows].mean(0)))
    actual = SHE(labels).fit(training, head).score(new)  # type: ignore[arg-type]
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_she_takes_the_mean_of_all_where_no_image_is_correct(
    training: Activations, head: LinearHead
) -> None:
    assert training.labels is not None
    labels = torch.where(training.labels == 2, 3, training.labels)
    she = SHE().fit(Activations(training.features, training.logits, labels), head)
    torch.testing.assert_close(she.means[2], training.features.mean(0))


def test_fdbd_sums_the_distances_to_the_boundaries(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    centre = training.features.mean(0)
    expected = []
    for features, logits in zip(new.features, new.logits, strict=True):
        c = int(logits.argmax())
        total = 0.0
        for k in range(5):
            if k != c:
                # Where the line along the normal meets z_c = z_k.
                normal = head.weight[c] - head.weight[k]
                step = (logits[c] - logits[k]) / normal.square().sum()
                on_boundary = head((features - step * normal)[None])[0]
                torch.testing.assert_close(on_boundary[c], on_boundary[k])
                total += float((step * normal).norm())
        expected.append(-total / float((features - centre).norm()))
    actual = FDBD().fit(training, head).score(new)
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


def test_fdbd_leaves_out_classes_with_the_same_weights(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    twins = LinearHead(
        torch.cat([head.weight, head.weight[:1]]), torch.cat([head.bias, head.bias[:1] - 1])
    )
    alone = FDBD().fit(training, head)
    both = FDBD().fit(Activations.from_features(training.features, twins), twins)
    assert both.per_logit[0, 5] == both.per_logit[5, 0] == 0
    rows = new.predictions == 0  # then the twin is neither predicted nor does it count
    batch = Activations.from_features(new.features[rows], twins)
    one = Activations.from_features(new.features[rows], head)
    torch.testing.assert_close(both.score(batch), alone.score(one))


def test_fdbd_at_the_mean_is_finite(training: Activations, head: LinearHead) -> None:
    detector = FDBD().fit(training, head)
    for dtype in (torch.float64, torch.float32):
        mean = Activations.from_features(detector.centre[None].to(dtype), head)
        assert torch.isfinite(detector.score(mean)).all()


@pytest.mark.parametrize(("alpha_1", "alpha_2"), [(4.0, 1.0), (-1.0, 0.5)])
def test_ncdd_equals_the_definition(
    training: Activations, new: Activations, head: LinearHead, alpha_1: float, alpha_2: float
) -> None:
    features = training.features.numpy()
    centre = features.mean(0)
    expected = []
    for row in new.features.numpy():
        offset = row - centre
        distances = []
        for c in range(5):
            mean = (features[training.labels == c] - centre).mean(0)
            difference = offset / np.linalg.norm(offset) - mean / np.linalg.norm(mean)
            distances.append(difference @ difference)
        distances.sort()
        size = np.abs(offset).sum()
        score = np.log(size / 10**alpha_1) * sum(distances[1:])
        expected.append(-(score - np.log(size / 10**alpha_2) * distances[0]))
    actual = NCDD(alpha_1, alpha_2).fit(training, head).score(new)
    np.testing.assert_allclose(actual, expected, rtol=1e-8)


def test_ncdd_goes_by_the_distances_once_features_are_larger_than_both_powers(
    training: Activations, head: LinearHead
) -> None:
    """With alpha_1 small, the nearer the centroid, the lower the score."""
    detector = NCDD(-20.0, -20.0).fit(training, head)
    means = detector.centre + detector.centroids
    between = detector.centre + (detector.centroids[:1] + detector.centroids[1:2]) / 2
    at = detector.score(Activations.from_features(means[:2], head))
    assert (detector.score(Activations.from_features(between, head)) > at).all()
