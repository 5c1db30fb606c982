"""WeiPer+KLD against histograms of NumPy, one image at a time."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.detectors import WeiPerKLD, create, weiper_kld
from neroli.detectors.weiper_kld import perturbed_weights
from neroli.errors import InvalidInput


def divergence(usual: np.ndarray, one: np.ndarray, width: int, floor: float) -> float:
    left = (width - 1) // 2
    padded = np.pad(one, (left, width - 1 - left), mode="edge")
    smooth = np.convolve(padded, np.ones(width) / width, mode="valid") + floor
    smooth, expected = smooth / smooth.sum(), (usual + floor) / (usual + floor).sum()
    return float(np.sum((expected - smooth) * np.log(expected / smooth)))


def naive(
    training: Activations, batch: Activations, head: LinearHead, settings: WeiPerKLD
) -> np.ndarray:
    s = settings
    heads = perturbed_weights(head, s.r, s.delta, s.seed).numpy()
    bias = np.tile(head.bias.numpy(), s.r)

    def histogram(values: np.ndarray, low: float, high: float) -> np.ndarray:
        return np.histogram(values, s.bins, (low, high + 1e-8))[0] / len(values)

    def quantities(data: Activations) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(a, heads @ a + bias) for a in data.features.numpy()]

    known = list(zip(*quantities(training), strict=True))
    ranges = [(np.min(rows), np.max(rows)) for rows in known]
    usual = [
        np.mean([histogram(row, *limits) for row in rows], axis=0)
        for rows, limits in zip(known, ranges, strict=True)
    ]
    scores = []
    for features, logits in quantities(batch):
        one = divergence(usual[0], histogram(features, *ranges[0]), s.smoothing_features, 0.01)
        two = divergence(usual[1], histogram(logits, *ranges[1]), s.smoothing_logits, 0.025)
        confidence = softmax(logits.reshape(s.r, -1), axis=1).max(axis=1).mean()
        scores.append(one + s.lambda_1 * two - s.lambda_2 * confidence)
    return np.array(scores)


@pytest.mark.parametrize(
    "settings", [WeiPerKLD(r=7), WeiPerKLD(5, 2.4, 30, 0.1, 1.0, 7, 40, 3), WeiPerKLD(r=1, bins=2)]
)
@pytest.mark.parametrize("chunk", [1, 2**22])
def test_equals_the_definition(
    training: Activations,
    new: Activations,
    head: LinearHead,
    settings: WeiPerKLD,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weiper_kld, "_CHUNK", chunk)
    scores = settings.fit(training, head).score(new)
    np.testing.assert_allclose(scores, naive(training, new, head, settings), rtol=1e-10)


def test_perturbations_have_the_size_of_delta_and_the_seed(head: LinearHead) -> None:
    weight = perturbed_weights(head, 6, 1.8, seed=1).reshape(6, 5, 24)
    change = (weight - head.weight).norm(dim=2) / head.weight.norm(dim=1)
    torch.testing.assert_close(change, torch.full_like(change, 1.8))
    assert torch.equal(weight.flatten(0, 1), perturbed_weights(head, 6, 1.8, seed=1))
    assert not torch.equal(weight.flatten(0, 1), perturbed_weights(head, 6, 1.8, seed=2))
    assert torch.equal(weight[:3].flatten(0, 1), perturbed_weights(head, 3, 1.8, seed=1))


def test_many_weights_are_drawn_again_instead_of_saved(
    training: Activations, new: Activations, head: LinearHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = WeiPerKLD().fit(training, head)
    monkeypatch.setattr(weiper_kld, "_SAVED", 100)
    drawn = WeiPerKLD().fit(training, head)
    assert saved.state()["perturbed"].shape == (500, 24)
    assert drawn.state()["perturbed"].shape == (0, 24)
    restored = create("weiper_kld").load_state(drawn.state())
    assert torch.equal(restored.score(new), saved.score(new))


def test_given_perturbations_are_part_of_the_state(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    weight = perturbed_weights(head, 4, 1.0, seed=9)
    given = WeiPerKLD(r=4).use_perturbed(weight).fit(training, head)
    drawn = WeiPerKLD(r=4, delta=1.0, seed=9).fit(training, head)
    assert torch.equal(given.score(new), drawn.score(new))
    restored = WeiPerKLD(r=4).load_state(given.state())
    assert torch.equal(restored.score(new), given.score(new))
    with pytest.raises(InvalidInput, match=r"of 5 perturbed heads must have shape \[25, 24\]"):
        WeiPerKLD(r=5).use_perturbed(weight).fit(training, head)


def test_constant_features_two_classes_and_values_out_of_range(head: LinearHead) -> None:
    two = LinearHead(head.weight[:2].float(), head.bias[:2].float())
    same = Activations.from_features(torch.full((6, 24), 3e5), two)
    weiper = WeiPerKLD(r=3).fit(same, two)
    inside = weiper.score(same)
    outside = weiper.score(Activations.from_features(torch.full((1, 24), 9e5), two))
    assert inside.isfinite().all() and outside > inside[0]
    assert WeiPerKLD(r=3).fit(random_activations(two, 4), two).score(same).isfinite().all()
