"""neroli's own two detectors written out with loops, and what they do where nothing is defined."""

import numpy as np
import pytest
import torch

from neroli import Activations, LinearHead
from neroli.detectors import Detector, RelevanceDeficit, RelevanceDeviation

pytestmark = pytest.mark.filterwarnings("ignore:.*have fewer than 10")

BOTH = pytest.mark.parametrize("kind", [RelevanceDeviation, RelevanceDeficit])


def naive(
    kind: type[Detector], training: Activations, batch: Activations, head: LinearHead
) -> list[float]:
    weight, features = head.weight.numpy(), training.features.numpy()
    predicted = training.logits.numpy().argmax(axis=1)
    scores = []
    for row, logits in zip(batch.features.numpy(), batch.logits.numpy(), strict=True):
        c = logits.argmax()
        usual = (features[predicted == c] if (predicted == c).any() else features).mean(axis=0)
        above = below = total = 0.0
        for j, a in enumerate(row):
            change = weight[c, j] * (a - usual[j])
            above += max(change, 0)
            below += max(-change, 0)
            total += abs(weight[c, j] * a)
        scores.append((below if kind is RelevanceDeficit else above + below) / total)
    return scores


@BOTH
def test_equals_the_loops(
    training: Activations, new: Activations, head: LinearHead, kind: type[Detector]
) -> None:
    """Over predicted classes, so that labels are not even looked at."""
    unlabelled = Activations(training.features, training.logits)
    scores = kind().fit(unlabelled, head).score(new)
    np.testing.assert_allclose(scores, naive(kind, training, new, head), rtol=1e-12)


@BOTH
def test_a_class_never_predicted_has_the_mean_of_all_images(
    training: Activations, new: Activations, head: LinearHead, kind: type[Detector]
) -> None:
    rows = training.predictions != 1
    assert (new.predictions == 1).any()
    without = Activations(training.features[rows], training.logits[rows])
    scores = kind().fit(without, head).score(new)
    np.testing.assert_allclose(scores, naive(kind, without, new, head), rtol=1e-12)


def test_by_hand() -> None:
    head = LinearHead(torch.tensor([[1.0, -2.0], [0.0, 0.0]]), torch.tensor([9.0, 0.0]))
    training = Activations.from_features(torch.tensor([[2.0, 1.0], [4.0, 1.0]]), head)  # mean 3, 1
    image = Activations.from_features(torch.tensor([[1.0, 0.5]]), head)
    # Relevance 1 and -1, usually 3 and -2: one is 2 too small, the other 1 too large.
    assert RelevanceDeviation().fit(training, head).score(image).item() == pytest.approx(3 / 2)
    assert RelevanceDeficit().fit(training, head).score(image).item() == pytest.approx(2 / 2)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_any_relevance_the_score_is_the_largest_finite_one(
    training: Activations, head: LinearHead, kind: type[Detector], dtype: torch.dtype
) -> None:
    detector = kind().fit(training, head)
    smallest = torch.full((1, 24), torch.finfo(dtype).tiny, dtype=dtype)
    rows = torch.cat(
        [torch.zeros(1, 24, dtype=dtype), smallest * 1e-3, training.features[:1].to(dtype)]
    )
    scores = detector.score(Activations.from_features(rows, head))
    assert scores[0] == torch.finfo(dtype).max
    assert scores[0] >= scores[1] > scores[2]
    only_zeros = Activations.from_features(torch.zeros(3, 24, dtype=dtype), head)
    assert (kind().fit(only_zeros, head).score(only_zeros) == torch.finfo(dtype).max).all()
