"""LINe against the paper's masks written out in full, its contributions against autograd."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.detectors import LINe
from neroli.errors import InvalidInput


def naive(
    training: Activations,
    batch: Activations,
    head: LinearHead,
    weight_percentile: float,
    activation_percentile: float,
    clip: float,
) -> np.ndarray:
    """The score as the authors' program computes it, with one C x D weight mask for each class."""
    weight, bias = head.weight.numpy(), head.bias.numpy()
    assert training.labels is not None
    contribution = np.stack(
        [training.features[training.labels == c].mean(0).numpy() * w for c, w in enumerate(weight)]
    )
    scores = []
    for features in batch.features.numpy():
        clipped = np.minimum(features, clip)
        c = (weight @ clipped + bias).argmax()
        neurons = contribution[c] > np.percentile(contribution[c], activation_percentile)
        weighted = np.abs(contribution[c]) * weight
        mask = weighted > np.percentile(weighted, weight_percentile)
        logits = (weight * mask) @ (clipped * neurons) + bias
        scores.append(-logsumexp(logits))
    return np.array(scores)


@pytest.mark.parametrize("setting", [*LINe.published_settings.values(), (0.0, 50.0, 2.0)])
def test_equals_the_full_masks(
    training: Activations,
    new: Activations,
    head: LinearHead,
    setting: tuple[float, float, float],
) -> None:
    line = LINe(*setting).fit(training, head)
    expected = naive(training, new, head, *setting)
    np.testing.assert_allclose(line.score(new), expected, rtol=1e-12)


def test_ties_in_the_weights_are_kept_or_removed_together(training: Activations) -> None:
    draw = torch.Generator().manual_seed(0)
    coarse = torch.randint(-2, 3, (5, 24), generator=draw).double()
    head = LinearHead(coarse, torch.zeros(5, dtype=torch.float64))
    data = random_activations(head, 200)
    for percentile in (10.0, 50.0, 90.0):
        line = LINe(percentile, 10.0, 1.0).fit(data, head)
        expected = naive(data, training, head, percentile, 10.0, 1.0)
        actual = line.score(Activations.from_features(training.features, head))
        np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_contribution_is_the_taylor_score_of_the_paper(
    training: Activations, head: LinearHead
) -> None:
    """Mean over a class's images of activation x gradient of its logit, by autograd."""
    features = training.features.clone().requires_grad_()
    assert training.labels is not None
    head(features).gather(1, training.labels[:, None]).sum().backward()
    assert features.grad is not None
    taylor = (features * features.grad).detach()
    for c in range(head.num_classes):
        rows = training.labels == c
        closed = training.features[rows].mean(0) * head.weight[c]
        torch.testing.assert_close(taylor[rows].mean(0), closed)


def test_clip_is_learned_as_the_95_percent_quantile(
    training: Activations, head: LinearHead
) -> None:
    line = LINe().fit(training, head)
    expected = np.quantile(training.features.numpy(), 0.95)
    assert line.threshold.item() == pytest.approx(expected, rel=1e-3)
    explicit = LINe(clip=line.threshold.item()).fit(training, head)
    torch.testing.assert_close(explicit.score(training), line.score(training))


def test_published_settings_by_data_set() -> None:
    line = LINe.published("imagenet")
    assert (line.weight_percentile, line.activation_percentile, line.clip) == (10, 10, 0.8)
    with pytest.raises(InvalidInput, match="only for cifar10, cifar100, imagenet"):
        LINe.published("mnist")


def test_no_state_has_a_row_for_every_pair_of_classes(
    training: Activations, head: LinearHead
) -> None:
    state = LINe().fit(training, head).state()
    assert all(tensor.numel() <= head.weight.numel() for tensor in state.values())


@pytest.mark.parametrize(
    "settings", [{"weight_percentile": 101.0}, {"activation_percentile": -1.0}, {"clip": 0.0}]
)
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(settings))):
        LINe(**settings)


def test_a_network_of_one_feature_is_scored_and_explained() -> None:
    head = LinearHead(torch.tensor([[1.0], [-1.0], [0.5]]), torch.zeros(3))
    training = random_activations(head, 60)
    line = LINe().fit(training, head)
    torch.testing.assert_close(line.shares(training).score, line.score(training))
