"""Shares of neurons: their sum is the score, and they are those of the formula taken apart."""

import numpy as np
import pytest
import torch

from batteries import EVERY, create, equipped
from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.detectors import (
    NERO,
    CADRef,
    Energy,
    LINe,
    RelevanceDeficit,
    RelevanceDeviation,
)
from neroli.errors import InvalidInput, NotFitted
from neroli.relevance import relevance

KNOWN = {
    *("nero", "line", "relevance_deviation", "relevance_deficit", "cadref", "caref", "energy"),
    *("react", "dice", "mahalanobis", "relative_mahalanobis", "residual", "vim", "ensemble"),
    "views",
}


@EVERY
def test_shares_sum_to_the_score_or_are_said_to_be_unknown(name: str, head: LinearHead) -> None:
    fitted = create(name).fit(equipped(random_activations(head, 400), name), head)
    new = equipped(random_activations(head, 60, seed=7, shift=0.3), name)
    if name not in KNOWN:
        with pytest.raises(InvalidInput, match="not known as a sum over neurons"):
            fitted.shares(new)
        return
    shares = fitted.shares(new)
    assert shares.neurons.shape == (60, 24)
    torch.testing.assert_close(shares.score, fitted.score(new), rtol=1e-10, atol=1e-12)
    assert bool(shares.rest_is) or not shares.rest.any()


@pytest.mark.parametrize("bias_term", [True, False])
@pytest.mark.parametrize("low_relevance_norm", [True, False])
def test_nero_by_finite_changes_of_one_relevance(
    training: Activations,
    new: Activations,
    head: LinearHead,
    bias_term: bool,
    low_relevance_norm: bool,
) -> None:
    """The distance is linear in a neuron's relevance as long as no projected difference changes its
    sign, so its share is the slope times the difference from usual."""
    nero = NERO(bias_term=bias_term, low_relevance_norm=low_relevance_norm).fit(training, head)
    shares = nero.shares(new)
    neurons, _ = relevance(new, head)
    directions, centroids = nero.directions.numpy(), nero.centroids.numpy()
    for i in range(5):
        r = neurons[i].numpy()

        def distance(values: np.ndarray, c: int) -> float:
            projected = directions @ (values - nero.centre.numpy())
            return float(np.abs(projected - centroids[c]).sum())

        nearest = int(np.argmin([distance(r, c) for c in range(5)]))
        usual = nero.centre.numpy() + centroids[nearest] @ directions
        steps = [distance(r + step, nearest) for step in 1e-9 * np.eye(24)]
        slopes = (np.array(steps) - distance(r, nearest)) / 1e-9
        total = float(shares.neurons[i].sum())
        factor = total / distance(r, nearest)
        assert low_relevance_norm or factor == pytest.approx(1)
        np.testing.assert_allclose(
            shares.neurons[i], factor * slopes * (r - usual), rtol=1e-4, atol=1e-5 * abs(total)
        )


def test_line_in_loops(training: Activations, new: Activations, head: LinearHead) -> None:
    line = LINe().fit(training, head)
    shares, weight, bias = line.shares(new), head.weight.numpy(), head.bias.numpy()
    for i in range(4):
        clipped = np.minimum(new.features[i].numpy(), float(line.threshold))
        c = int(np.argmax(weight @ clipped + bias))
        kept = np.where(line.rank.numpy() < line.kept[c].numpy(), weight, 0)
        z = kept @ clipped + bias
        p = np.exp(z) / np.exp(z).sum()
        expected = [-sum(p[k] * kept[k, j] * clipped[j] for k in range(5)) for j in range(24)]
        np.testing.assert_allclose(shares.neurons[i], expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(shares.rest[i], (p * np.log(p)).sum(), rtol=1e-9)


def test_patterns_share_by_their_summands(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    means = np.stack([training.features[training.predictions == c].mean(0) for c in range(5)])
    rows, c = new.features.numpy(), new.predictions.numpy()
    weight = head.weight.numpy()[c]
    change = weight * (rows - means[c])
    total = np.abs(weight * rows).sum(axis=1, keepdims=True)
    deviation = RelevanceDeviation().fit(training, head).shares(new)
    np.testing.assert_allclose(deviation.neurons, np.abs(change) / total, rtol=1e-9)
    deficit = RelevanceDeficit().fit(training, head).shares(new)
    np.testing.assert_allclose(deficit.neurons, np.maximum(-change, 0) / total, rtol=1e-9)
    effect = (rows - means[c]) * np.sign(weight) / np.abs(rows).sum(axis=1, keepdims=True)
    energy = np.log(np.exp(new.logits.numpy()).sum(axis=1, keepdims=True))
    usual = np.log(np.exp(training.logits.numpy()).sum(axis=1)).mean()
    cadref = CADRef().fit(training, head).shares(new)
    expected = np.maximum(effect, 0) / energy + np.maximum(-effect, 0) / usual
    np.testing.assert_allclose(cadref.neurons, expected, rtol=1e-9)


def test_an_image_without_relevance_has_all_its_score_in_the_rest(
    training: Activations, head: LinearHead
) -> None:
    silent = Activations.from_features(torch.zeros(2, 24, dtype=torch.float64), head)
    shares = RelevanceDeviation().fit(training, head).shares(silent)
    assert not shares.neurons.any()
    assert torch.equal(shares.score, RelevanceDeviation().fit(training, head).score(silent))


def test_the_energy_needs_to_be_fitted_to_know_its_head(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    with pytest.raises(NotFitted):
        Energy().shares(new)
    shares = Energy(temperature=2.0).fit(training, head).shares(new)
    torch.testing.assert_close(shares.score, -2 * (new.logits / 2).logsumexp(dim=1))
