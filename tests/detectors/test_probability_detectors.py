"""GEN, KL matching, GradNorm and the feature norm, written out naively or by autograd."""

import math

import numpy as np
import pytest
import torch
from mpmath import mp  # type: ignore[import-untyped]
from scipy.special import softmax
from scipy.stats import entropy

from neroli import Activations, LinearHead
from neroli.detectors import GEN, FeatureNorm, GradNorm, KLMatching

pytestmark = pytest.mark.filterwarnings("ignore:.*have fewer than 10")


@pytest.mark.parametrize(("gamma", "top"), [(0.1, 100), (0.5, 3), (1.0, 1)])
def test_gen_equals_its_sum(new: Activations, gamma: float, top: int) -> None:
    p = -np.sort(-softmax(new.logits.numpy(), axis=1), axis=1)[:, :top]
    expected = (p**gamma * (1 - p) ** gamma).sum(axis=1)
    np.testing.assert_allclose(GEN(gamma, top).score(new), expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gen_of_confident_images_is_exact(dtype: torch.dtype) -> None:
    """1 - p of the top class, 1e-13 in the first row, rounds to zero in float32; yet it counts."""
    logits = [[30.0, 0.0, -2.0], [200.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    with mp.workdps(150):
        expected = []
        for row in logits:
            total = sum(mp.exp(z) for z in row)
            p = [mp.exp(z) / total for z in row]
            expected.append(float(sum((q * (1 - q)) ** mp.mpf("0.1") for q in p)))
    scores = GEN().score(Activations(torch.ones(3, 2, dtype=dtype), torch.tensor(logits).to(dtype)))
    np.testing.assert_allclose(scores, expected, rtol=1e-5 if dtype == torch.float32 else 1e-13)
    extreme = Activations(torch.ones(1, 2, dtype=dtype), torch.tensor([[1e5, -1e5]]).to(dtype))
    assert GEN().score(extreme).item() == 0


def test_kl_matching_equals_scipy(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    p = softmax(training.logits.numpy(), axis=1)
    means = [p[p.argmax(1) == c].mean(axis=0) for c in range(5)]
    expected = [min(entropy(q, m) for m in means) for q in softmax(new.logits.numpy(), axis=1)]
    actual = KLMatching().fit(training, head).score(new)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-13)


def test_kl_matching_of_a_class_never_predicted_is_to_its_one_hot() -> None:
    head = LinearHead(torch.eye(3, dtype=torch.float64))
    rows = torch.tensor([[2.0, 0.0, -5.0], [0.0, 2.0, -5.0]], dtype=torch.float64)
    detector = KLMatching().fit(Activations.from_features(rows, head), head)
    assert torch.isfinite(detector.log_means).all()
    third = torch.tensor([[-1e3, -1e3, 1e3]], dtype=torch.float64)
    assert detector.score(Activations.from_features(third, head)).item() == pytest.approx(0)
    assert detector.score(Activations.from_features(rows, head)).tolist() == pytest.approx([0, 0])


def test_kl_matching_survives_probabilities_of_zero() -> None:
    head = LinearHead(torch.eye(2, dtype=torch.float64) * 1e4)
    rows = torch.eye(2, dtype=torch.float64)
    detector = KLMatching().fit(Activations.from_features(rows, head), head)
    between = Activations.from_features(torch.ones(1, 2, dtype=torch.float64), head)
    log_tiny = math.log(torch.finfo(torch.float64).tiny)
    assert detector.score(between).item() == pytest.approx(-math.log(2) - log_tiny / 2)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_grad_norm_equals_autograd(new: Activations, head: LinearHead, temperature: float) -> None:
    weight = head.weight.clone().requires_grad_()
    expected = []
    for features in new.features[:20]:
        logits = (weight @ features + head.bias) / temperature
        loss = -logits.log_softmax(dim=0).sum()
        (gradient,) = torch.autograd.grad(loss, weight)
        expected.append(-gradient.abs().sum())
    actual = GradNorm(temperature).score(new[:20])
    torch.testing.assert_close(actual, torch.stack(expected), rtol=1e-12, atol=0)


def test_feature_norm_of_three_four_is_five() -> None:
    batch = Activations(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.zeros(2, 2))
    assert FeatureNorm().score(batch).tolist() == [-5, 0]
