"""NERO and LINe against the authors' own programs, on features of the CIFAR-10 DenseNet."""

import numpy as np
import pytest
import torch

from neroli import Activations, LinearHead, fit
from neroli.detectors import NERO, LINe
from neroli.relevance import relevance

pytestmark = pytest.mark.realdata

LINE_SETTINGS = {"90_90_1.0": (90, 90, 1.0), "10_10_1.0": (10, 10, 1.0), "90_10_0.8": (90, 10, 0.8)}


@pytest.fixture(params=[torch.float64, torch.float32], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def activations(
    golden: dict[str, np.ndarray], part: str, head: LinearHead, dtype: torch.dtype
) -> Activations:
    labels = golden["train_labels"] if part == "train" else None
    features = torch.from_numpy(golden[f"{part}_features"]).to(dtype)
    return Activations.from_features(features, head, labels)


def test_nero_and_line_reproduce_the_authors_scores(
    golden: dict[str, np.ndarray], golden_head: LinearHead, dtype: torch.dtype
) -> None:
    lines = [LINe(*setting) for setting in LINE_SETTINGS.values()]
    training = activations(golden, "train", golden_head, dtype)
    nero, *lines = fit([NERO(low_relevance_neurons=175), *lines], training, golden_head)
    for part in ("id", "ood"):
        batch = activations(golden, part, golden_head, dtype)
        np.testing.assert_allclose(nero.score(batch), golden[f"nero_{part}"], rtol=2e-4)
        for line, name in zip(lines, LINE_SETTINGS, strict=True):
            expected = golden[f"line_{name}_{part}"]
            np.testing.assert_allclose(line.score(batch), expected, rtol=0, atol=1e-4)


def test_relevance_reproduces_the_authors(
    golden: dict[str, np.ndarray], golden_head: LinearHead
) -> None:
    batch = activations(golden, "id", golden_head, torch.float64)
    neurons, bias = relevance(batch, golden_head)
    expected = golden["nero_relevance_id"]
    scale = np.abs(expected).max(axis=1, keepdims=True)  # float32 rounding is of the row's size
    np.testing.assert_allclose(neurons.numpy() / scale, expected / scale, rtol=0, atol=2e-4)
    assert np.median(np.abs(neurons.numpy() - expected) / np.abs(expected).clip(1e-12)) < 2e-4
    np.testing.assert_allclose(bias, golden["nero_bias_relevance_id"], rtol=2e-4, atol=1e-6)


def test_the_default_number_of_neurons_is_the_authors(
    golden: dict[str, np.ndarray], golden_head: LinearHead
) -> None:
    training = activations(golden, "train", golden_head, torch.float64)
    batch = activations(golden, "ood", golden_head, torch.float64)
    scores = NERO().fit(training, golden_head).score(batch)
    np.testing.assert_allclose(scores, golden["nero_ood"], rtol=2e-4)


def test_class_centroids_are_those_of_the_true_labels(
    golden: dict[str, np.ndarray], golden_head: LinearHead, altered: dict[str, np.ndarray]
) -> None:
    """With every seventh label changed, true and predicted classes differ."""
    features = torch.from_numpy(golden["train_features"]).double()
    training = Activations.from_features(features, golden_head, altered["train_labels"])
    nero, line = fit([NERO(), LINe(90, 90, 1.0)], training, golden_head)
    batch = activations(golden, "id", golden_head, torch.float64)
    np.testing.assert_allclose(nero.score(batch), altered["NERO_id"], rtol=2e-4)
    np.testing.assert_allclose(line.score(batch), altered["LINe_90_90_1.0_id"], atol=1e-4)
