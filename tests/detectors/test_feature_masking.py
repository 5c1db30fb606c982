"""Feature masking with prototype logit smoothing against a loop over images."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from neroli import Activations, LinearHead
from neroli.detectors import FeatureMasking


@pytest.mark.parametrize("setting", [(60.0, 1.6), (30.0, 0.8), (0.0, 50.0)])
def test_equals_the_definition(
    training: Activations, new: Activations, head: LinearHead, setting: tuple[float, float]
) -> None:
    percentile, clip = setting
    weight, bias = head.weight.numpy(), head.bias.numpy()
    assert training.labels is not None
    expected = []
    for a in new.features.numpy():
        c = (weight @ a + bias).argmax()
        mean = training.features[training.labels == int(c)].numpy().mean(0)
        masked = np.where(weight[c] >= np.percentile(weight[c], percentile), a, 0)
        cosine = a @ mean / np.linalg.norm(a) / np.linalg.norm(mean)
        expected.append(-logsumexp(cosine * (weight @ np.minimum(masked, clip) + bias)))
    scores = FeatureMasking(*setting).fit(training, head).score(new)
    np.testing.assert_allclose(scores, expected, rtol=1e-12)


def test_clip_can_be_learned(training: Activations, head: LinearHead) -> None:
    learned = FeatureMasking(clip=None).fit(training, head)
    expected = np.quantile(training.features.numpy(), 0.95)
    assert learned.threshold.item() == pytest.approx(expected, rel=1e-3)
    given = FeatureMasking(clip=learned.threshold.item()).fit(training, head)
    torch.testing.assert_close(given.score(training), learned.score(training))


def test_without_active_neurons_the_score_is_that_of_equal_logits(
    training: Activations, head: LinearHead
) -> None:
    nothing = Activations.from_features(torch.zeros(2, 24, dtype=torch.float64), head)
    scores = FeatureMasking().fit(training, head).score(nothing)
    torch.testing.assert_close(scores, -torch.full((2,), 5.0, dtype=torch.float64).log())
