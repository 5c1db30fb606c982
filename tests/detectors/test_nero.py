"""NERO against a naive re-implementation with scikit-learn's PCA."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.detectors import NERO
from neroli.errors import InvalidInput, NotEnoughImages
from neroli.relevance import relevance


def naive(
    training: Activations, batch: Activations, head: LinearHead, neurons: int, components: int
) -> np.ndarray:
    """The score as the authors' program computes it, image by image."""
    r, bias = (part.numpy() for part in relevance(training, head))
    assert training.labels is not None
    labels = training.labels.numpy()
    pca = PCA(components, svd_solver="full").fit(r)
    classes = range(head.num_classes)
    centroids = [pca.transform(r)[labels == c].mean(0) for c in classes]
    raw = np.column_stack([r, bias])
    raw_centroids = [raw[labels == c].mean(0) for c in classes]
    nearest = [min(np.abs(row - c).sum() for c in raw_centroids) for row in raw]
    weight = np.mean(nearest) / np.mean(np.abs(bias))
    scores = []
    for a, r_new, bias_new in zip(batch.features.numpy(), *relevance(batch, head), strict=True):
        projected = pca.transform(r_new.numpy()[None])[0]
        distance = min(np.abs(projected - c).sum() for c in centroids)
        lowest = np.argsort(r_new.numpy(), kind="stable")[:neurons]
        share = np.abs(a[lowest]).sum() / np.abs(a).sum()
        scores.append((distance + weight * abs(bias_new.item())) * share)
    return np.array(scores)


@pytest.mark.parametrize(("neurons", "components"), [(None, None), (5, 11), (24, 24)])
def test_equals_the_naive_form(
    training: Activations,
    new: Activations,
    head: LinearHead,
    neurons: int | None,
    components: int | None,
) -> None:
    nero = NERO(low_relevance_neurons=neurons, components=components).fit(training, head)
    expected = naive(training, new, head, neurons or int(0.34 * 24), components or 2 * 24 // 3)
    np.testing.assert_allclose(nero.score(new), expected, rtol=1e-8)


def test_each_refinement_can_be_switched_off(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    def score(**settings: bool) -> torch.Tensor:
        return NERO(**settings).fit(training, head).score(new)

    bare = score(bias_term=False, low_relevance_norm=False)
    with_norm = score(bias_term=False)
    with_bias = score(low_relevance_norm=False)
    share = with_norm / bare
    assert ((share > 0) & (share < 1)).all()
    torch.testing.assert_close(score(), with_bias * share)
    fitted = NERO(low_relevance_norm=False).fit(training, head)
    _, bias = relevance(new, head)
    torch.testing.assert_close(with_bias - bare, fitted.bias_weight * bias.abs())


@pytest.mark.parametrize(("size", "expected"), [(2048, 175), (256, 175), (255, 86), (64, 21)])
def test_default_number_of_low_relevance_neurons(size: int, expected: int) -> None:
    assert NERO()._low_relevance_neurons(size) == expected


def test_dead_neurons_do_not_make_the_score_arbitrary(head: LinearHead) -> None:
    """With fewer varying directions than components, shards in another order score the same."""
    training = random_activations(head, 400)
    features = training.features.clone()
    features[:, :14] = 0
    training = Activations.from_features(features, head, training.labels)
    new = random_activations(head, 50, seed=3)
    nero = NERO().fit(training, head)
    assert len(nero.directions) < 16
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    assert training.labels is not None
    shuffled = Activations.from_features(features[order], head, training.labels[order])
    again = NERO().fit(shuffled, head)
    torch.testing.assert_close(again.score(new), nero.score(new), rtol=1e-7, atol=0)


def test_an_image_without_active_neurons_gets_a_finite_score(
    training: Activations, head: LinearHead
) -> None:
    silent = Activations.from_features(torch.zeros(2, 24, dtype=torch.float64), head)
    assert torch.isfinite(NERO().fit(training, head).score(silent)).all()


@pytest.mark.parametrize("scale", [1e-36, 1e-38, 1e-40])
def test_vanishing_features_get_a_finite_score(scale: float) -> None:
    """With tiny logits, softmax / logit would overflow in float32."""
    draw = torch.Generator().manual_seed(0)
    head = LinearHead(torch.randn(5, 24, generator=draw))
    nero = NERO().fit(random_activations(head, 200), head)
    batch = Activations.from_features(torch.rand(50, 24, generator=draw) * scale, head)
    assert torch.isfinite(nero.score(batch)).all()


def test_a_head_without_bias_has_no_bias_term(head: LinearHead) -> None:
    unbiased = LinearHead(head.weight)
    training = random_activations(unbiased, 200)
    assert NERO().fit(training, unbiased).bias_weight == 0


def test_the_bias_weight_of_many_images_is_learned_from_a_sample_of_them(
    head: LinearHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = random_activations(head, 3000)
    exact = NERO().fit(many, head).bias_weight
    monkeypatch.setattr("neroli.detectors.nero._SAMPLE", 500)
    estimate = NERO().fit(many, head).bias_weight
    assert estimate != exact
    torch.testing.assert_close(estimate, exact, rtol=0.1, atol=0)
    torch.testing.assert_close(
        NERO().fit(many.select(torch.arange(len(many)).flip(0)), head).bias_weight, estimate
    )


def test_impossible_settings_are_refused(training: Activations, head: LinearHead) -> None:
    with pytest.raises(InvalidInput, match="low_relevance_neurons is 175.*24 features"):
        NERO(low_relevance_neurons=175).fit(training, head)
    with pytest.raises(InvalidInput, match="components must be at least 1"):
        NERO(components=0)
    with pytest.raises(NotEnoughImages, match="16 principal components.*got 10"):
        NERO().fit(training[:10], head)
