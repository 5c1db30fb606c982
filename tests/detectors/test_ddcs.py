"""DDCS against sums over pairs of classes, and the bounds it learns."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from neroli import Activations, LinearHead
from neroli.detectors import DDCS
from neroli.errors import InvalidInput

pytestmark = pytest.mark.filterwarnings("ignore:.*have fewer than 10")


def lhact(values: np.ndarray, low: float, high: float) -> np.ndarray:
    raised = np.maximum(values, low)
    return np.where(raised >= high, raised / np.sqrt(1 + (raised / high) ** 4) + low, raised)


@pytest.mark.parametrize("alpha", [0.0, 0.8, 1.0])
def test_equals_the_definition(
    training: Activations, new: Activations, head: LinearHead, alpha: float
) -> None:
    low, high, channels = 0.1, 1.2, 9
    assert training.labels is not None
    tamed, labels = lhact(training.features.numpy(), low, high), training.labels.numpy()
    means = np.stack([tamed[labels == c].mean(0) for c in range(5)])
    similarity = np.mean([means[c] * means[d] for c, d in permutations(range(5), 2)], axis=0)
    badness = alpha * similarity - (1 - alpha) * means.var(0, ddof=1)
    kept = np.isin(np.arange(24), np.argsort(badness)[:channels])
    ddcs = DDCS(alpha, channels, low, high).fit(training, head)
    np.testing.assert_array_equal(ddcs.kept, kept)
    logits = (lhact(new.features.numpy(), low, high) * kept) @ head.weight.numpy().T
    expected = -logsumexp(logits + head.bias.numpy(), axis=1)
    np.testing.assert_allclose(ddcs.score(new), expected, rtol=1e-12)


def test_bounds_are_learned_as_quantiles_unless_given(
    training: Activations, head: LinearHead
) -> None:
    shifted = Activations.from_features(training.features + 0.5 * torch.rand(400, 24), head)
    shifted = Activations(shifted.features, shifted.logits, training.labels)
    features = shifted.features.numpy()
    low, high = np.quantile(features, [0.2, 0.9], method="inverted_cdf")
    bin_width = (features.max() - features.min()) / 2**18
    np.testing.assert_allclose(DDCS().fit(shifted, head).bounds, [low, high], atol=bin_width)
    only_high = DDCS(high=2.0).fit(shifted, head).bounds
    np.testing.assert_allclose(only_high, [low, 2.0], atol=bin_width)


def test_the_default_keeps_the_authors_share(training: Activations, head: LinearHead) -> None:
    assert DDCS().fit(training, head).kept.sum() == 19  # floor(24 * 1050 / 1280)
    single = LinearHead(torch.tensor([[1.0], [-1.0]]))
    data = Activations.from_features(torch.rand(6, 1), single, torch.arange(6) % 2)
    assert DDCS().fit(data, single).kept.sum() == 1


def test_features_almost_all_zero_are_not_damped(head: LinearHead) -> None:
    features = torch.zeros(40, 24, dtype=torch.float64)
    features[:, 3] = 2.0
    data = Activations.from_features(features, head, torch.arange(40) % 5)
    ddcs = DDCS(channels=24).fit(data, head)
    assert ddcs.bounds[1] == 0
    torch.testing.assert_close(
        ddcs.score(data), -data.logits.logsumexp(dim=1), rtol=1e-3, atol=1e-3
    )


def test_impossible_settings_are_refused(training: Activations, head: LinearHead) -> None:
    with pytest.raises(InvalidInput, match="low must be below high=1.0, got 2.0"):
        DDCS(low=2.0, high=1.0)
    with pytest.raises(InvalidInput, match="at most the 24 features, got 25"):
        DDCS(channels=25).fit(training, head)
    one = LinearHead(head.weight[:1])
    data = Activations.from_features(training.features, one, torch.zeros(400).long())
    with pytest.raises(InvalidInput, match="at least two, got 1"):
        DDCS().fit(data, one)
